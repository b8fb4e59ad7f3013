"""Looks up where the server is, over each link by itself, and tells the machine.

What to ask, when, and what answers mean is decided by `core.lookups`; how is the adapters'. The
machine is told at once of whatever is known, and never waits; what was answered is remembered
for starts without a network.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

from orchestrator.adapters.dns import NoAnswer, ask
from orchestrator.adapters.outside import opened
from orchestrator.adapters.resolvers import resolvers_of
from orchestrator.core.lookups import Answer, Lookups, Question
from orchestrator.core.network import Snapshot
from orchestrator.core.paths import Servers
from orchestrator.core.quantities import Instant, IPAddress, Seconds
from orchestrator.services.journal import Journal
from orchestrator.services.memory import Memory
from orchestrator.services.tasks import Tasks

AT_ONCE: Final = 16
"""Questions under way; the others wait. Each takes a socket for some seconds at most."""


TRIES: Final = (Seconds(0.5), Seconds(1.0), Seconds(2.0), Seconds(3.0))
"""How long each is waited for. A packet may be lost, a mobile network's radio may have to wake
up; and whoever configures the link may name its resolvers a moment after the address: they are
read anew each time."""


async def ask_over(question: Question) -> Answer | None:
    """What the resolvers of the link's network say; None: nothing."""
    topic = question.topic
    for limit in TRIES:
        pause = asyncio.ensure_future(asyncio.sleep(limit))
        try:
            found = await resolvers_of(question.link, question.link_name)
            open_at = partial(opened, socket.SOCK_DGRAM, question.link_name)
            return await ask(topic.name, topic.version, found, open_at, question.pops, limit)
        except NoAnswer:
            await pause
        finally:
            pause.cancel()
    return None


class Names:
    """Runs beside an endpoint's driver."""

    def __init__(
        self,
        lookups: Lookups,
        tell: Callable[[Servers], None],
        works: Callable[[], bool],
        now: Callable[[], Instant],
        memory: Memory,
        journal: Journal,
        ask: Callable[[Question], Awaitable[Answer | None]] = ask_over,
    ) -> None:
        """`works`: whether the server is reached in some way."""
        self._lookups = lookups
        self._tell = tell
        self._works = works
        self._now = now
        self._memory = memory
        self._journal = journal
        self._ask = ask
        self._told = lookups.servers
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._tasks = Tasks()
        self._changed = asyncio.Event()

    def network(self, snapshot: Snapshot, vips: Iterable[IPAddress]) -> None:
        """What the device's networks are now."""
        self._lookups.network(snapshot, vips, self._now())
        self._tell_what_changed()
        self._changed.set()

    def look_again(self) -> None:
        """The server is not reached any more: what is known is doubted sooner."""
        self._changed.set()

    async def run(self) -> None:
        async with self._tasks as tasks:
            while True:
                self._changed.clear()
                for question in self._lookups.begin(self._now(), works=self._works()):
                    topic = question.topic
                    what = f"{topic.name} IPv{topic.version} over {question.link_name}"
                    tasks.begin(self._look_up(question), what)
                await self._until_something_is_due()

    async def _until_something_is_due(self) -> None:
        due = self._lookups.deadline(works=self._works())
        try:
            async with asyncio.timeout(None if due is None else max(due - self._now(), 0.0)):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _look_up(self, question: Question) -> None:
        async with self._turn:
            answer = await self._ask(question)
        self._journal.count("lookup-unanswered" if answer is None else "lookup-answered")
        self._lookups.answered(question, answer, self._now())
        self._memory.keep_names(self._lookups.remembered)
        self._tell_what_changed()
        self._changed.set()

    def _tell_what_changed(self) -> None:
        known = self._lookups.servers
        if known != self._told:
            self._told = known
            self._tell(known)
