"""The worker's control socket: answers the daemon, and whoever else root lets in.

A client costs a bounded amount, whatever it sends: one line of bounded length at a time, one
answer, no more clients than `CLIENTS`; after the first line that makes no sense it is told so
and gone. A watcher that does not read is gone too, and counted: who watches has heard all.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from itertools import islice
from typing import Final, assert_never

from orchestrator import __version__
from orchestrator.adapters.fdpass import peer_is_root
from orchestrator.core.errors import KernelError, PeerError
from orchestrator.core.flows import FlowEvent
from orchestrator.services.proxy_engine import Engine
from orchestrator.wire.proxy_control import (
    FLOWS_PER_PAGE,
    LINE_OCTETS,
    MOST_RESUMED,
    Configure,
    Counters,
    Done,
    EndFlows,
    Failed,
    FlowsPage,
    GetCounters,
    Greeting,
    HandOver,
    Hello,
    Inheritance,
    ListFlows,
    Reply,
    Request,
    Restart,
    Resume,
    Resumed,
    Stop,
    Watch,
    decode_request,
    encode_reply,
)

CLIENTS: Final = 16
"""The daemon has two, each `status` one: more is a mistake somewhere."""
WRITE_SECONDS: Final = 10.0
"""A client that has not taken its answer by then is gone."""
WATCHER_OCTETS: Final = 1 << 20
"""Of events that a watcher has not read: some 3,000."""
_log = logging.getLogger("orchestrator.proxy")


class ControlSocket:
    """Serves `engine`; `on_stop` is called when a client asks the worker to end, `on_hand_over`
    with the connection of a client that is to have everything."""

    def __init__(
        self,
        engine: Engine,
        on_stop: Callable[[], None],
        on_hand_over: Callable[[socket.socket], None],
    ) -> None:
        self._engine = engine
        self._on_stop = on_stop
        self._on_hand_over = on_hand_over
        self._clients = 0
        self._watchers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.events_lost = 0
        self.inheritance: Inheritance | None = None

    @contextlib.asynccontextmanager
    async def serving(self, listener: socket.socket) -> AsyncIterator[None]:
        """Answers who connects there, until the end of the block."""
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer), name="control client")
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        self._server = await asyncio.start_unix_server(
            connected, sock=listener, limit=LINE_OCTETS
        )
        try:
            yield
        finally:
            self.accept_no_more()
            for task in tuple(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def accept_no_more(self) -> None:
        """Who connects from now on is for whoever else has the listener."""
        if self._server is not None:
            self._server.close()

    def tell(self, event: FlowEvent) -> None:
        """Passes `event` on to every watcher that keeps up."""
        if not self._watchers:
            return
        line = encode_reply(event)
        for writer in tuple(self._watchers):
            if writer.transport.get_write_buffer_size() > WATCHER_OCTETS:
                self.events_lost += 1
                self._watchers.discard(writer)
                writer.transport.abort()
            else:
                writer.write(line)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients > CLIENTS:
                await _send(writer, Failed(f"{CLIENTS} clients are served already"))
            else:
                await self._converse(reader, writer)
        except (OSError, TimeoutError):
            pass  # it went away
        except Exception:  # noqa: BLE001 - a defect in an answer must not cost a connection
            _log.exception("a control client could not be answered")
        finally:
            self._clients -= 1
            self._watchers.discard(writer)
            writer.transport.abort()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                await _send(writer, Failed(f"a line of more than {LINE_OCTETS} octets"))
                return
            if not line.endswith(b"\n"):
                return
            try:
                request = decode_request(line)
            except PeerError as error:
                await _send(writer, Failed(str(error)))
                return
            await self._answer(request, writer)
            if isinstance(request, HandOver):
                return

    async def _hand_over(self, writer: asyncio.StreamWriter) -> None:
        """The connection is another protocol's from here on, and ends with it."""
        sock = writer.get_extra_info("socket")
        if not peer_is_root(sock):
            await _send(writer, Failed("only root may have what this worker has"))
            return
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await _send(writer, Done(self._engine.open_flows))
        with sock.dup() as own:
            self._on_hand_over(own)

    async def _answer(  # noqa: C901 - one row per request: the table is the point
        self, request: Request, writer: asyncio.StreamWriter
    ) -> None:
        match request:
            case Hello():
                greeting = Greeting(os.getpid(), __version__, self.inheritance)
                await _send(writer, greeting)
            case Configure(settings):
                try:
                    self._engine.configure(settings)
                except KernelError as error:
                    await _send(writer, Failed(str(error)))
                else:
                    await _send(writer, Done(0))
            case ListFlows():
                await self._list(writer)
            case GetCounters():
                await _send(writer, Counters(self._engine.counters(self.events_lost)))
            case Watch():
                self._watchers.add(writer)
                await _send(writer, Done(0))
            case Resume(vips):
                resumed = [pair for vip in vips for pair in self._engine.resume(vip)]
                await _send(writer, Resumed(resumed[:MOST_RESUMED]))
            case Restart(flows):
                await _send(writer, Done(self._engine.restart(flows)))
            case EndFlows(vips):
                await _send(writer, Done(self._engine.end_flows(frozenset(vips))))
            case Stop():
                await _send(writer, Done(self._engine.open_flows))
                self._on_stop()
            case HandOver():
                await self._hand_over(writer)
            case _:
                assert_never(request)

    async def _list(self, writer: asyncio.StreamWriter) -> None:
        flows = self._engine.flows()
        following = tuple(islice(flows, FLOWS_PER_PAGE))
        more = True
        while more:
            page, following = following, tuple(islice(flows, FLOWS_PER_PAGE))
            more = bool(following)
            await _send(writer, FlowsPage(page, more))
            await asyncio.sleep(0)  # the flows have their turn between two pages


async def _send(writer: asyncio.StreamWriter, reply: Reply) -> None:
    writer.write(encode_reply(reply))
    async with asyncio.timeout(WRITE_SECONDS):
        await writer.drain()
