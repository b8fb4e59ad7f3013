"""How one proxy worker gives everything it has to the next, over a unix socket.

    old worker                                        new worker
                                                      Ready
    Opening: lock, control socket, listeners          Received(0)
    Batch: some flows, two sockets each               Received(flows so far)
    …                                                 …
    Commit                                            Taken

Until it has sent Taken, the new worker touches none of the flows; once it has, they are its
own. Until it has received Taken, the old one lets go of none, and moves none either. Declined,
instead of any answer, or an end of the connection, says that nothing was taken. A new worker
whose predecessor dies before Commit goes on with what it has received.

A message is: length of its head (4 octets, network order), head (a JSON object), and the bytes
that flows have queued, in the order of the flows, from INNER before from OUTER. Descriptors
travel beside it, in the order of what it lists; of a flow inner before outer, then the files of
what is spooled from INNER and from OUTER, where there is something.

`FORMAT` is what the old worker writes; a new one reads it, or declines. Whatever changes what
is written has another number; whoever can still read the earlier one says so in `READABLE`.
What does not decode raises PeerError, and nothing else.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, assert_never

from orchestrator.core.errors import PeerError
from orchestrator.core.flows import (
    LARGEST_QUEUE,
    FlowDirection,
    ListenerKey,
    ProxyCounters,
    ProxySettings,
    SocketAddress,
)
from orchestrator.core.quantities import Instant
from orchestrator.core.relay_events import Leg
from orchestrator.core.relay_state import Half, RelayState, StreamState
from orchestrator.wire.json_fields import Fields
from orchestrator.wire.proxy_control import LINE_OCTETS
from orchestrator.wire.proxy_values import (
    counters_object,
    read_counters,
    read_settings,
    settings_object,
    socket_address,
)

FORMAT: Final = 2
READABLE: Final = frozenset({FORMAT})
"""Format 1, without spools, was in no release."""
DESCRIPTORS_PER_BATCH: Final = 200
"""After which a batch is full: 100 flows of two, or the last has four; the kernel passes 253 at
once."""
OCTETS_PER_BATCH: Final = 1 << 20
"""Queued bytes after which a batch is full."""
MOST_OCTETS: Final = LINE_OCTETS + OCTETS_PER_BATCH + 2 * LARGEST_QUEUE
"""Of a message: a head, and the bytes of a full batch whose last flow had two full queues."""
_HEAD: Final = struct.Struct("!I")


class SpoolExtent(NamedTuple):
    """Where in its file is what a half-stream has spooled: in octets, from its beginning."""

    head: int
    tail: int


@dataclass(frozen=True, slots=True)
class HandedFlow:
    """A flow, without its sockets and files."""

    vip: SocketAddress
    peer: SocketAddress
    direction: FlowDirection
    since: Instant
    deadline: Instant
    """of the dial"""
    relay: RelayState
    queued: tuple[bytes, bytes]
    """from INNER, from OUTER: what was read there and is not written to the other yet"""
    spools: tuple[SpoolExtent | None, SpoolExtent | None] = (None, None)
    """from INNER, from OUTER; None: nothing is spooled"""

    def __post_init__(self) -> None:
        counts = tuple(stream.queued for stream in self.relay.streams)
        if counts != (len(self.queued[0]), len(self.queued[1])):
            raise ValueError("the bytes are not as many as the relay says")
        for stream, spool in zip(self.relay.streams, self.spools, strict=True):
            if bool(stream.spooled) is not (spool is not None):
                raise ValueError("there is a spool and nothing in it, or the other way round")
            if spool is not None and not 0 <= spool.head < spool.tail:
                raise ValueError(f"a spool from {spool.head} to {spool.tail}")

    @property
    def descriptors(self) -> int:
        return len(self.queued) + sum(spool is not None for spool in self.spools)


@dataclass(frozen=True, slots=True)
class Ready:
    """Speak."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Begins; with it come the lock, the control socket, and the listeners."""

    flows: int
    """that will follow"""
    settings: ProxySettings
    counters: ProxyCounters
    listeners: Sequence[ListenerKey]


@dataclass(frozen=True, slots=True)
class Batch:
    flows: Sequence[HandedFlow]


@dataclass(frozen=True, slots=True)
class Commit:
    """That was all."""


@dataclass(frozen=True, slots=True)
class Received:
    flows: int
    """in all, so far"""


@dataclass(frozen=True, slots=True)
class Taken:
    """All is ours now."""


@dataclass(frozen=True, slots=True)
class Declined:
    problem: str


Message = Ready | Opening | Batch | Commit | Received | Taken | Declined


def batches(flows: Iterable[HandedFlow]) -> Iterator[Batch]:
    """All flows in their order, in batches whose messages are not longer than MOST_OCTETS."""
    batch: list[HandedFlow] = []
    octets = descriptors = 0
    for flow in flows:
        batch.append(flow)
        octets += sum(len(queue) for queue in flow.queued)
        descriptors += flow.descriptors
        if descriptors >= DESCRIPTORS_PER_BATCH or octets >= OCTETS_PER_BATCH:
            yield Batch(tuple(batch))
            batch, octets, descriptors = [], 0, 0
    if batch:
        yield Batch(tuple(batch))


def encode(message: Message) -> bytes:
    match message:
        case Ready():
            return _message("ready")
        case Opening(flows, settings, counters, listeners):
            return _message(
                "opening",
                format=FORMAT,
                flows=flows,
                settings=settings_object(settings),
                counters=counters_object(counters),
                listeners=[_listener(key) for key in listeners],
            )
        case Batch(flows):
            queued = b"".join(queue for flow in flows for queue in flow.queued)
            return _message("batch", queued, flows=[_flow(flow) for flow in flows])
        case Commit():
            return _message("commit")
        case Received(flows):
            return _message("received", flows=flows)
        case Taken():
            return _message("taken")
        case Declined(problem):
            return _message("declined", problem=problem)
        case _:
            assert_never(message)


def decode(octets: bytes) -> Message:
    head, queued = _split(octets)
    fields = Fields.parse(head, "the head")
    message: Message
    match fields.text("message"):
        case "ready":
            message = Ready()
        case "opening":
            message = _read_opening(fields)
        case "batch":
            message = _read_batch(fields, queued)
            queued = b""
        case "commit":
            message = Commit()
        case "received":
            message = Received(fields.number("flows"))
        case "taken":
            message = Taken()
        case "declined":
            message = Declined(fields.text("problem"))
        case unknown:
            raise PeerError(f"an unknown message {unknown[:40]!r}")
    fields.close()
    if queued:
        raise PeerError("bytes follow that belong to no flow")
    return message


def _split(octets: bytes) -> tuple[bytes, bytes]:
    if len(octets) < _HEAD.size:
        raise PeerError("a message without a head")
    (length,) = _HEAD.unpack_from(octets)
    end = _HEAD.size + length
    if not length <= min(LINE_OCTETS, len(octets) - _HEAD.size):
        raise PeerError(f"a head of {length} octets")
    return octets[_HEAD.size : end], octets[end:]


def _message(kind: str, queued: bytes = b"", **fields: object) -> bytes:
    head = json.dumps({"message": kind, **fields}, separators=(",", ":")).encode()
    return _HEAD.pack(len(head)) + head + queued


def _read_opening(fields: Fields) -> Opening:
    # First: everything else may mean something else in another format.
    number = fields.number("format")
    if number not in READABLE:
        raise PeerError(f"format {number} is not known here")
    return Opening(
        fields.number("flows"),
        read_settings(fields.fields("settings")),
        read_counters(fields.fields("counters")),
        tuple(_read_listener(one) for one in fields.every("listeners")),
    )


def _listener(key: ListenerKey) -> dict[str, object]:
    return {"direction": key.direction, "version": key.version, "port": key.port}


def _read_listener(fields: Fields) -> ListenerKey:
    key = ListenerKey(
        fields.word("direction", FlowDirection), fields.number("version"), fields.number("port")
    )
    fields.close()
    return key


def _flow(flow: HandedFlow) -> dict[str, object]:
    relay = flow.relay
    return {
        "vip": socket_address(flow.vip),
        "peer": socket_address(flow.peer),
        "direction": flow.direction,
        "since": flow.since,
        "deadline": flow.deadline,
        "dialled": relay.dialled.name,
        "limit": relay.limit,
        "patient": _names(relay.patient),
        "lost": [] if relay.lost is None else [relay.lost.name],
        "watched": _names(relay.watched),
        "drained": _names(relay.drained),
        "streams": [
            _stream(stream, spool)
            for stream, spool in zip(relay.streams, flow.spools, strict=True)
        ],
    }


def _stream(stream: StreamState, spool: SpoolExtent | None) -> dict[str, object]:
    head, tail = spool or SpoolExtent(0, 0)
    return {
        "half": stream.half.name,
        "readable": stream.readable,
        "hangup": stream.hangup,
        "writable": stream.writable,
        "queued": stream.queued,
        "moved": stream.moved,
        "spooled": stream.spooled,
        "spool_head": head,
        "spool_tail": tail,
    }


def _read_batch(fields: Fields, octets: bytes) -> Batch:
    flows = []
    for one in fields.every("flows"):
        flow, octets = _read_flow(one, octets)
        flows.append(flow)
    if octets:
        raise PeerError("bytes follow that belong to no flow")
    return Batch(tuple(flows))


def _read_flow(fields: Fields, octets: bytes) -> tuple[HandedFlow, bytes]:
    """The flow whose bytes come first, and the bytes of those that follow."""
    read = [_read_stream(one) for one in fields.every("streams")]
    streams, spools = [stream for stream, _ in read], [spool for _, spool in read]
    lost = _read_legs(fields, "lost")
    if len(streams) != 2 or len(lost) > 1:
        raise PeerError("a flow has two half-streams, and loses one leg at most")
    first = streams[0].queued
    last = first + streams[1].queued
    try:
        relay = RelayState(
            _leg(fields.text("dialled")),
            fields.number("limit"),
            _read_legs(fields, "patient"),
            next(iter(lost), None),
            _read_legs(fields, "watched"),
            _read_legs(fields, "drained"),
            (streams[0], streams[1]),
        )
        flow = HandedFlow(
            fields.socket("vip"),
            fields.socket("peer"),
            fields.word("direction", FlowDirection),
            Instant(fields.seconds("since")),
            Instant(fields.seconds("deadline")),
            relay,
            (octets[:first], octets[first:last]),
            (spools[0], spools[1]),
        )
    except ValueError as error:
        raise PeerError(f"a flow: {error}") from error
    if relay.limit > LARGEST_QUEUE:
        raise PeerError(f"a flow that queues {relay.limit} octets, {LARGEST_QUEUE} at most may")
    fields.close()
    return flow, octets[last:]


def _read_stream(fields: Fields) -> tuple[StreamState, SpoolExtent | None]:
    name = fields.text("half")
    if name not in Half.__members__:
        raise PeerError(f"{name[:40]!r} is no state of a half-stream")
    stream = StreamState(
        Half[name],
        fields.flag("readable"),
        fields.flag("hangup"),
        fields.flag("writable"),
        fields.number("queued"),
        fields.number("moved"),
        fields.number("spooled"),
    )
    spool = SpoolExtent(fields.number("spool_head"), fields.number("spool_tail"))
    fields.close()
    return stream, spool if spool.tail else None


def _names(legs: Iterable[Leg]) -> list[str]:
    return [leg.name for leg in sorted(legs)]


def _read_legs(fields: Fields, key: str) -> frozenset[Leg]:
    return frozenset(_leg(name) for name in fields.texts(key))


def _leg(name: str) -> Leg:
    if name not in Leg.__members__:
        raise PeerError(f"{name[:40]!r} is no leg")
    return Leg[name]
