"""The daemon's side of the proxy: talks to the worker, and starts one if nobody answers.

The worker does not belong to the daemon: it runs on when the daemon dies, and the next daemon
finds it. Every call raises ProxyLost when the worker is gone or does not answer in time; what
it refuses raises ProxyLost with its reason. Connect again, and configure again.
"""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, TypeVar

from orchestrator.core.errors import OrchestratorError, PeerError
from orchestrator.core.flows import (
    FlowEnded,
    FlowEvent,
    FlowOpened,
    FlowRecord,
    FlowRefused,
    ProxyCounters,
    ProxySettings,
    SocketAddress,
)
from orchestrator.core.quantities import IPAddress
from orchestrator.services.proxy_handover import WHOLE_SECONDS
from orchestrator.wire.proxy_control import (
    LINE_OCTETS,
    READY,
    Configure,
    Counters,
    Done,
    EndFlows,
    Failed,
    FlowsPage,
    GetCounters,
    Greeting,
    Hello,
    ListFlows,
    Reply,
    Request,
    Restart,
    Resume,
    Resumed,
    Stop,
    Watch,
    decode_reply,
    encode_request,
)

ANSWER_SECONDS: Final = 10.0
"""The worker answers between two turns of its flows, some milliseconds; this is a hang."""
START_SECONDS: Final = 20.0
"""A Python process starts in 0.1 s; in the lab's kernel, or on a busy machine, in seconds."""
_Kind = TypeVar("_Kind", bound=Reply)


class ProxyLost(OrchestratorError):
    """The proxy worker is not there, does not answer, or refuses."""


class ProxyClient:
    """A connection to the worker; one call at a time, calls queue up."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()
        self.greeting = Greeting(0, "", None)
        """of the worker, once connected"""

    @property
    def pid(self) -> int:
        """of the worker"""
        return self.greeting.pid

    @classmethod
    async def connect(cls, path: Path) -> Self:
        """To the worker that serves `path`. Raises ProxyLost if there is none."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                streams = await asyncio.open_unix_connection(str(path), limit=LINE_OCTETS)
        except (OSError, TimeoutError) as error:
            raise ProxyLost(f"no proxy worker answers at {path}: {error}") from error
        client = cls(*streams)
        try:
            client.greeting = await client._ask(Hello(), Greeting)
        except BaseException:
            client.close()
            raise
        return client

    @classmethod
    async def connect_or_start(cls, path: Path, log: Path | None = None) -> Self:
        """As `connect`; if nobody answers, a worker is started, detached from this process.

        `log` is where it writes what goes wrong, `path` with the suffix .log by default.
        """
        try:
            return await cls.connect(path)
        except ProxyLost:
            await start_worker(path, log or _log_of(path))
        return await cls.connect(path)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; the worker and its flows go on."""
        self._writer.transport.abort()

    async def configure(self, settings: ProxySettings) -> None:
        """Flows that come from now on follow `settings`."""
        await self._ask(Configure(settings), Done)

    async def flows(self) -> tuple[FlowRecord, ...]:
        """Every flow that stands."""
        records: list[FlowRecord] = []
        async with self._turn:
            self._write(ListFlows())
            more = True
            while more:
                page = await self._expect(FlowsPage)
                records += page.flows
                more = page.more
        return tuple(records)

    async def counters(self) -> ProxyCounters:
        return (await self._ask(GetCounters(), Counters)).counters

    async def resume(
        self, vips: Sequence[IPAddress]
    ) -> Sequence[tuple[SocketAddress, SocketAddress]]:
        """What waits for these endpoints goes now; peer and VIP of flows that send anew."""
        return (await self._ask(Resume(vips), Resumed)).flows

    async def restart(self, flows: Sequence[tuple[SocketAddress, SocketAddress]]) -> int:
        """The endpoints' senders of these (VIP and peer) send anew; how many there are."""
        return (await self._ask(Restart(flows), Done)).count

    async def end_flows(self, vips: Sequence[IPAddress]) -> int:
        """Flows from, to or between these addresses are reset; how many there were."""
        return (await self._ask(EndFlows(vips), Done)).count

    async def stop(self) -> int:
        """The worker resets its flows and ends; how many stood."""
        return (await self._ask(Stop(), Done)).count

    async def watch(self) -> AsyncGenerator[FlowEvent, None]:
        """What happens to flows from now on; the connection can do nothing else afterwards.

        Ends with ProxyLost. Use a second client for this.
        """
        await self._ask(Watch(), Done)
        return self._events()

    async def _events(self) -> AsyncGenerator[FlowEvent, None]:
        while True:
            reply = await self._read()
            if isinstance(reply, FlowOpened | FlowEnded | FlowRefused):
                yield reply

    async def _ask(self, request: Request, kind: type[_Kind]) -> _Kind:
        async with self._turn:
            self._write(request)
            return await self._expect(kind)

    def _write(self, request: Request) -> None:
        self._writer.write(encode_request(request))

    async def _expect(self, kind: type[_Kind]) -> _Kind:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reply = await self._read()
        except TimeoutError as error:
            self.close()
            raise ProxyLost(f"the proxy worker did not answer in {ANSWER_SECONDS} s") from error
        except asyncio.CancelledError:
            self.close()  # else the next call would get this one's answer
            raise
        if isinstance(reply, Failed):
            raise ProxyLost(f"the proxy worker refuses: {reply.problem}")
        if not isinstance(reply, kind):
            self.close()
            raise ProxyLost(f"the proxy worker answers {type(reply).__name__}")
        return reply

    async def _read(self) -> Reply:
        try:
            line = await self._reader.readline()
        except (OSError, ValueError) as error:
            raise ProxyLost(f"the proxy worker went away: {error}") from error
        if not line.endswith(b"\n"):
            raise ProxyLost("the proxy worker went away")
        try:
            return decode_reply(line)
        except PeerError as error:
            raise ProxyLost(f"the proxy worker makes no sense: {error}") from error


async def replace_worker(path: Path) -> Greeting:
    """A new worker takes everything over from the one that serves `path`; its greeting.

    Raises ProxyLost with its last words; then the one before it goes on, if it lives.
    """
    await start_worker(path, _log_of(path), take_over=True)
    async with await ProxyClient.connect(path) as client:
        return client.greeting


async def start_worker(path: Path, log: Path, *, take_over: bool = False) -> None:
    """A worker serves `path`, in a session of its own; with `take_over`, with everything that
    the one before it had. Raises ProxyLost with its last words."""
    ours, its = socket.socketpair()
    ours.settimeout(0.0)
    loop = asyncio.get_running_loop()
    with ours:
        try:
            with its, _appending(log) as errors:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "orchestrator.services.proxy",
                    "--detach",
                    *("--socket", str(path)),
                    *("--ready-fd", str(its.fileno())),
                    *(("--take-over",) if take_over else ()),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    pass_fds=(its.fileno(),),
                )
            limit = START_SECONDS + (WHOLE_SECONDS if take_over else 0)
            async with asyncio.timeout(limit):
                # What we started forks and ends at once: the worker is nobody's child.
                await process.wait()
                said = await loop.sock_recv(ours, len(READY))
        except TimeoutError as error:
            raise ProxyLost(f"the proxy worker took more than {limit:g} s") from error
        except OSError as error:
            raise ProxyLost(f"the proxy worker cannot be started: {error}") from error
    if said != READY:
        raise ProxyLost(f"the proxy worker did not start: {_last_words(log)}")


def _appending(log: Path) -> BinaryIO:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "ab")


def _log_of(path: Path) -> Path:
    return path.with_suffix(".log")


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"
