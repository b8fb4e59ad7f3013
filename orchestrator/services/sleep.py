"""Tells the endpoint's machine that the device goes to sleep, and that it woke.

The first comes from logind, if there is one, which waits until the server was told
(`adapters.logind`); the second from the kernel (`adapters.clock.wakes`), and from logind too,
whichever speaks first. After it the network is read anew.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

from orchestrator.adapters.logind import Logind, LogindError, connected
from orchestrator.core.mobility_events import Event, FallsAsleep, NetworkChanged, Woke
from orchestrator.core.network import Snapshot
from orchestrator.core.quantities import Seconds
from orchestrator.services.journal import Journal

NOTICE: Final = 1.0
"""Seconds that a sleep is delayed at most. A probe that is lost is repeated after 0.3 s; logind
would wait for five."""
LOGIND_PAUSE: Final = 60.0
"""Seconds between two looks for a logind where there was none, or where it went away."""

_LOG: Final = logging.getLogger("orchestrator")


class Sleep:
    """Runs beside an endpoint's driver."""

    def __init__(
        self,
        post: Callable[[Event], None],
        age: Callable[[Seconds], None],
        snapshot: Callable[[], Awaitable[Snapshot]],
        wakes: Callable[[], AsyncGenerator[Seconds, None]],
        journal: Journal,
    ) -> None:
        self._post = post
        self._age = age
        self._snapshot = snapshot
        self._wakes = wakes
        self._journal = journal
        self._falling_asleep = False
        self._may_sleep = asyncio.Event()
        self._said_absent = False

    def may_sleep(self) -> None:
        """The server was told, or nobody can tell it."""
        self._may_sleep.set()

    async def watch_clock(self) -> None:
        async with aclosing(self._wakes()) as wakes:
            async for slept in wakes:
                await self._woke(slept)

    async def watch_logind(self) -> None:
        """Without one, a sleep is only noticed afterwards."""
        while True:
            try:
                async with connected() as logind:
                    self._said_absent = False
                    await self._follow(logind)
            except LogindError as error:
                if not self._said_absent:
                    _LOG.debug("the server is not told before a sleep: %s", error)
                self._said_absent = True
            await asyncio.sleep(LOGIND_PAUSE)

    async def _follow(self, logind: Logind) -> None:
        await logind.delay()
        async for begins in logind.sleeps():
            if begins:
                await self._say_good_night()
                logind.let_go()
            else:
                if self._falling_asleep:
                    await self._woke(Seconds(0.0))
                await logind.delay()

    async def _say_good_night(self) -> None:
        self._may_sleep.clear()
        self._falling_asleep = True
        self._post(FallsAsleep())
        try:
            async with asyncio.timeout(NOTICE):
                await self._may_sleep.wait()
        except TimeoutError:
            self._journal.count("asleep-unanswered")

    async def _woke(self, slept: Seconds) -> None:
        """The machine first, which holds the traffic; then what the network is now. What is
        held already has aged."""
        self._falling_asleep = False
        self._age(slept)
        self._post(Woke(slept))
        self._journal.tell("woke", fields={"slept_s": round(slept, 1)})
        self._post(NetworkChanged(await self._snapshot()))
