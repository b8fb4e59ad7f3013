"""What the server daemon and the proxy worker say to each other: lines of JSON.

    daemon                                  worker
    {"v":1,"do":"hello"}                    {"v":1,"reply":"greeting","pid":…,"release":…,…}
    {"v":1,"do":"configure","settings":…}   {"v":1,"reply":"done","count":0}
    {"v":1,"do":"flows"}                    {"v":1,"reply":"flows","flows":[…],"more":true} …
    {"v":1,"do":"counters"}                 {"v":1,"reply":"counters","counters":…}
    {"v":1,"do":"watch"}                    {"v":1,"reply":"done","count":0}, then events
    {"v":1,"do":"resume","vips":[…]}        {"v":1,"reply":"resumed","flows":[…]}
    {"v":1,"do":"end","vips":[…]}           {"v":1,"reply":"done","count":3}
    {"v":1,"do":"stop"}                     {"v":1,"reply":"done","count":7}
    {"v":1,"do":"hand-over"}                {"v":1,"reply":"done","count":7}, then
                                            `wire.proxy_handover` is spoken
    anything else                           {"v":1,"reply":"failed","problem":…}

A line is at most `LINE_OCTETS` long, "\\n" included. Keys are all there and no others. Whatever
does not decode raises PeerError, and nothing else. `hello`, its greeting and `hand-over` are
how workers and daemons of different releases meet: they stay as they are.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from orchestrator.core.errors import PeerError
from orchestrator.core.flows import (
    DialFailure,
    FlowDirection,
    FlowEnded,
    FlowEvent,
    FlowOpened,
    FlowRecord,
    FlowRefused,
    ProxyCounters,
    ProxySettings,
    Refusal,
    SocketAddress,
)
from orchestrator.core.quantities import IPAddress, Seconds
from orchestrator.core.relay_events import Outcome
from orchestrator.wire.json_fields import Fields
from orchestrator.wire.proxy_values import (
    counters_object,
    read_counters,
    read_record,
    read_settings,
    record_object,
    settings_object,
    socket_address,
)

VERSION: Final = 1
READY: Final = b"ready\n"
"""What a new worker writes to the descriptor it was given, once its socket answers."""
LINE_OCTETS: Final = 256 * 1024
"""A page of flows, or a thousand pools, with room to spare."""
FLOWS_PER_PAGE: Final = 256
"""Some 100 KiB: one page does not keep the worker from its flows for long."""
MOST_RESUMED: Final = 1024
"""Flows in one answer; 160 octets each, at most."""


@dataclass(frozen=True, slots=True)
class Hello:
    pass


@dataclass(frozen=True, slots=True)
class Configure:
    settings: ProxySettings


@dataclass(frozen=True, slots=True)
class ListFlows:
    pass


@dataclass(frozen=True, slots=True)
class GetCounters:
    pass


@dataclass(frozen=True, slots=True)
class Watch:
    """From now on this connection carries events, and answers nothing."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Reset every flow, and exit."""


@dataclass(frozen=True, slots=True)
class Resume:
    """The endpoints with these addresses can be reached again: what waits for them goes now."""

    vips: Sequence[IPAddress]


@dataclass(frozen=True, slots=True)
class Restart:
    """Of these flows the endpoints' senders have backed off: they are to send anew."""

    flows: Sequence[tuple[SocketAddress, SocketAddress]]
    """VIP and peer."""


@dataclass(frozen=True, slots=True)
class EndFlows:
    """Reset every flow of these endpoints: nobody waits for them any more."""

    vips: Sequence[IPAddress]


@dataclass(frozen=True, slots=True)
class HandOver:
    """Give everything to this client, which is a new worker, and exit."""


Request = (
    Hello
    | Configure
    | ListFlows
    | GetCounters
    | Watch
    | Resume
    | Restart
    | EndFlows
    | Stop
    | HandOver
)


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a worker took over from the one before it, and that from another."""

    first: int
    """pid of the worker that began with nothing"""
    predecessor: int
    """pid of the one before"""
    flows: int
    lost: int
    """flows that went down with workers, since the first, that died while they handed over"""
    standstill: Seconds
    """how long no flow moved"""


@dataclass(frozen=True, slots=True)
class Greeting:
    pid: int
    release: str
    """of the program that the worker runs"""
    inheritance: Inheritance | None
    """None: it began with nothing"""

    @property
    def first(self) -> int:
        """pid of the worker that began with nothing, and whose flows went over until now"""
        return self.inheritance.first if self.inheritance is not None else self.pid

    @property
    def lost(self) -> int:
        """Flows lost in handovers since then."""
        return self.inheritance.lost if self.inheritance is not None else 0


@dataclass(frozen=True, slots=True)
class Done:
    count: int
    """flows concerned"""


@dataclass(frozen=True, slots=True)
class FlowsPage:
    flows: Sequence[FlowRecord]
    more: bool
    """another page follows"""


@dataclass(frozen=True, slots=True)
class Counters:
    counters: ProxyCounters


@dataclass(frozen=True, slots=True)
class Resumed:
    flows: Sequence[tuple[SocketAddress, SocketAddress]]
    """Peer and VIP of each that sends anew; at most `MOST_RESUMED` of them."""


@dataclass(frozen=True, slots=True)
class Failed:
    problem: str


Reply = (
    Greeting
    | Done
    | FlowsPage
    | Counters
    | Resumed
    | Failed
    | FlowOpened
    | FlowEnded
    | FlowRefused
)


def encode_request(request: Request) -> bytes:
    match request:
        case Hello():
            return _line(do="hello")
        case Configure(settings):
            return _line(do="configure", settings=settings_object(settings))
        case ListFlows():
            return _line(do="flows")
        case GetCounters():
            return _line(do="counters")
        case Watch():
            return _line(do="watch")
        case Resume(vips):
            return _line(do="resume", vips=[str(vip) for vip in vips])
        case Restart(flows):
            return _line(do="restart", flows=_pairs(flows))
        case EndFlows(vips):
            return _line(do="end", vips=[str(vip) for vip in vips])
        case Stop():
            return _line(do="stop")
        case HandOver():
            return _line(do="hand-over")
        case _:
            assert_never(request)


def decode_request(line: bytes) -> Request:
    fields = _open(line)
    request: Request
    match fields.text("do"):
        case "hello":
            request = Hello()
        case "configure":
            request = Configure(read_settings(fields.fields("settings")))
        case "flows":
            request = ListFlows()
        case "counters":
            request = GetCounters()
        case "watch":
            request = Watch()
        case "resume":
            request = Resume(fields.addresses("vips"))
        case "restart":
            request = Restart(_read_pairs(fields))
        case "end":
            request = EndFlows(fields.addresses("vips"))
        case "stop":
            request = Stop()
        case "hand-over":
            request = HandOver()
        case unknown:
            raise PeerError(f"nobody knows how to do {unknown[:40]!r}")
    fields.close()
    return request


def encode_reply(reply: Reply) -> bytes:
    match reply:
        case Greeting(pid, release, inheritance):
            given = None if inheritance is None else _inheritance(inheritance)
            return _line(reply="greeting", pid=pid, release=release, inheritance=given)
        case Done(count):
            return _line(reply="done", count=count)
        case FlowsPage(flows, more):
            return _line(
                reply="flows", flows=[record_object(flow) for flow in flows], more=more
            )
        case Counters(counters):
            return _line(reply="counters", counters=counters_object(counters))
        case Resumed(flows):
            return _line(reply="resumed", flows=_pairs((vip, peer) for peer, vip in flows))
        case Failed(problem):
            return _line(reply="failed", problem=problem)
        case FlowOpened(record):
            return _line(reply="opened", flow=record_object(record))
        case FlowEnded(record, outcome, failure):
            return _line(
                reply="ended", flow=record_object(record), outcome=outcome, dial_failure=failure
            )
        case FlowRefused(vip, peer, direction, reason):
            return _line(
                reply="refused",
                vip=socket_address(vip),
                peer=socket_address(peer),
                direction=direction,
                reason=reason,
            )
        case _:
            assert_never(reply)


def decode_reply(line: bytes) -> Reply:
    fields = _open(line)
    reply: Reply
    match fields.text("reply"):
        case "greeting":
            reply = Greeting(
                fields.number("pid"),
                fields.text("release"),
                _read_inheritance(fields.fields_or_none("inheritance")),
            )
        case "done":
            reply = Done(fields.number("count"))
        case "flows":
            records = tuple(read_record(one) for one in fields.every("flows"))
            reply = FlowsPage(records, fields.flag("more"))
        case "counters":
            reply = Counters(read_counters(fields.fields("counters")))
        case "resumed":
            reply = Resumed([(peer, vip) for vip, peer in _read_pairs(fields)])
        case "failed":
            reply = Failed(fields.text("problem"))
        case "opened" | "ended" | "refused" as kind:
            reply = _read_event(kind, fields)
        case unknown:
            raise PeerError(f"an unknown reply {unknown[:40]!r}")
    fields.close()
    return reply


def _pairs(
    flows: Iterable[tuple[SocketAddress, SocketAddress]],
) -> list[dict[str, object]]:
    """VIP and peer of each."""
    return [{"peer": socket_address(peer), "vip": socket_address(vip)} for vip, peer in flows]


def _read_pairs(fields: Fields) -> list[tuple[SocketAddress, SocketAddress]]:
    return [(one.socket("vip"), one.socket("peer")) for one in fields.every("flows")]


def _read_event(kind: str, fields: Fields) -> FlowEvent:
    if kind == "refused":
        return FlowRefused(
            fields.socket("vip"),
            fields.socket("peer"),
            fields.word("direction", FlowDirection),
            fields.word("reason", Refusal),
        )
    record = read_record(fields.fields("flow"))
    if kind == "opened":
        return FlowOpened(record)
    outcome = fields.word("outcome", Outcome)
    return FlowEnded(record, outcome, fields.word_or_none("dial_failure", DialFailure))


def _open(line: bytes) -> Fields:
    if len(line) > LINE_OCTETS:
        raise PeerError(f"a line of more than {LINE_OCTETS} octets")
    fields = Fields.parse(line, "the line")
    version = fields.number("v")
    if version != VERSION:
        raise PeerError(f"version {version} is spoken there, {VERSION} here")
    return fields


# ---- values


def _line(**fields: object) -> bytes:
    line = json.dumps({"v": VERSION, **fields}, separators=(",", ":"))
    return line.encode() + b"\n"


def _inheritance(inheritance: Inheritance) -> dict[str, object]:
    return {
        "first": inheritance.first,
        "predecessor": inheritance.predecessor,
        "flows": inheritance.flows,
        "lost": inheritance.lost,
        "standstill": inheritance.standstill,
    }


def _read_inheritance(fields: Fields | None) -> Inheritance | None:
    if fields is None:
        return None
    inheritance = Inheritance(
        fields.number("first"),
        fields.number("predecessor"),
        fields.number("flows"),
        fields.number("lost"),
        fields.seconds("standstill"),
    )
    fields.close()
    return inheritance
