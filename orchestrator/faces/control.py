"""Serves the control socket: who may administer this daemon asks here.

1. Root and the members of one configured group are answered, nobody else: the socket's mode
   keeps others out, and SO_PEERCRED is looked at as well (invariant 4).
2. One request a connection; clients, watchers, octets and waiting times are bounded.
3. A watcher that cannot follow is told so and dropped: it never slows the daemon.
4. A socket that a dead daemon left is replaced: who serves has the lock of `faces.lock`.
"""

import asyncio
import contextlib
import grp
import inspect
import logging
import os
import signal
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Final, Protocol, Self

from orchestrator.config.common import Control
from orchestrator.core.errors import ConfigError, OrchestratorError, PeerError
from orchestrator.core.metric import Metric, counters
from orchestrator.core.quantities import Seconds
from orchestrator.faces import handed
from orchestrator.faces.exposition import written
from orchestrator.wire.control import (
    REQUEST_LIMIT,
    Done,
    Refusal,
    Refused,
    Reply,
    Request,
    Verb,
    decode_request,
    encode_reply,
    plain,
)

BACKLOG: Final = 128
WRITE_BUFFER: Final = 256 * 1024
"""Octets waiting for a client before we wait for it."""
SO_PEERGROUPS: Final = 59
"""include/uapi/asm-generic/socket.h, since Linux 4.13; Python has no name for it."""
MAX_GROUPS: Final = 256
"""Supplementary groups of a peer that are looked at: what one getsockopt() of Python gives."""

_UCRED: Final = struct.Struct("3i")
_LOG: Final = logging.getLogger("orchestrator.control")


class OpenedWay(Protocol):
    """A way to sign in, for a program whose sockets are still to be handed to us."""

    @property
    def terms(self) -> Mapping[str, object]: ...

    def events(
        self, listeners: Sequence[socket.socket]
    ) -> AsyncIterator[Mapping[str, object]]: ...


class Administered(Protocol):
    """What a running daemon offers to its administrators.

    Answers are JSON-ready values (dataclasses and addresses are fine), or awaitables of them.
    Raise Refused for what cannot be done, NotThisRole for what is the other daemon's.
    """

    def status(self) -> object: ...

    def paths(self) -> object: ...

    def sessions(self) -> object: ...

    def flows(self) -> object: ...

    async def metrics(self) -> Sequence[Metric]: ...

    def roam(self, link: str | None) -> object: ...

    def portal(self, link: str | None) -> AbstractAsyncContextManager[OpenedWay]:
        """A way for one program to sign in over a link, given up at the end of the context."""

    def reload(self) -> object: ...

    def replace_proxy(self) -> object: ...

    def events(self) -> AsyncIterator[Mapping[str, object]]:
        """What happens from now on. Bounded: ends when the watcher is too slow to follow."""


@dataclass(frozen=True, slots=True)
class ControlLimits:
    """What clients can make us keep, and how long they can make us wait."""

    clients: int = 64
    """Connections at a time, watchers included; a person needs one."""
    watchers: int = 16
    """Leaves room for questions while some dashboards watch."""
    request: Seconds = Seconds(5.0)
    """For a request to arrive; our own command sends it at once."""
    answer: Seconds = Seconds(15.0)
    """For the daemon to answer; a roam or a reload may ask charon first, which has five."""
    write: Seconds = Seconds(5.0)
    """For a client to take its reply. One that is stopped, or that watches through a terminal
    which nobody scrolls, must not collect events here."""
    linger: Seconds = Seconds(1.0)
    """For the last words to a client that is being dropped."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, as the kernel knows it."""

    pid: int
    uid: int
    groups: frozenset[int]


@dataclass(slots=True)
class ControlCounters:
    answered: int = 0
    refused_peer: int = 0
    """connections of users who may not administer"""
    refused_busy: int = 0
    """connections beyond the limits of clients or watchers"""
    malformed: int = 0
    timed_out: int = 0
    slow_watchers: int = 0


def peer_of(connection: socket.socket) -> Peer:
    pid, uid, gid = _UCRED.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    groups = {gid}
    # More groups than fit, or a kernel without the option: the primary group alone counts.
    with contextlib.suppress(OSError):
        octets = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * MAX_GROUPS)
        groups |= {number for (number,) in struct.iter_unpack("I", octets)}
    return Peer(pid, uid, frozenset(groups))


def _stop_this_process() -> None:
    """As systemd does."""
    os.kill(os.getpid(), signal.SIGTERM)


class ControlServer:
    """Serves from `__aenter__` to `__aexit__`. Take the DaemonLock first."""

    def __init__(
        self,
        config: Control,
        administered: Administered,
        stop: Callable[[], None] = _stop_this_process,
        limits: ControlLimits = ControlLimits(),
    ) -> None:
        self.counters = ControlCounters()
        self._path = config.socket
        self._group = config.group
        self._gid: int | None = None
        self._administered = administered
        self._stop = stop
        self._limits = limits
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._watchers = 0

    async def __aenter__(self) -> Self:
        self._gid = self._group_id()
        try:
            listener = self._listen()
            self._server = await asyncio.start_unix_server(
                self._accepted, sock=listener, limit=REQUEST_LIMIT, backlog=BACKLOG
            )
        except OSError as error:
            raise OrchestratorError(f"cannot serve {self._path}: {error}") from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)
        clients = tuple(self._clients)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    def _listen(self) -> socket.socket:
        """The socket, closed to others from its first instant on."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Until it listens nobody can connect, so that the mode can be set in peace.
            listener.bind(str(self._path))
            self._path.chmod(0o600)
            if self._gid is not None:
                os.chown(self._path, -1, self._gid)
                self._path.chmod(0o660)
        except OSError:
            listener.close()
            raise
        return listener

    def _group_id(self) -> int | None:
        if self._group is None:
            return None
        try:
            return grp.getgrnam(self._group).gr_gid
        except KeyError as error:
            raise OrchestratorError(
                f"there is no group {self._group}: run `groupadd --system {self._group}`, "
                "or correct [control] group"
            ) from error

    def may_administer(self, peer: Peer) -> bool:
        """Root (or whoever runs this daemon), and members of the group."""
        return peer.uid in (0, os.geteuid()) or self._gid in peer.groups

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._converse(reader, writer), name="control client")
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            writer.transport.set_write_buffer_limits(high=WRITE_BUFFER)
            await self._serve(reader, writer)
        except (OSError, TimeoutError):
            writer.transport.abort()  # gone, or does not read
        finally:
            await self._close(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = peer_of(writer.get_extra_info("socket"))
        if not self.may_administer(peer):
            self.counters.refused_peer += 1
            _LOG.warning(
                "refused an administrator",
                extra={"ORCH_UID": peer.uid, "ORCH_PID": peer.pid},
            )
            group = f" or join the group {self._group}" if self._group else ""
            remedy = f"run it as root{group}"
            await self._send(writer, Refusal(f"user {peer.uid} may not administer", remedy))
        elif len(self._clients) > self._limits.clients:
            self.counters.refused_busy += 1
            await self._send(writer, Refusal("too many clients", "close some, then try again"))
        else:
            request = await self._read(reader)
            if isinstance(request, Refusal):
                await self._send(writer, request)
            elif request is not None and request.verb is Verb.WATCH:
                await self._watch(reader, writer)
            elif request is not None and request.verb is Verb.PORTAL:
                await self._sign_in(reader, writer, request)
            elif request is not None:
                await self._send(writer, await self._answer(request))

    async def _read(self, reader: asyncio.StreamReader) -> Request | Refusal | None:
        """The request, what to say instead, or None if the client went away silently."""
        try:
            async with asyncio.timeout(self._limits.request):
                line = await reader.readline()
            return decode_request(line) if line else None
        except TimeoutError:
            self.counters.timed_out += 1
            return Refusal(f"no request within {self._limits.request:g} s")
        except PeerError as error:
            self.counters.malformed += 1
            return Refusal(str(error), "use the orchestrator command of the same version")
        except ValueError:  # asyncio: no newline within the limit
            self.counters.malformed += 1
            return Refusal(f"a request of more than {REQUEST_LIMIT} octets")

    async def _answer(self, request: Request) -> Reply:
        try:
            async with asyncio.timeout(self._limits.answer):
                result = self._ask(request)
                if inspect.isawaitable(result):
                    result = await result
        except TimeoutError:
            self.counters.timed_out += 1
            return Refusal(
                f"the daemon did not answer {request.verb} within {self._limits.answer:g} s",
                "look at its log",
            )
        except Refused as refused:
            return Refusal(refused.error, refused.remedy)
        except ConfigError as error:
            return Refusal(str(error), faults=error.faults)
        except OrchestratorError as error:
            return Refusal(str(error), error.remedy)
        self.counters.answered += 1
        return Done(result)

    def _ask(self, request: Request) -> object:
        match request.verb:
            case Verb.STATUS:
                return self._status()
            case Verb.PATHS:
                return self._administered.paths()
            case Verb.SESSIONS:
                return self._administered.sessions()
            case Verb.FLOWS:
                return self._administered.flows()
            case Verb.METRICS:
                return self._metrics()
            case Verb.ROAM:
                return self._administered.roam(request.link)
            case Verb.RELOAD:
                return self._administered.reload()
            case Verb.REPLACE_PROXY:
                return self._administered.replace_proxy()
            case Verb.STOP:
                self._stop()
                return {"stopping": os.getpid()}
            case Verb.WATCH | Verb.PORTAL:
                raise ValueError("watching is no question")

    async def _status(self) -> object:
        """The daemon's own, and what happened at this socket."""
        status = self._administered.status()
        if inspect.isawaitable(status):
            status = await status
        content = plain(status)
        return {**content, "control": self.counters} if isinstance(content, dict) else content

    async def metrics(self) -> tuple[Metric, ...]:
        """The daemon's own, and what happened at this socket."""
        outcomes = {name: float(count) for name, count in asdict(self.counters).items()}
        about = "What became of questions to the control socket."
        ours = counters("control_requests", about, "outcome", outcomes)
        return (*await self._administered.metrics(), ours)

    async def _metrics(self) -> dict[str, object]:
        found = await self.metrics()
        return {"text": await written(found), "metrics": found}

    async def _watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Events until the client leaves, is too slow, or the daemon ends."""
        if self._watchers >= self._limits.watchers:
            self.counters.refused_busy += 1
            remedy = "close one, then try again"
            await self._send(writer, Refusal("too many watchers", remedy))
            return
        self._watchers += 1
        events = aiter(self._administered.events())
        # The first reply says that nothing is missed from here on.
        writer.write(encode_reply(Done({"event": "watching"})))
        try:
            too_slow = await self._relay_events(reader, writer, events)
        finally:
            self._watchers -= 1
        if too_slow:
            self.counters.slow_watchers += 1
            notice = Refusal(
                "this watcher is too slow to follow, and events were lost",
                "watch again; write to a file rather than to a slow terminal",
            )
            writer.write(encode_reply(notice))

    async def _sign_in(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request
    ) -> None:
        """A way out for the client's program, until that is closed or the client leaves."""
        try:
            async with self._administered.portal(request.link) as way:
                listeners = await handed.listeners(
                    writer, encode_reply(Done(way.terms)), self._limits.request
                )
                self.counters.answered += 1
                await self._relay_events(reader, writer, aiter(way.events(listeners)))
        except Refused as refused:
            await self._send(writer, Refusal(refused.error, refused.remedy))
        except PeerError as error:
            self.counters.malformed += 1
            await self._send(writer, Refusal(str(error)))

    async def _relay_events(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        events: AsyncIterator[Mapping[str, object]],
    ) -> bool:
        """True if there are no more, or the client could not follow; False if it left."""
        # Whatever it sends, or its end, ends it.
        gone = asyncio.create_task(reader.read(1), name="watcher gone")
        upcoming = asyncio.ensure_future(anext(events, None))
        try:
            while True:
                # Unbounded on purpose: hours without an event are normal, and an end of the
                # client or of the daemon ends it.
                await asyncio.wait((upcoming, gone), return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    return False
                event = upcoming.result()
                if event is None:
                    return True
                upcoming = asyncio.ensure_future(anext(events, None))
                writer.write(encode_reply(Done(event)))
                try:
                    async with asyncio.timeout(self._limits.write):
                        await writer.drain()
                except TimeoutError:
                    return True
        finally:
            gone.cancel()
            upcoming.cancel()
            await asyncio.gather(gone, upcoming, return_exceptions=True)
            if isinstance(events, AsyncGenerator):
                await events.aclose()

    async def _send(self, writer: asyncio.StreamWriter, reply: Reply) -> None:
        writer.write(encode_reply(reply))
        async with asyncio.timeout(self._limits.write):
            await writer.drain()

    async def _close(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Lets the last words out, for a moment.

        A socket that is closed with something unread in it resets the connection, and our
        words with it: the client closes first, if it does.
        """
        try:
            async with asyncio.timeout(self._limits.linger):
                if not writer.transport.is_closing():
                    writer.write_eof()
                    while await reader.read(REQUEST_LIMIT):
                        pass
        except (OSError, TimeoutError, asyncio.CancelledError):
            writer.transport.abort()
        writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()  # nothing is left to write: the next turn of the loop
