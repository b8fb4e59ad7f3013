"""Radios are asked with the probes, one after the other; a fake stands for them."""

import asyncio
from collections.abc import Mapping

from orchestrator.core.mobility_events import SignalSeen
from orchestrator.core.quantities import LinkIndex
from orchestrator.services.signals import Signals
from orchestrator.services.tasks import Tasks

WLAN, WLAN1, WIRE = LinkIndex(3), LinkIndex(4), LinkIndex(5)
LINKS = {"wlan0": WLAN, "wlan1": WLAN1, "eth0": WIRE}


class FakeRadio:
    def __init__(self, signals: Mapping[LinkIndex, int]) -> None:
        self.signals = signals
        self.asked: list[LinkIndex] = []
        self.answers = asyncio.Event()
        self.answers.set()

    async def signal(self, link: LinkIndex) -> int | None:
        self.asked.append(link)
        await self.answers.wait()
        return self.signals.get(link)

    async def close(self) -> None:
        pass


async def looked(radio: FakeRadio, times: int = 1) -> list[SignalSeen]:
    told: list[SignalSeen] = []
    async with Tasks() as tasks:
        signals = Signals(radio, lambda name: name.startswith("wlan"), told.append, tasks)
        for _ in range(times):
            signals.look(LINKS)
            await asyncio.sleep(0)
        radio.answers.set()
    return told


def test_tells_of_every_radio_that_answers_and_asks_no_wire() -> None:
    async def story() -> None:
        radio = FakeRadio({WLAN: -61})
        assert await looked(radio) == [SignalSeen(WLAN, -61)]
        assert radio.asked == [WLAN, WLAN1]

    asyncio.run(story())


def test_a_slow_radio_is_not_asked_twice_at_a_time() -> None:
    async def story() -> None:
        radio = FakeRadio({WLAN: -61})
        radio.answers.clear()
        assert await looked(radio, times=3) == [SignalSeen(WLAN, -61)]
        assert radio.asked == [WLAN, WLAN1]

    asyncio.run(story())


def test_what_is_asked_before_the_daemon_runs_does_not_keep_it_from_asking() -> None:
    async def story() -> None:
        radio, tasks = FakeRadio({WLAN: -61}), Tasks()
        told: list[SignalSeen] = []
        signals = Signals(radio, lambda _: True, told.append, tasks)
        signals.look(LINKS)
        async with tasks:
            signals.look(LINKS)
        assert told == [SignalSeen(WLAN, -61)]

    asyncio.run(story())
