import asyncio

from orchestrator.services.tasks import Tasks


def test_what_is_begun_runs_to_its_end() -> None:
    done: list[str] = []

    async def work(name: str) -> None:
        await asyncio.sleep(0)
        done.append(name)

    async def first(tasks: Tasks) -> None:
        # The block has ended by now, the group has not.
        tasks.begin(work("second"), "second")
        await work("first")

    async def daemon() -> None:
        async with Tasks() as tasks:
            tasks.begin(first(tasks), "first")

    asyncio.run(daemon())
    assert sorted(done) == ["first", "second"]


def test_a_daemon_that_does_not_run_begins_nothing() -> None:
    done: list[str] = []

    async def work() -> None:
        done.append("work")

    async def daemon() -> None:
        tasks = Tasks()
        tasks.begin(work(), "too early")
        async with tasks:
            pass
        tasks.begin(work(), "too late")
        await asyncio.sleep(0)

    asyncio.run(daemon())
    assert done == []
