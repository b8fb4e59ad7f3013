"""The one caller of a machine: order, outcomes, deadlines, and news that is overtaken."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.core.quantities import Instant
from orchestrator.services.driver import Driver


@dataclass(frozen=True)
class Word:
    text: str


@dataclass
class Parrot:
    """Says every word twice; wants to be woken at `wakes`."""

    heard: list[str] = field(default_factory=list)
    wakes: Instant | None = None

    def handle(self, event: Word, now: Instant) -> Sequence[str]:
        self.heard.append(event.text)
        if event.text == "tick":
            self.wakes = None
        return [f"{event.text}!", f"{event.text}?"]

    def deadline(self) -> Instant | None:
        return self.wakes


@dataclass
class Cage:
    """Carries out what the parrot says, and remembers it."""

    done: list[str] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def carry_out(self, said: str) -> Word | None:
        self.done.append(said)
        await asyncio.sleep(0)
        if said == "move!":
            return Word("moved")
        if said in ("stop?", "tick?"):
            self.enough.set()
        return None


def run(parrot: Parrot, *words: Word, latest: Sequence[Word] = ()) -> Cage:
    async def work() -> Cage:
        cage = Cage()
        loop = asyncio.get_running_loop()
        driver: Driver[Word, str] = Driver(
            parrot, cage.carry_out, Word("tick"), lambda: Instant(loop.time())
        )
        if parrot.wakes is not None:
            parrot.wakes = Instant(loop.time() + parrot.wakes)
        for word in latest:
            driver.post_latest(word)
        for word in words:
            driver.post(word)
        runner = asyncio.create_task(driver.run())
        async with asyncio.timeout(5):
            await cage.enough.wait()
        runner.cancel()
        return cage

    return asyncio.run(work())


def test_carries_out_the_effects_of_one_piece_of_news_before_the_next() -> None:
    parrot = Parrot()
    cage = run(parrot, Word("a"), Word("stop"))
    assert parrot.heard == ["a", "stop"]
    assert cage.done == ["a!", "a?", "stop!", "stop?"]


def test_handles_an_outcome_before_the_remaining_effects() -> None:
    cage = run(Parrot(), Word("move"), Word("stop"))
    assert cage.done[:4] == ["move!", "moved!", "moved?", "move?"]


def test_of_snapshots_that_wait_only_the_latest_is_handled() -> None:
    parrot = Parrot()
    run(parrot, Word("stop"), latest=[Word("old"), Word("older"), Word("newest")])
    assert parrot.heard == ["newest", "stop"]


def test_without_that_every_piece_of_news_is_handled() -> None:
    parrot = Parrot()
    run(parrot, Word("old"), Word("older"), Word("newest"), Word("stop"))
    assert parrot.heard == ["old", "older", "newest", "stop"]


def test_wakes_the_machine_at_its_deadline() -> None:
    parrot = Parrot(wakes=Instant(0.05))

    async def work() -> None:
        cage = Cage()
        loop = asyncio.get_running_loop()
        driver: Driver[Word, str] = Driver(
            parrot, cage.carry_out, Word("tick"), lambda: Instant(loop.time())
        )
        parrot.wakes = Instant(loop.time() + 0.05)
        runner = asyncio.create_task(driver.run())
        async with asyncio.timeout(5):
            await cage.enough.wait()
        runner.cancel()

    asyncio.run(work())
    assert parrot.heard == ["tick"]
