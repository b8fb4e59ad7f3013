"""Notices that others touched what is ours in the kernel, and has it put right.

systemd-networkd removes rules that it does not know, NetworkManager flushes routes, and an
operator flushes policies or the firewall: the kernel tells us each time. Changes are collected
for a moment, since such programs work in bursts, and then only what was touched is read anew.
"""

import asyncio
from typing import Final

from orchestrator.adapters.nftables import NftablesChanges
from orchestrator.adapters.xfrm import Monitor, NewsLost
from orchestrator.core.errors import KernelError
from orchestrator.core.kernel import Policy
from orchestrator.services.journal import Journal
from orchestrator.services.reconciler import Aspect, Reconciler
from orchestrator.wire.netlink_xfrm import (
    Notification,
    PoliciesFlushed,
    PolicyGone,
    PolicyPut,
)

COLLECT: Final = 0.2
"""Seconds between the first foreign change and the look at it."""

AGAIN: Final = 2.0
"""Seconds until what could not be read, or was refused, is tried again; doubled each time."""
AGAIN_AT_MOST: Final = 30.0
SETTINGS_EVERY: Final = 2.0
"""Seconds; a look costs some system calls."""


class Repair:
    """Runs beside a daemon's driver."""

    def __init__(self, reconciler: Reconciler, journal: Journal) -> None:
        self._reconciler = reconciler
        self._journal = journal
        self._touched = Aspect(0)
        self._wake = asyncio.Event()
        reconciler.on_refusal = self._wake.set

    def touched(self, aspect: Aspect) -> None:
        """Somebody else changed something of this aspect."""
        self._touched |= aspect
        self._wake.set()

    def xfrm_news(self, news: Notification | NewsLost) -> None:
        """Looks whether a message about policies tells of somebody else's doing."""
        match news:
            case PolicyGone(Policy() as policy):
                if self._reconciler.expects_one_like(policy):
                    self.touched(Aspect.POLICIES)
            case PolicyPut(Policy() as policy):
                known = self._reconciler.expects_one_like(policy)
                if known and not self._reconciler.expects(policy):
                    self.touched(Aspect.POLICIES)
            case PoliciesFlushed() | NewsLost():
                self.touched(Aspect.POLICIES)
            case _:
                pass

    async def run(self) -> None:
        pause = AGAIN
        while True:
            refused = self._reconciler.refused
            if not refused:
                pause = AGAIN
            try:
                async with asyncio.timeout(pause if refused else None):
                    await self._wake.wait()
            except TimeoutError:
                pause = min(2 * pause, AGAIN_AT_MOST)
                self.touched(refused)
            self._wake.clear()
            if not self._touched:
                continue  # something was refused: it has its time
            await asyncio.sleep(COLLECT)
            self._wake.clear()
            touched, self._touched = self._touched, Aspect(0)
            await self._repair(touched)

    async def _repair(self, touched: Aspect) -> None:
        try:
            repaired = await self._reconciler.audit(touched)
        except KernelError as error:
            self._journal.tell("unaudited", fields={"detail": str(error)}, warning=True)
            self.touched(touched)
            await asyncio.sleep(AGAIN)
            return
        if repaired:
            fields = {"operations": len(repaired), "first": str(repaired[0].subject)}
            self._journal.tell("repaired", ("touched-by-others",), fields, warning=True)

    async def watch_settings(self) -> None:
        """Nobody tells of changes below /proc/sys."""
        while True:
            await asyncio.sleep(SETTINGS_EVERY)
            if self._reconciler.settings_differ():
                self.touched(Aspect.SETTINGS)

    async def watch_firewall(self) -> None:
        with NftablesChanges(self._reconciler.firewall_writer) as changes:
            while True:
                await changes.wait()
                self.touched(Aspect.FIREWALL)

    def watch_xfrm(self, monitor: Monitor) -> None:
        """The reader of a monitor that nobody else needs."""
        for news in monitor.read():
            self.xfrm_news(news)
