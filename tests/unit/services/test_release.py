"""Who returns together is one question to the worker; who returns meanwhile is the next."""

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from orchestrator.core.hold import HoldPolicy
from orchestrator.core.quantities import Instant, IPAddress
from orchestrator.services.hold import Holder
from orchestrator.services.journal import Journal
from orchestrator.services.release import AT_ONCE, Releaser
from orchestrator.wire.labels import Flow

PEER = ip_address("10.51.1.2").packed
TCP = 6


def vips(number: int) -> tuple[IPAddress, ...]:
    """Both of one session."""
    return ip_address("10.99.0.10") + number, ip_address("fd00:99::10") + number


class Worker:
    """Answers when it is told to; has one flow for each IPv4 address."""

    def __init__(self) -> None:
        self.asked: list[list[IPAddress]] = []
        self.answers = asyncio.Event()
        self.answers.set()

    async def resume(self, asked: Sequence[IPAddress]) -> frozenset[Flow]:
        self.asked.append(list(asked))
        await self.answers.wait()
        return frozenset(
            Flow(TCP, PEER, 80, vip.packed, 1025) for vip in asked if vip.version == 4
        )


def tell(story: Callable[[Releaser, Worker, Journal], object]) -> None:
    async def run() -> None:
        worker, journal = Worker(), Journal()
        holder = Holder(
            lambda header: header.destination,
            lambda _: True,
            lambda _: HoldPolicy(),
            lambda: Instant(0.0),
            journal,
        )
        releaser = Releaser(holder, worker.resume, lambda _: True, journal)
        running = asyncio.create_task(releaser.run())
        outcome = story(releaser, worker, journal)
        if asyncio.iscoroutine(outcome):
            await outcome
        running.cancel()

    asyncio.run(run())


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_those_who_return_together_are_asked_for_together() -> None:
    async def story(releaser: Releaser, worker: Worker, journal: Journal) -> None:
        for number in (2, 1, 2):
            releaser.returned(vips(number))
        await turns()
        assert worker.asked == [[*vips(2), *vips(1)]]
        assert journal.counters["released"] == 2

    tell(story)


def test_who_returns_meanwhile_is_next() -> None:
    async def story(releaser: Releaser, worker: Worker, _: Journal) -> None:
        worker.answers.clear()
        releaser.returned(vips(1))
        await turns()
        releaser.returned(vips(1))
        releaser.returned(vips(2))
        await turns()
        assert worker.asked == [[*vips(1)]]
        worker.answers.set()
        await turns()
        assert worker.asked[1:] == [[*vips(1), *vips(2)]]

    tell(story)


def test_a_crowd_is_divided() -> None:
    async def story(releaser: Releaser, worker: Worker, _: Journal) -> None:
        for number in range(AT_ONCE + 1):
            releaser.returned(vips(number))
        await turns()
        assert [len(asked) for asked in worker.asked] == [2 * AT_ONCE, 2]

    tell(story)
