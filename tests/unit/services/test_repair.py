"""What was refused is tried again, and what nobody tells of is looked at."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress

import pytest

from orchestrator.core.errors import KernelError
from orchestrator.core.kernel import Sysctl
from orchestrator.core.plan import Put
from orchestrator.services import repair
from orchestrator.services.journal import Journal
from orchestrator.services.reconciler import Aspect
from orchestrator.services.repair import Repair

PATIENCE = 5.0
QUICK = 0.01


class Reconciled:
    """A reconciler whose kernel refuses some times."""

    def __init__(self, refuses: int = 0, unreadable: int = 0) -> None:
        self.audits: list[Aspect] = []
        self.enough = asyncio.Event()
        self.differs = False
        self.looks = 0
        self.on_refusal: Callable[[], None] = lambda: None
        self._refuses, self._unreadable = refuses, unreadable

    @property
    def refused(self) -> Aspect:
        self.looks += 1
        return Aspect.ROUTING if self._refuses else Aspect(0)

    def refuses(self, times: int) -> None:
        self._refuses = times
        self.on_refusal()

    def settings_differ(self) -> bool:
        return self.differs

    async def audit(self, aspects: Aspect) -> tuple[Put, ...]:
        self.audits.append(aspects)
        if self._unreadable:
            self._unreadable -= 1
            raise KernelError(12, "read", "links")
        self._refuses = max(self._refuses - 1, 0)
        if not self._refuses:
            self.enough.set()
        return (Put(Sysctl("net/ipv4/ip_forward", "1")),)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLLECT", "AGAIN", "AGAIN_AT_MOST", "SETTINGS_EVERY"):
        monkeypatch.setattr(repair, name, QUICK)


async def until_enough(kernel: Reconciled, *work: Coroutine[None, None, None]) -> None:
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        begun = [tasks.create_task(each) for each in work]
        await kernel.enough.wait()
        for task in begun:
            task.cancel()


def repaired(kernel: Reconciled) -> tuple[Repair, Journal]:
    journal = Journal()
    return Repair(kernel, journal), journal  # type: ignore[arg-type]


def test_what_the_kernel_refused_is_tried_until_it_does_not() -> None:
    async def live() -> None:
        kernel = Reconciled(refuses=3)
        repair, _ = repaired(kernel)
        await until_enough(kernel, repair.run())
        assert kernel.audits == [Aspect.ROUTING] * 3

    asyncio.run(live())


def test_what_is_refused_later_is_tried_again_too() -> None:
    async def live() -> None:
        kernel = Reconciled()
        repair, _ = repaired(kernel)

        async def refuse() -> None:
            await asyncio.sleep(10 * QUICK)
            kernel.refuses(2)

        await until_enough(kernel, repair.run(), refuse())
        assert kernel.audits == [Aspect.ROUTING] * 2

    asyncio.run(live())


def test_nobody_wakes_while_nothing_is_wrong() -> None:
    async def live() -> None:
        kernel = Reconciled()
        repair, _ = repaired(kernel)
        with suppress(TimeoutError):
            async with asyncio.timeout(20 * QUICK):
                await repair.run()
        assert kernel.looks == 1

    asyncio.run(live())


def test_an_audit_that_cannot_read_is_told_and_done_again() -> None:
    async def live() -> None:
        kernel = Reconciled(unreadable=2)
        repair, journal = repaired(kernel)
        repair.touched(Aspect.FIREWALL)
        await until_enough(kernel, repair.run())
        assert kernel.audits == [Aspect.FIREWALL] * 3
        assert (journal.counters["unaudited"], journal.counters["repaired"]) == (2, 1)

    asyncio.run(live())


def test_what_was_repaired_is_told_in_words() -> None:
    async def live() -> None:
        kernel = Reconciled()
        repair, journal = repaired(kernel)
        heard = journal.watch()
        first = asyncio.ensure_future(anext(heard))
        await asyncio.sleep(0)
        repair.touched(Aspect.SETTINGS)
        await until_enough(kernel, repair.run())
        record = await first
        assert record["event"] == "repaired"
        assert record["first"] == "the setting net/ipv4/ip_forward"
        assert record["operations"] == 1

    asyncio.run(live())


def test_a_setting_that_somebody_changed_is_noticed() -> None:
    async def live() -> None:
        kernel = Reconciled()
        kernel.differs = True
        repair, _ = repaired(kernel)
        await until_enough(kernel, repair.run(), repair.watch_settings())
        assert kernel.audits[0] == Aspect.SETTINGS

    asyncio.run(live())
