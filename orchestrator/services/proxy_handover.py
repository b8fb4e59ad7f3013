"""A proxy worker is replaced by a new one, and no connection notices more than a pause.

`give` is the old worker's side, `Successor` the new one's; `wire.proxy_handover` has the order
of what they say. Both block their process: from the first message to the last no flow moves in
either, so that what is told of a flow stays true, and whoever is killed, at any instruction,
leaves one process that has the flows and knows it.

- The new one dies before it has said Taken: it has moved nothing; the old one goes on with all.
- The old one dies before it has said Commit: the new one goes on with what it has received.
  That its predecessor is dead, and did not merely give up, it believes the kernel alone.
- The old one gives up waiting for Taken: it makes sure that Taken cannot be said any more, then
  looks whether it was.
"""

import contextlib
import itertools
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from orchestrator.adapters import clock
from orchestrator.adapters.fdpass import Channel, ChannelEnded, Process, close_all
from orchestrator.adapters.spool import opened
from orchestrator.core.errors import OrchestratorError, PeerError
from orchestrator.core.flows import ListenerKey
from orchestrator.core.quantities import Seconds
from orchestrator.services.proxy_engine import Engine
from orchestrator.services.proxy_flow import Ends
from orchestrator.services.proxy_seat import Seat
from orchestrator.wire.proxy_control import (
    LINE_OCTETS,
    Done,
    Failed,
    Greeting,
    HandOver,
    Hello,
    Inheritance,
    Reply,
    Request,
    decode_reply,
    encode_request,
)
from orchestrator.wire.proxy_handover import (
    MOST_OCTETS,
    Batch,
    Commit,
    Declined,
    HandedFlow,
    Message,
    Opening,
    Ready,
    Received,
    Taken,
    batches,
    decode,
    encode,
)

STEP_SECONDS: Final = Seconds(5.0)
"""For one message; a batch takes some 10 ms, in the lab's kernel some 100."""
WHOLE_SECONDS: Final = Seconds(60.0)
"""For all: 65,000 flows take some 10 s."""
LEAVING_SECONDS: Final = Seconds(2.0)
"""For a killed process to be gone after its sockets are."""
_LOCK, _CONTROL, _LISTENERS = 0, 1, 2
"""Where the Opening's descriptors are."""


class Abandoned(OrchestratorError):
    """The handover did not happen: each worker has what it had before."""


# ---- the old worker


def give(engine: Engine, seat: Seat, events_lost: int, sock: socket.socket) -> None:
    """Another process has everything when this returns: let go of it.

    Raises Abandoned: everything is still ours, and nothing has moved.
    """
    channel = Channel(sock, MOST_OCTETS, STEP_SECONDS, WHOLE_SECONDS)
    try:
        _offer(engine, seat, events_lost, channel)
        _hear_taken(channel)
    except (PeerError, OSError) as error:
        raise Abandoned(str(error)) from error


def _offer(engine: Engine, seat: Seat, events_lost: int, channel: Channel) -> None:
    _expect(channel, Ready())
    listeners = engine.listeners
    counters = engine.counters(events_lost)
    opening = Opening(counters.open, engine.settings, counters, tuple(listeners))
    accepting = (seat.listener, *listeners.values())
    channel.send(encode(opening), (seat.lock, *(each.fileno() for each in accepting)))
    _expect(channel, Received(0))
    descriptors = (each for ends in engine.ends() for each in ends.descriptors())
    given = 0
    for batch in batches(engine.handed()):
        own = tuple(itertools.islice(descriptors, _descriptors(batch)))
        channel.send(encode(batch), own)
        given += len(batch.flows)
        _expect(channel, Received(given))
    channel.send(encode(Commit()))


def _expect(channel: Channel, wanted: Message) -> None:
    octets, descriptors = channel.receive()
    close_all(descriptors)
    answer = decode(octets)
    if isinstance(answer, Declined):
        raise PeerError(f"the new worker declines: {answer.problem}")
    if answer != wanted:
        raise PeerError(f"the new worker says {type(answer).__name__}, not what was expected")


def _hear_taken(channel: Channel) -> None:
    try:
        _expect(channel, Taken())
    except TimeoutError:
        channel.refuse_more()
        _expect(channel, Taken())


# ---- the new worker


@dataclass(slots=True)
class Estate:
    """What was received."""

    opening: Opening
    seat: Seat
    listeners: dict[ListenerKey, socket.socket]
    flows: list[tuple[HandedFlow, Ends]] = field(default_factory=list)


class Successor:
    """Takes over from the worker that serves `path`; one block, from `with` to its end.

    Every call raises Abandoned when the other worker goes on without us. What was received is
    closed by ending this process, which ends no connection then.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._channel = Channel(self._sock, MOST_OCTETS, STEP_SECONDS, WHOLE_SECONDS)
        self._sock.settimeout(STEP_SECONDS)
        self._process: Process | None = None
        self._predecessor = Greeting(0, "", None)
        self._began = clock.now()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sock.close()
        if self._process is not None:
            self._process.close()

    def receive(self) -> Estate:
        """Everything the other worker has, or had when it died; not ours yet."""
        try:
            self._ask_for_it()
            return self._receive_all()
        except (PeerError, OSError) as error:
            with contextlib.suppress(PeerError, OSError):
                self._channel.send(encode(Declined(str(error))))
            raise Abandoned(f"nothing was taken over: {error}") from error

    def take(self, estate: Estate) -> Inheritance:
        """It is ours from now on."""
        try:
            self._channel.send(encode(Taken()))
        except (ChannelEnded, TimeoutError) as error:
            if not self._predecessor_has_ended():
                raise Abandoned("nothing was taken over: the other worker goes on") from error
        before, flows = self._predecessor, len(estate.flows)
        lost = before.lost + estate.opening.flows - flows
        standstill = Seconds(clock.now() - self._began)
        return Inheritance(before.first, before.pid, flows, lost, standstill)

    def _ask_for_it(self) -> None:
        self._sock.connect(str(self._path))
        greeting = self._ask(Hello())
        if not isinstance(greeting, Greeting):
            raise PeerError("the other worker does not greet")
        self._predecessor = greeting
        self._process = Process(greeting.pid)
        # Its number was its own while it answered, so the process that we hold is the one.
        self._began = clock.now()
        answer = self._ask(HandOver())
        if isinstance(answer, Failed):
            raise PeerError(f"the other worker refuses: {answer.problem}")
        if not isinstance(answer, Done):
            raise PeerError("the other worker does not hand over")
        self._channel.send(encode(Ready()))

    def _ask(self, request: Request) -> Reply:
        self._sock.sendall(encode_request(request))
        line = b""
        while not line.endswith(b"\n"):
            part = self._sock.recv(LINE_OCTETS)
            line += part
            if not part or len(line) > LINE_OCTETS:
                raise PeerError("the other worker does not answer")
        return decode_reply(line)

    def _receive_all(self) -> Estate:
        estate = self._receive_opening()
        flows = estate.flows
        while True:
            with contextlib.suppress(ChannelEnded):  # what it sent before is there all the same
                self._channel.send(encode(Received(len(flows))))
            try:
                message, descriptors = self._hear()
            except ChannelEnded:
                if self._predecessor_has_ended():
                    return estate
                raise
            match message:
                case Batch(handed) if len(descriptors) == _descriptors(message):
                    flows += _with_ends(handed, descriptors)
                case Commit() if len(flows) == estate.opening.flows and not descriptors:
                    return estate
                case _:
                    close_all(descriptors)
                    raise PeerError(f"{type(message).__name__} makes no sense now")

    def _receive_opening(self) -> Estate:
        opening, descriptors = self._hear()
        if not isinstance(opening, Opening) or len(descriptors) != _LISTENERS + len(
            opening.listeners
        ):
            close_all(descriptors)
            raise PeerError(f"{type(opening).__name__} makes no sense now")
        sockets = _sockets(descriptors[_CONTROL:])
        seat = Seat(self._path, descriptors[_LOCK], sockets[0])
        return Estate(opening, seat, dict(zip(opening.listeners, sockets[1:], strict=True)))

    def _hear(self) -> tuple[Message, tuple[int, ...]]:
        octets, descriptors = self._channel.receive()
        try:
            return decode(octets), descriptors
        except PeerError:
            close_all(descriptors)
            raise

    def _predecessor_has_ended(self) -> bool:
        return self._process is not None and self._process.has_ended(LEAVING_SECONDS)


def _descriptors(batch: Batch) -> int:
    return sum(flow.descriptors for flow in batch.flows)


def _with_ends(
    flows: Sequence[HandedFlow], descriptors: Sequence[int]
) -> Iterator[tuple[HandedFlow, Ends]]:
    """Raises OSError for descriptors that are not what the flows say."""
    own = iter(descriptors)
    for flow in flows:
        inner, outer = _sockets((next(own), next(own)))
        spools = [spool and opened(next(own), *spool) for spool in flow.spools]
        yield flow, Ends((inner, outer), (spools[0], spools[1]))


def _sockets(descriptors: Sequence[int]) -> list[socket.socket]:
    """Raises OSError for what is no socket."""
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for sock in sockets:
        sock.settimeout(0.0)
    return sockets
