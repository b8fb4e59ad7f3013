"""Serves the metrics by HTTP, to whoever reaches the address that the operator chose.

1. What is asked is small and known: GET or HEAD of /metrics, one question a connection.
2. A scraper costs a bounded amount, whatever it does: connections, octets of a request, and
   each wait are limited; it gets what was made within the last second, so that a second has one
   answer's worth of work, however often it is asked.
3. That nobody can be served is no reason to hold up a daemon: it is told, and that is all.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from types import TracebackType
from typing import Final, Self

from orchestrator.config.values import ListenAddress
from orchestrator.core.errors import OrchestratorError
from orchestrator.core.metric import Metric, counters
from orchestrator.core.quantities import Seconds
from orchestrator.faces.exposition import CONTENT_TYPE, written

PATH: Final = "/metrics"
PLAIN: Final = "text/plain; charset=utf-8"

_LOG: Final = logging.getLogger("orchestrator.metrics")


class Status(Enum):
    """RFC 9110, 15."""

    OK = "200 OK"
    BAD_REQUEST = "400 Bad Request"
    NOT_FOUND = "404 Not Found"
    NOT_ALLOWED = "405 Method Not Allowed"
    FAILED = "500 Internal Server Error"


@dataclass(frozen=True, slots=True)
class MetricsLimits:
    """What scrapers can make us keep, and how long they can make us wait."""

    connections: int = 8
    """At a time; a Prometheus needs one."""
    request_octets: int = 8192
    """Of a request's head, as much as other servers take; a Prometheus sends some 300."""
    request: Seconds = Seconds(5.0)
    """For a request to arrive; one that is meant arrives at once."""
    answer: Seconds = Seconds(9.0)
    """For the daemon to answer; a Prometheus waits for ten by default."""
    write: Seconds = Seconds(5.0)
    """For a scraper to take its answer."""
    linger: Seconds = Seconds(1.0)
    """For a scraper to close the connection."""
    interval: Seconds = Seconds(1.0)
    """In which nothing is counted anew; a Prometheus asks every 15 by default."""


@dataclass(slots=True)
class ScrapeCounters:
    answered: int = 0
    refused_busy: int = 0
    """connections beyond the limit"""
    malformed: int = 0
    """requests that are none, too long, or for something else"""
    timed_out: int = 0
    failed: int = 0


class MetricsServer:
    """Serves from `__aenter__` to `__aexit__`, if it has an address."""

    def __init__(
        self,
        listen: ListenAddress | None,
        collect: Callable[[], Awaitable[Sequence[Metric]]],
        limits: MetricsLimits = MetricsLimits(),
    ) -> None:
        self.counters = ScrapeCounters()
        self._listen = listen
        self._collect = collect
        self._limits = limits
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._making = asyncio.Lock()
        self._made = b""
        self._made_at: float | None = None

    async def __aenter__(self) -> Self:
        if self._listen is None:
            return self
        try:
            self._server = await asyncio.start_server(
                self._accepted,
                str(self._listen.host),
                self._listen.port,
                limit=self._limits.request_octets,
            )
        except OSError as error:
            where = f"{self._listen.host} port {self._listen.port}"
            _LOG.warning(
                "cannot serve metrics at %s: %s; nobody can scrape them until the daemon is"
                " restarted with another [metrics] listen",
                where,
                error.strerror,
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        clients = tuple(self._clients)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= self._limits.connections:
            self.counters.refused_busy += 1
            writer.transport.abort()
            return
        task = asyncio.create_task(self._converse(reader, writer), name="scraper")
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        # Nothing is left to write when `drain` has returned.
        writer.transport.set_write_buffer_limits(high=0)
        try:
            status, body, head_only = await self._answer(reader)
            writer.write(_response(status, body, head_only=head_only))
            async with asyncio.timeout(self._limits.write):
                await writer.drain()
            await self._linger(reader, writer)
        except TimeoutError:
            self.counters.timed_out += 1
        except (OSError, asyncio.IncompleteReadError):
            pass  # it left
        finally:
            writer.transport.abort()

    async def _linger(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Closed with something unread in it, the connection would be reset, and our words with
        it: the scraper closes first, if it does."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.linger):
                writer.write_eof()
                while await reader.read(self._limits.request_octets):
                    pass

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[Status, bytes, bool]:
        """Raises TimeoutError when it takes too long to ask, or to answer."""
        try:
            async with asyncio.timeout(self._limits.request):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            self.counters.malformed += 1
            return Status.BAD_REQUEST, b"the request is too long\n", False
        status, head_only = _asked(head)
        if status is not Status.OK:
            self.counters.malformed += 1
            return status, f"ask for {PATH}\n".encode(), False
        try:
            async with asyncio.timeout(self._limits.answer):
                body = await self._text()
        except OrchestratorError as error:
            self.counters.failed += 1
            return Status.FAILED, f"{error}\n".encode(), False
        self.counters.answered += 1
        return Status.OK, body, head_only

    async def _text(self) -> bytes:
        """Rule 2."""
        async with self._making:
            now = asyncio.get_running_loop().time()
            if self._made_at is None or now - self._made_at >= self._limits.interval:
                outcomes = {name: float(n) for name, n in asdict(self.counters).items()}
                about = "What became of scrapes by HTTP."
                ours = counters("scrapes", about, "outcome", outcomes)
                self._made = (await written((*await self._collect(), ours))).encode()
                self._made_at = now
            return self._made


def _asked(head: bytes) -> tuple[Status, bool]:
    """What to answer, and whether without a body (RFC 9112, 3)."""
    words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return Status.BAD_REQUEST, False
    method, target, _ = words
    if target.split("?", 1)[0] != PATH:
        return Status.NOT_FOUND, False
    if method not in ("GET", "HEAD"):
        return Status.NOT_ALLOWED, False
    return Status.OK, method == "HEAD"


def _response(status: Status, body: bytes, *, head_only: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {status.value}",
        f"Content-Type: {CONTENT_TYPE if status is Status.OK else PLAIN}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if status is Status.NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return head if head_only else head + body
