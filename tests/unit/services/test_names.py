"""Questions are asked beside everything else; the machine hears at once what is known."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.adapters.statefile import StateFile
from orchestrator.core.lookups import SHORTEST_WITHOUT, Answer, Lookups, Question
from orchestrator.core.paths import LinkChoice, Servers
from orchestrator.core.quantities import Instant, IPAddress, Seconds
from orchestrator.services.journal import Journal
from orchestrator.services.memory import Memory
from orchestrator.services.names import AT_ONCE, Names
from tests.unit.core.builders import SERVER4, SERVER6, WIFI, Place, snapshot

NAME = "vpn.example.org"
FOUND: dict[int, tuple[IPAddress, ...]] = {4: (SERVER4,), 6: (SERVER6,)}
BOTH = (SERVER6, SERVER4)
SOON = 5.0
"""Seconds, on a slow machine."""
Story = Callable[["World"], Awaitable[None]]


class World:
    """Resolvers that answer when they are let, and a clock that stands."""

    def __init__(self, path: Path) -> None:
        self.may_answer = asyncio.Event()
        self.happened = asyncio.Condition()
        self.knows: dict[int, tuple[IPAddress, ...]] | None = FOUND
        self.asked: list[Question] = []
        self.most = self.under_way = 0
        self.told: asyncio.Queue[Servers] = asyncio.Queue()
        self.now = 0.0
        self.works = True
        self.journal = Journal()
        self.memory = Memory(StateFile(path), self.journal)
        self.names = Names(
            Lookups((), (NAME,), LinkChoice(), self.memory.names),
            self.told.put_nowait,
            lambda: self.works,
            lambda: Instant(self.now),
            self.memory,
            self.journal,
            self.ask,
        )

    async def ask(self, question: Question) -> Answer | None:
        self.asked.append(question)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self._happens()
        await self.may_answer.wait()
        self.under_way -= 1
        await self._happens()
        if self.knows is None:
            return None
        return Answer(self.knows[question.topic.version], Seconds(1.0))

    def is_at(self, *places: Place) -> None:
        self.names.network(snapshot(*places), ())

    async def hears_of(self, *servers: IPAddress) -> None:
        async with asyncio.timeout(SOON):
            while (await self.told.get()).everywhere != servers:
                pass

    async def until(self, good: Callable[[], bool]) -> None:
        async with asyncio.timeout(SOON), self.happened:
            await self.happened.wait_for(good)

    async def until_asked(self, times: int) -> None:
        await self.until(lambda: len(self.asked) >= times)

    async def _happens(self) -> None:
        async with self.happened:
            self.happened.notify_all()


def run(path: Path, story: Story) -> World:
    async def work() -> World:
        world = World(path)
        runner = asyncio.create_task(world.names.run())
        await story(world)
        runner.cancel()
        await asyncio.wait((runner,))
        assert runner.cancelled()
        return world

    return asyncio.run(work())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "endpoint.json"


def test_what_is_found_is_told_and_remembered(path: Path) -> None:
    async def story(world: World) -> None:
        world.is_at(WIFI)
        world.may_answer.set()
        await world.hears_of(*BOTH)

    run(path, story)
    assert World(path).memory.names == {NAME: BOTH}


def test_what_is_remembered_is_known_without_a_network(path: Path) -> None:
    World(path).memory.keep_names({NAME: BOTH})
    lookups = Lookups((), (NAME,), LinkChoice(), World(path).memory.names)
    assert lookups.servers.everywhere == BOTH


def test_a_silent_resolver_delays_nobody(path: Path) -> None:
    """Least of all the start, or the question over another link."""

    async def story(world: World) -> None:
        world.is_at(WIFI)
        await world.until_asked(2)
        world.is_at(WIFI, replace(WIFI, link="wlan1", index=4))
        await world.until_asked(4)

    world = run(path, story)
    assert {question.link_name for question in world.asked} == {"wlan0", "wlan1"}
    assert world.told.empty()


def test_silence_is_counted_and_told_to_nobody(path: Path) -> None:
    async def story(world: World) -> None:
        world.knows = None
        world.is_at(WIFI)
        world.may_answer.set()
        await world.until_asked(2)
        await world.until(lambda: not world.under_way)
        for _ in range(20):
            await asyncio.sleep(0)

    world = run(path, story)
    assert world.journal.counters["lookup-unanswered"] == 2
    assert world.told.empty()
    assert world.memory.names in ({}, {NAME: ()})


def test_it_is_asked_again_sooner_when_the_server_is_lost(path: Path) -> None:
    async def story(world: World) -> None:
        world.may_answer.set()
        world.is_at(WIFI)
        await world.hears_of(*BOTH)
        world.now += SHORTEST_WITHOUT
        world.names.look_again()
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(world.asked) == 2, "while it works nobody is asked so soon"
        world.works = False
        world.names.look_again()
        await world.until_asked(4)

    run(path, story)


def test_so_many_questions_at_a_time_and_no_more(path: Path) -> None:
    async def story(world: World) -> None:
        crowd = [replace(WIFI, link=f"wlan{n}", index=100 + n) for n in range(AT_ONCE)]
        world.is_at(*crowd)
        await world.until_asked(AT_ONCE)
        world.may_answer.set()
        await world.until_asked(2 * AT_ONCE)

    assert run(path, story).most == AT_ONCE
