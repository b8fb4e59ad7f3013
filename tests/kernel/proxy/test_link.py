"""What a server daemon makes of the worker that it finds, replaces, or loses."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator import __version__
from orchestrator.config.server import ServerConfig
from orchestrator.config.toml import load
from orchestrator.core.quantities import IPAddress
from orchestrator.services.journal import Journal
from orchestrator.services.proxy_client import ProxyClient, replace_worker
from orchestrator.services.proxy_link import ProxyLink
from tests.kernel.proxy.lan import (
    OTHER_VIP,
    PATIENCE,
    PEER,
    VIP,
    Lan,
    Pair,
    alive,
    pair,
    serve,
    transfer,
    until,
    worker,
)
from tests.releases import another_release

MIB = 1 << 20
CONFIG = """
role = "server"
identity = "b"
underlay = { interfaces = ["ep0"] }
auth = { kind = "psk", secret_file = "secret" }
vip = { pools = ["10.99.0.0/24", "fd00:99::/64"] }
control = { socket = "%s" }
"""
Record = Mapping[str, object]


class Daemon:
    """As much of a server daemon as knows of the worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "secret").write_text("a secret\n")
        (folder / "secret").chmod(0o600)
        (folder / "server.toml").write_text(CONFIG % (folder / "control.sock"))
        config = load(folder / "server.toml")
        assert isinstance(config, ServerConfig)
        self.journal = Journal()
        self.link = ProxyLink(config, self.journal, self._owner)
        self._told: asyncio.Queue[Record] = asyncio.Queue()

    @property
    def path(self) -> Path:
        return self.folder / "proxy.sock"

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Daemon"]:
        async with asyncio.TaskGroup() as tasks:
            listening = asyncio.Event()
            running = [tasks.create_task(self._listen(listening), name="journal")]
            await listening.wait()
            running.append(tasks.create_task(self.link.run(), name="link"))
            yield self
            for task in running:
                task.cancel()

    async def hears(self, reason: str) -> Record:
        """The next that it tells of the proxy, which must be this."""
        async with asyncio.timeout(PATIENCE):
            record = await self._told.get()
        assert record["reasons"] == [reason], record
        return record

    async def _listen(self, listening: asyncio.Event) -> None:
        listening.set()
        async for record in self.journal.watch():
            self._told.put_nowait(record)

    def _owner(self, vip: IPAddress) -> str | None:
        return "carol" if str(vip) == VIP[4] else None


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


def play(lan: Lan, story: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await story()

    lan.load()
    with lan.server.entered():
        asyncio.run(run())


@contextlib.contextmanager
def connections(lan: Lan, *sources: str) -> Iterator[list[Pair]]:
    with serve(lan.peer, PEER[4]) as listener:
        made = [pair(lan.endpoint, listener, source) for source in sources]
    yield made
    for one in made:
        one.close()


async def stop(path: Path) -> None:
    async with await ProxyClient.connect(path) as client:
        await client.stop()


def test_a_worker_of_another_release_is_replaced_when_the_daemon_starts(
    lan: Lan, daemon: Daemon, tmp_path: Path
) -> None:
    older = another_release(tmp_path, "0.0.9")
    with worker(lan.server, daemon.path, older) as process:

        async def story() -> None:
            async with await ProxyClient.connect(daemon.path) as client:
                assert client.greeting.release == "0.0.9"
                await client.configure(daemon.link.settings)
            with connections(lan, VIP[4], VIP[4]) as made:
                async with daemon.running():
                    told = await daemon.hears("worker-replaced")
                    assert told["connections"] == 2
                    assert told["predecessor"] == process.pid
                    assert told["release"] == __version__
                    await daemon.hears("worker-up")
                    counters = await daemon.link.counters()
                    assert counters is not None
                    assert counters.open == 2
                    assert process.wait(PATIENCE) == 0
                    assert daemon.link.warnings() == []
                    status = daemon.link.status()
                    assert status is not None
                    assert (status["release"], status["took_over"]) == (__version__, 2)
                    for one in made:
                        await asyncio.to_thread(transfer, one.near, one.far, MIB)
            await stop(daemon.path)

        play(lan, story)


def test_a_worker_that_cannot_be_replaced_goes_on_and_is_warned_of(
    lan: Lan, daemon: Daemon, tmp_path: Path
) -> None:
    newer = another_release(tmp_path, "9.0.0", handover_format=9)
    with worker(lan.server, daemon.path, newer) as process:

        async def story() -> None:
            async with await ProxyClient.connect(daemon.path) as client:
                await client.configure(daemon.link.settings)
            with connections(lan, VIP[4]) as (made,):
                async with daemon.running():
                    told = await daemon.hears("not-replaced")
                    assert told["release"] == "9.0.0"
                    assert "format 9 is not known here" in str(told["detail"])
                    assert (await daemon.hears("worker-up"))["pid"] == process.pid
                    (warning,) = daemon.link.warnings()
                    assert "runs release 9.0.0" in warning
                    await asyncio.to_thread(transfer, made.near, made.far, MIB)
            assert process.poll() is None

        play(lan, story)


def test_an_operator_replaces_the_worker(lan: Lan, daemon: Daemon) -> None:
    async def story() -> None:
        async with daemon.running():
            former = (await daemon.hears("worker-up"))["pid"]
            with connections(lan, VIP[4], OTHER_VIP) as made:
                for _ in range(2):
                    done = await daemon.link.replace()
                    told = await daemon.hears("worker-replaced")
                    await daemon.hears("worker-up")
                    assert (done["connections"], done["lost"]) == (2, 0)
                    assert done["former_pid"] == told["predecessor"] == former
                    former = done["pid"]
                    for one in made:
                        await asyncio.to_thread(transfer, one.far, one.near, MIB)
        await stop(daemon.path)

    play(lan, story)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_connections_that_went_down_with_a_worker_are_counted_by_session(
    lan: Lan, daemon: Daemon, how: str
) -> None:
    async def story() -> None:
        with connections(lan):
            pass
        async with daemon.running():
            pid = (await daemon.hears("worker-up"))["pid"]
            assert isinstance(pid, int)
            with connections(lan, VIP[4]):
                pass  # has ended when the worker goes
            with connections(lan, VIP[4], VIP[4], OTHER_VIP):
                await settled(daemon, 3)
                if how == "killed":
                    os.kill(pid, signal.SIGKILL)
                else:
                    await stop(daemon.path)
                told = await daemon.hears("worker-lost")
                assert (told["pid"], told["connections"]) == (pid, 3)
                assert told["sessions"] == {"carol": 2, OTHER_VIP: 1}
            await daemon.hears("worker-up")
            await asyncio.to_thread(until, lambda: not alive(pid))
        await stop(daemon.path)

    play(lan, story)


def test_connections_that_stood_before_the_daemon_began_are_counted_too(
    lan: Lan, daemon: Daemon
) -> None:
    with worker(lan.server, daemon.path) as process:

        async def story() -> None:
            async with await ProxyClient.connect(daemon.path) as client:
                await client.configure(daemon.link.settings)
            with connections(lan, VIP[4], VIP[4]):
                async with daemon.running():
                    await daemon.hears("worker-up")
                    process.kill()
                    told = await daemon.hears("worker-lost")
                    assert told["sessions"] == {"carol": 2}
                    await daemon.hears("worker-up")
                await stop(daemon.path)

        play(lan, story)


def test_replacements_that_the_daemon_does_not_see_one_by_one_are_no_loss(
    lan: Lan, daemon: Daemon
) -> None:
    async def story() -> None:
        async with daemon.running():
            first = (await daemon.hears("worker-up"))["pid"]
            with connections(lan, VIP[4], VIP[4]) as made:
                await settled(daemon, 2)
                replace_twice(daemon.path)
                replaced = await daemon.hears("worker-replaced")
                assert replaced["connections"] == 2
                assert replaced["predecessor"] != first
                await daemon.hears("worker-up")
                for one in made:
                    await asyncio.to_thread(transfer, one.near, one.far, MIB)
        await stop(daemon.path)

    play(lan, story)


def replace_twice(path: Path) -> None:
    """Nothing else runs in this thread's loop meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        for _ in range(2):
            thread.submit(asyncio.run, replace_worker(path)).result()


async def settled(daemon: Daemon, count: int) -> None:
    """Until the daemon has heard of so many, and no more."""
    await asyncio.to_thread(until, lambda: len(daemon.link._standing) == count)
