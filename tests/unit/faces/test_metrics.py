"""The metrics by HTTP, over real sockets: who is answered, and what the others cost."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final

import pytest

from orchestrator.config.values import ListenAddress
from orchestrator.core.errors import OrchestratorError
from orchestrator.core.metric import Metric, counter, counters
from orchestrator.core.quantities import Seconds
from orchestrator.faces.metrics import MetricsLimits, MetricsServer
from tests.unit.faces.waiting import run, until

QUICK: Final = MetricsLimits(
    connections=4,
    request_octets=1024,
    request=Seconds(0.3),
    answer=Seconds(0.3),
    write=Seconds(0.3),
    linger=Seconds(0.2),
    interval=Seconds(60.0),
)
GET: Final = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass
class Source:
    """Counts how often it was asked."""

    asked: int = 0
    octets: int = 0
    """Of a text that makes the answer long."""
    silent: bool = False
    failing: bool = False

    async def collect(self) -> Sequence[Metric]:
        self.asked += 1
        if self.silent:
            await asyncio.Event().wait()
        if self.failing:
            raise OrchestratorError("the leases are gone")
        long = {f"{number:04}" + "x" * 996: 1.0 for number in range(self.octets // 1000)}
        return (counter("asked", "", self.asked), counters("long", "", "label", long))


def free_port(host: str = "127.0.0.1") -> ListenAddress:
    address = ip_address(host)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return ListenAddress(address, probe.getsockname()[1])


@asynccontextmanager
async def serving(
    source: Source, limits: MetricsLimits = QUICK, host: str = "127.0.0.1"
) -> AsyncIterator[tuple[MetricsServer, ListenAddress]]:
    where = free_port(host)
    async with MetricsServer(where, source.collect, limits) as server:
        yield server, where


async def ask(where: ListenAddress, request: bytes = GET) -> bytes:
    """Everything that is said until the connection ends."""
    reader, writer = await asyncio.open_connection(str(where.host), where.port)
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_scraper_is_answered(host: str) -> None:
    async def story() -> None:
        async with serving(Source(), host=host) as (server, where):
            head, _, body = (await ask(where)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"Content-Type: application/openmetrics-text; version=1.0.0" in head
            assert f"Content-Length: {len(body)}".encode() in head
            assert b"orchestrator_asked_total 1.0\n" in body
            assert b'orchestrator_scrapes_total{outcome="malformed"} 0.0\n' in body
            assert body.endswith(b"# EOF\n")
            assert server.counters.answered == 1

    run(story())


def test_a_head_has_no_body() -> None:
    async def story() -> None:
        async with serving(Source()) as (_, where):
            said = await ask(where, GET.replace(b"GET", b"HEAD"))
            assert said.startswith(b"HTTP/1.1 200 OK\r\n")
            assert said.endswith(b"\r\n\r\n")

    run(story())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/.. HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\xff\x00 \r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"400"),
    ],
)
def test_anything_else_is_refused_and_counts_nothing_anew(
    request_: bytes, status: bytes
) -> None:
    async def story() -> None:
        source = Source()
        async with serving(source) as (server, where):
            assert (await ask(where, request_)).split(b" ")[1] == status
            assert (server.counters.malformed, source.asked) == (1, 0)

    run(story())


def test_however_often_it_is_asked_it_counts_once_in_a_while() -> None:
    async def story() -> None:
        source = Source()
        async with serving(source) as (server, where):
            for _ in range(10):
                await asyncio.gather(ask(where), ask(where))
            assert (server.counters.answered, source.asked) == (20, 1)
        often = replace(QUICK, interval=Seconds(0.0))
        async with serving(source, often) as (_, where):
            await ask(where)
            await ask(where)
            assert source.asked == 3

    run(story())


def test_connections_beyond_the_limit_are_cut_off() -> None:
    async def story() -> None:
        async with serving(Source()) as (server, where):
            idle = [
                await asyncio.open_connection(str(where.host), where.port) for _ in range(4)
            ]
            with contextlib.suppress(ConnectionError):
                assert await ask(where) == b""
            assert server.counters.refused_busy == 1
            for _, writer in idle:
                writer.transport.abort()
            await until(lambda: not server._clients)
            assert (await ask(where)).startswith(b"HTTP/1.1 200")

    run(story())


def test_who_asks_too_slowly_is_cut_off() -> None:
    async def story() -> None:
        async with serving(Source()) as (server, where):
            assert await ask(where, GET[:-2]) == b""
            assert server.counters.timed_out == 1

    run(story())


def test_who_does_not_take_the_answer_is_cut_off() -> None:
    async def story() -> None:
        async with serving(Source(octets=20_000_000)) as (server, where):
            _, writer = await asyncio.open_connection(str(where.host), where.port, limit=1)
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a socket
            writer.write(GET)
            await until(lambda: server.counters.timed_out and not server._clients)
            writer.transport.abort()

    run(story())


def test_a_daemon_that_does_not_answer_keeps_nobody() -> None:
    async def story() -> None:
        source = Source(silent=True)
        async with serving(source) as (server, where):
            assert await ask(where) == b""
            assert server.counters.timed_out == 1
            source.silent = False
            assert (await ask(where)).startswith(b"HTTP/1.1 200")

    run(story())


def test_a_failure_is_told() -> None:
    async def story() -> None:
        async with serving(Source(failing=True)) as (server, where):
            said = await ask(where)
            assert said.startswith(b"HTTP/1.1 500")
            assert said.endswith(b"the leases are gone\n")
            assert server.counters.failed == 1

    run(story())


def test_a_port_that_is_taken_is_told_and_holds_nobody_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        async with serving(Source()) as (_, where):
            async with MetricsServer(where, Source().collect):
                assert "cannot serve metrics at 127.0.0.1" in caplog.text
            assert (await ask(where)).startswith(b"HTTP/1.1 200")

    run(story())


def test_without_an_address_nothing_listens() -> None:
    async def story() -> None:
        async with MetricsServer(None, Source().collect) as server:
            assert server._server is None

    run(story())
