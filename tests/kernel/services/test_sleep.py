"""Sleep as logind announces it, on a real bus; the clocks are the kernel's, where it says so.

The logind is `tests.logind`. What the machine would do is left to `tests/unit/core`.
"""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from orchestrator.adapters import clock
from orchestrator.adapters.logind import LogindError, connected
from orchestrator.core.mobility_events import Event, FallsAsleep, NetworkChanged, Woke
from orchestrator.core.network import Snapshot
from orchestrator.core.quantities import Seconds
from orchestrator.services import sleep
from orchestrator.services.journal import Journal
from orchestrator.services.sleep import Sleep
from tests.logind import FakeLogind

LIMIT = 20.0
A_WHILE = 0.3
NOTHING_CHANGED = Snapshot()


@pytest.fixture
def logind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLogind]:
    if shutil.which("dbus-daemon") is None:
        pytest.skip("dbus-daemon is not installed")
    socket = tmp_path / "bus"
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={socket}")
    made = FakeLogind.started(socket)
    yield made
    made.end()


class Heard:
    """The service, and what it posted."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.fake_wakes: asyncio.Queue[Seconds] = asyncio.Queue()
        self.journal = Journal()
        self.answering = True
        self.aged: list[Seconds] = []
        self.service = Sleep(
            self._post, self.aged.append, self._snapshot, self._wakes, self.journal
        )

    def _post(self, event: Event) -> None:
        self.events.put_nowait(event)
        if isinstance(event, FallsAsleep) and self.answering:
            self.service.may_sleep()

    async def _snapshot(self) -> Snapshot:
        return NOTHING_CHANGED

    async def _wakes(self) -> AsyncGenerator[Seconds, None]:
        """The faked clock: no device sleeps for a test."""
        while True:
            yield await self.fake_wakes.get()

    async def hears(self, *events: Event) -> None:
        async with asyncio.timeout(LIMIT):
            assert [await self.events.get() for _ in events] == list(events)

    async def hears_nothing(self) -> None:
        await asyncio.sleep(A_WHILE)
        assert self.events.empty()


def running(story: Callable[[Heard], Awaitable[None]]) -> None:
    async def run() -> None:
        heard = Heard()
        tasks = [
            asyncio.ensure_future(heard.service.watch_clock()),
            asyncio.ensure_future(heard.service.watch_logind()),
        ]
        try:
            await story(heard)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


async def listens(heard: Heard, logind: FakeLogind) -> None:
    """Sleeps are announced until one is heard."""
    async with asyncio.timeout(LIMIT):
        while heard.events.empty():
            await asyncio.to_thread(logind.sleep)
            await asyncio.sleep(A_WHILE)
    await asyncio.to_thread(logind.wake)
    await heard.hears(FallsAsleep(), Woke(Seconds(0.0)), NetworkChanged(NOTHING_CHANGED))
    await heard.hears_nothing()


@pytest.mark.parametrize("slept", [60.0, 15 * 60.0, 8 * 3600.0])
def test_a_sleep_is_told_of_before_and_after(logind: FakeLogind, slept: float) -> None:
    async def story(heard: Heard) -> None:
        await listens(heard, logind)
        await asyncio.to_thread(logind.sleep)
        await heard.hears(FallsAsleep())
        heard.fake_wakes.put_nowait(Seconds(slept))
        await heard.hears(Woke(Seconds(slept)), NetworkChanged(NOTHING_CHANGED))
        assert heard.aged[-1] == slept
        await asyncio.to_thread(logind.wake)
        await heard.hears_nothing()  # once is enough

    running(story)


def test_a_sleep_that_failed_is_over_when_logind_says_so(logind: FakeLogind) -> None:
    async def story(heard: Heard) -> None:
        await listens(heard, logind)
        await asyncio.to_thread(logind.sleep)
        await heard.hears(FallsAsleep())
        await asyncio.to_thread(logind.wake)
        await heard.hears(Woke(Seconds(0.0)), NetworkChanged(NOTHING_CHANGED))

    running(story)


def test_a_sleep_is_not_delayed_for_long_when_nobody_answers(logind: FakeLogind) -> None:
    async def story(heard: Heard) -> None:
        await listens(heard, logind)
        heard.answering = False
        began = time.monotonic()
        await asyncio.to_thread(logind.sleep)
        assert sleep.NOTICE <= time.monotonic() - began < sleep.NOTICE + 1.0
        assert heard.journal.counters["asleep-unanswered"] == 1

    running(story)


def test_somebody_else_on_the_bus_puts_nobody_to_sleep(logind: FakeLogind) -> None:
    async def story(heard: Heard) -> None:
        await listens(heard, logind)
        await asyncio.to_thread(logind.pose)
        await heard.hears_nothing()

    running(story)


def test_its_end_is_noticed(logind: FakeLogind) -> None:
    async def story() -> None:
        async with connected() as found:
            await found.delay()
            await asyncio.to_thread(logind.end)
            async with asyncio.timeout(LIMIT):
                async for _ in found.sleeps():
                    pass

    with pytest.raises(LogindError, match="went away"):
        asyncio.run(story())


@pytest.mark.parametrize("address", ["unix:path=/nowhere/bus", "nonsense"])
def test_without_a_bus_the_clock_alone_tells(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)

    async def story(heard: Heard) -> None:
        await asyncio.sleep(A_WHILE)
        heard.fake_wakes.put_nowait(Seconds(60.0))
        await heard.hears(Woke(Seconds(60.0)), NetworkChanged(NOTHING_CHANGED))

    running(story)


def test_the_kernel_says_at_once_when_its_clock_is_set() -> None:
    """As on a resume. The clock is set to what it is."""

    async def story() -> float:
        timer, stepped = clock._step_timer(), asyncio.Event()
        asyncio.get_running_loop().add_reader(timer, clock._drain, timer, stepped)
        try:
            await asyncio.sleep(A_WHILE)
            assert not stepped.is_set(), "nothing happened yet"
            for _ in range(2):
                began = time.monotonic()
                time.clock_settime(time.CLOCK_REALTIME, time.time_ns() / 1e9)
                async with asyncio.timeout(LIMIT):
                    await stepped.wait()
                stepped.clear()
            return time.monotonic() - began
        finally:
            asyncio.get_running_loop().remove_reader(timer)
            os.close(timer)

    try:
        assert asyncio.run(story()) < A_WHILE
    except PermissionError:
        pytest.skip("setting the clock takes CAP_SYS_TIME")


def test_a_clock_that_is_set_is_no_sleep() -> None:
    async def story() -> None:
        async with aclosing(clock.wakes()) as wakes:
            woke = asyncio.ensure_future(anext(wakes))
            await asyncio.sleep(A_WHILE)
            time.clock_settime(time.CLOCK_REALTIME, time.time_ns() / 1e9)
            done, _ = await asyncio.wait((woke,), timeout=A_WHILE)
            assert not done
            woke.cancel()
            await asyncio.wait((woke,))

    try:
        asyncio.run(story())
    except PermissionError:
        pytest.skip("setting the clock takes CAP_SYS_TIME")
