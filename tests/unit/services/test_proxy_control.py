"""The worker's control socket against clients that mean it well, and others."""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from orchestrator.core.flows import (
    FlowDirection,
    FlowEvent,
    FlowRefused,
    Refusal,
    SocketAddress,
)
from orchestrator.services.proxy_client import ProxyClient, ProxyLost
from orchestrator.services.proxy_control import CLIENTS, WATCHER_OCTETS, ControlSocket
from orchestrator.services.proxy_engine import Engine
from orchestrator.services.proxy_seat import Seat
from orchestrator.wire.proxy_control import LINE_OCTETS

VIP = SocketAddress(ip_address("10.99.0.7"), 40000)
PEER = SocketAddress(ip_address("10.50.0.2"), 80)
REFUSED = FlowRefused(VIP, PEER, FlowDirection.FROM_ENDPOINT, Refusal.VIP_FULL)


class Worker:
    """An engine without listeners, and its control socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = Engine(100, lambda event: self.control.tell(event))
        self.control = ControlSocket(self.engine, self._stop, self._hand_over)
        self.stopped = 0

    def _stop(self) -> None:
        self.stopped += 1

    def _hand_over(self, client: socket.socket) -> None:
        client.sendall(b"all is yours\n")

    async def says(self, *chunks: bytes) -> bytes:
        """What a client that sends this hears until it is cut off."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        try:
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
            async with asyncio.timeout(5.0):
                return await reader.read()
        except (BrokenPipeError, ConnectionResetError):
            return b""
        finally:
            writer.transport.abort()


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Worker]:
    worker = Worker(path)
    seat = Seat.take(path)
    assert seat is not None
    try:
        async with worker.control.serving(seat.listener):
            yield worker
    finally:
        worker.engine.close()
        seat.leave()


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Callable[[Worker], Awaitable[None]]], None]:
    def play(story: Callable[[Worker], Awaitable[None]]) -> None:
        async def run() -> None:
            async with serving(tmp_path / "proxy.sock") as worker:
                await story(worker)

        asyncio.run(run())

    return play


Play = Callable[[Callable[[Worker], Awaitable[None]]], None]


def test_answers_what_it_is_asked(play: Play) -> None:
    async def story(worker: Worker) -> None:
        async with await ProxyClient.connect(worker.path) as client:
            assert client.pid == os.getpid()
            assert await client.flows() == ()
            assert (await client.counters()).open == 0
            assert await client.stop() == 0
        assert worker.stopped == 1

    play(story)


def test_only_its_own_user_may_talk_to_it(play: Play) -> None:
    async def story(worker: Worker) -> None:
        assert stat.S_IMODE(worker.path.stat().st_mode) == 0o600

    play(story)


def test_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def run() -> None:
        async with serving(path), await ProxyClient.connect(path) as client:
            assert client.pid == os.getpid()

    asyncio.run(run())
    assert not path.exists()


@pytest.mark.parametrize(
    "chunks",
    [
        [b"\n"],
        [b"\x00" * 100 + b"\n"],
        [b'{"v":99,"do":"hello"}\n'],
        [b'{"v":1,"do":"configure","settings":{}}\n'],
        [b"[" * 100_000 + b"\n"],
        [b"x" * (LINE_OCTETS + 10)],
        [b"x" * 65536] * 40,
    ],
    ids=["empty", "zeros", "version", "settings", "deep", "long", "endless"],
)
def test_rubbish_is_answered_once_and_costs_a_line(play: Play, chunks: list[bytes]) -> None:
    async def story(worker: Worker) -> None:
        heard = await worker.says(*chunks)
        assert heard == b"" or heard.startswith(b'{"v":1,"reply":"failed","problem":')
        assert heard.count(b"\n") <= 1
        async with await ProxyClient.connect(worker.path) as client:
            assert await client.flows() == ()

    play(story)


def test_one_client_too_many_is_told_so_and_room_is_made_by_one_that_leaves(
    play: Play,
) -> None:
    async def story(worker: Worker) -> None:
        clients = [await ProxyClient.connect(worker.path) for _ in range(CLIENTS)]
        with pytest.raises(ProxyLost, match=f"{CLIENTS} clients"):
            await ProxyClient.connect(worker.path)
        clients.pop().close()
        async with asyncio.timeout(5.0):
            while True:
                try:
                    clients.append(await ProxyClient.connect(worker.path))
                    break
                except ProxyLost:
                    continue
        for client in clients:
            client.close()

    play(story)


def test_a_watcher_hears_events_and_one_that_does_not_read_stops_nobody(play: Play) -> None:
    async def story(worker: Worker) -> None:
        watcher = await ProxyClient.connect(worker.path)
        events = await watcher.watch()

        async def hear() -> FlowEvent:
            return await anext(events)

        first = asyncio.create_task(hear(), name="first event")
        async with await ProxyClient.connect(worker.path) as client:
            while not first.done():
                worker.control.tell(REFUSED)
                await client.counters()
            assert await first == REFUSED
            for _ in range(WATCHER_OCTETS // 50):  # nobody reads them
                worker.control.tell(REFUSED)
            assert (await client.counters()).events_lost > 0
        await events.aclose()
        watcher.close()

    play(story)


def test_who_is_not_there_is_lost(tmp_path: Path) -> None:
    with pytest.raises(ProxyLost, match="no proxy worker answers"):
        asyncio.run(ProxyClient.connect(tmp_path / "proxy.sock"))


def test_a_worker_that_goes_away_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"

    async def run() -> None:
        async with serving(path):
            client = await ProxyClient.connect(path)
        with pytest.raises(ProxyLost):
            await client.flows()
        client.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer", [b"", b"\n", b"rubbish\n", b'{"v":1,"reply":"done","count":1}\n']
)
def test_a_worker_that_makes_no_sense_is_lost(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "proxy.sock"

    async def run() -> None:
        def connected(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            writer.close()

        async with await asyncio.start_unix_server(connected, path):
            with pytest.raises(ProxyLost):
                await ProxyClient.connect(path)

    asyncio.run(run())
