"""Keeps the applications of an endpoint from giving their connections up while it is detached.

Their limits of patience are lifted (`adapters.applications`), and put back when their far ends
have answered again; and what they send then is paced. What the limits were is written down
below /run, so that the next daemon can put them back, should this one be killed; a reboot ends
all sockets, and the file with them.
"""

import asyncio
import contextlib
import json
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from orchestrator.adapters.applications import lift, restore, tcp_sockets, unpace
from orchestrator.core.quantities import IPAddress
from orchestrator.services.journal import Journal

GRACE: Final = 1.0
"""Seconds of an outage before anything is done: a roam is over by then."""
LOOK: Final = 2.0
"""Seconds between two looks for sockets that came since, or that may have their limits back."""
ANSWER: Final = 0.1
"""Seconds from the end of an outage to the first look: many round trips, of most paths."""
PACED_FOR: Final = 300.0
"""Seconds of an outage after which nobody is to pace: whoever takes an eighth of them for the
round trip (RFC 6298) waits for half a second between two segments of a window of 64."""
FILE: Final = "frozen.json"
"""Next to the control socket."""


def lifted_limits(record: Path) -> dict[int, int]:
    """What a daemon wrote down there: limits in ms, by inode. Empty if it cannot be read."""
    try:
        found = json.loads(record.read_text())
        return {int(inode): int(limit) for inode, limit in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


class Freezer:
    """One endpoint's; `run` does the work."""

    def __init__(
        self,
        record: Path,
        vips: Callable[[], Collection[IPAddress]],
        journal: Journal,
        paced_for: float = PACED_FOR,
    ) -> None:
        self._record = record
        self._paced_for = paced_for
        self._vips = vips
        self._journal = journal
        self._limits = lifted_limits(record)
        """What was lifted: the limits in ms, by inode."""
        self._outage = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def lifted(self) -> int:
        """Sockets whose limits are lifted."""
        return len(self._limits)

    def freeze(self) -> None:
        """The far ends cannot be reached."""
        if not self._outage.is_set():
            self._outage.set()
            self._changed.set()

    def thaw(self) -> None:
        """They can be reached again."""
        if self._outage.is_set():
            self._outage.clear()
            self._changed.set()

    async def run(self) -> None:
        while True:
            self._changed.clear()
            if self._outage.is_set():
                await self._stay_frozen()
            elif self._limits:
                if not await self._interrupted(ANSWER):
                    await self._restore()
                    await self._interrupted(LOOK)
            else:
                await self._interrupted(None)

    async def _stay_frozen(self) -> None:
        clock = asyncio.get_running_loop().time
        too_long = clock() + self._paced_for
        pause = GRACE
        while not await self._interrupted(pause):
            await self._lift()
            if clock() >= too_long:
                await asyncio.to_thread(unpace, set(self._limits))
                too_long = math.inf
            pause = LOOK

    async def _interrupted(self, seconds: float | None) -> bool:
        """Waits so long. Whether an outage began or ended meanwhile; it may have done both."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        return self._changed.is_set()

    async def _lift(self) -> None:
        found = await asyncio.to_thread(lambda: list(tcp_sockets(self._vips())))
        fresh = {sock.inode for sock in found if sock.inode} - self._limits.keys()
        if not fresh:
            return
        before = await asyncio.to_thread(lift, fresh)
        if before:
            self._limits |= before
            self._save()
            self._journal.tell("frozen", fields={"connections": len(self._limits)})

    async def _restore(self) -> None:
        waiting = await asyncio.to_thread(restore, dict(self._limits))
        if len(waiting) < len(self._limits):
            self._limits = {inode: self._limits[inode] for inode in waiting}
            self._save()
        if not self._limits:
            self._journal.tell("thawed")

    def _save(self) -> None:
        fresh = self._record.with_suffix(".new")
        try:
            fresh.write_text(json.dumps(self._limits))
            fresh.replace(self._record)
        except OSError as error:
            fields = {"detail": f"{self._record} cannot be written: {error.strerror}"}
            self._journal.tell("not-remembered", fields=fields, warning=True)
