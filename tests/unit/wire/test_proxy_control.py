"""The control protocol: golden lines, everything there and back, and rubbish."""

import contextlib
import json
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, strategies

from orchestrator.core.allowance import Shortage
from orchestrator.core.errors import PeerError
from orchestrator.core.firewall import ProxyPorts
from orchestrator.core.flows import (
    DialFailure,
    FlowDirection,
    FlowEnded,
    FlowOpened,
    FlowRecord,
    FlowRefused,
    Kept,
    ProxyCounters,
    ProxySettings,
    Refusal,
    SocketAddress,
    SourcePolicy,
    SpoolSettings,
)
from orchestrator.core.quantities import Instant, Seconds
from orchestrator.core.relay_events import Outcome, Phase
from orchestrator.wire.proxy_control import (
    LINE_OCTETS,
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
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)

SETTINGS = ProxySettings(
    pools=(ip_network("10.99.0.0/24"), ip_network("fd00:99::/64")),
    source=SourcePolicy.SERVER,
    ports=ProxyPorts(2000, 2001),
    flows_per_vip=10,
    flows=100,
    octets_per_flow=1 << 19,
    octets_per_vip=1 << 29,
    octets=1 << 30,
    dial_seconds=Seconds(4.0),
    dial_vip_seconds=Seconds(60.5),
    spool=SpoolSettings("/var/spool/x", 1 << 20, 1 << 21, 1 << 22),
)
RECORD = FlowRecord(
    vip=SocketAddress(ip_address("10.99.0.7"), 40000),
    peer=SocketAddress(ip_address("fd00:50::2"), 443),
    direction=FlowDirection.FROM_ENDPOINT,
    since=Instant(12.5),
    state=Phase.OPEN,
    to_peer=1,
    to_endpoint=2,
    queued_to_peer=3,
    queued_to_endpoint=4,
    spooled=5,
    waits_since=Instant(13.5),
)
COUNTERS = ProxyCounters(
    open=1,
    capacity=2,
    accepted=3,
    to_peer=4,
    to_endpoint=5,
    refused=((Refusal.VIP_FULL, 6),),
    dial_failures=((DialFailure.REFUSED, 7),),
    ended=((Outcome.FINISHED, 8),),
    events_lost=9,
    memory=Kept(10, 11, 12, Instant(13.5), ((Shortage.SESSION, 14),)),
    disk=Kept(15, 16, 0, None, ((Shortage.STREAM, 17),)),
    disk_failures=18,
    disk_lost=19,
    disk_problem="full",
)
REQUESTS: list[Request] = [
    Hello(),
    Configure(SETTINGS),
    ListFlows(),
    GetCounters(),
    Watch(),
    Resume((ip_address("10.99.0.7"),)),
    Restart([(RECORD.vip, RECORD.peer)]),
    EndFlows((ip_address("10.99.0.7"), ip_address("fd00:99::7"))),
    Stop(),
    HandOver(),
]
REPLIES: list[Reply] = [
    Greeting(1234, "1.0", None),
    Greeting(1234, "1.0", Inheritance(1200, 1233, 10, 2, Seconds(0.5))),
    Done(7),
    FlowsPage((RECORD, RECORD), more=True),
    FlowsPage((), more=False),
    Counters(COUNTERS),
    Resumed([(RECORD.peer, RECORD.vip)]),
    Failed("no"),
    FlowOpened(RECORD),
    FlowEnded(RECORD, Outcome.DIAL_FAILED, DialFailure.TIMED_OUT),
    FlowEnded(RECORD, Outcome.FINISHED),
    FlowRefused(RECORD.vip, RECORD.peer, FlowDirection.TO_ENDPOINT, Refusal.SERVER_FULL),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: type(one).__name__)
def test_a_request_arrives_as_it_was_sent(request_: Request) -> None:
    line = encode_request(request_)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert decode_request(line) == request_


@pytest.mark.parametrize("reply", REPLIES, ids=lambda one: type(one).__name__)
def test_a_reply_arrives_as_it_was_sent(reply: Reply) -> None:
    assert decode_reply(encode_reply(reply)) == reply


def test_golden_lines() -> None:
    # Other releases read these: they stay as they are.
    assert encode_request(Hello()) == b'{"v":1,"do":"hello"}\n'
    assert encode_request(HandOver()) == b'{"v":1,"do":"hand-over"}\n'
    assert encode_reply(Greeting(7, "1.0", Inheritance(5, 6, 10, 2, Seconds(0.5)))) == (
        b'{"v":1,"reply":"greeting","pid":7,"release":"1.0","inheritance":'
        b'{"first":5,"predecessor":6,"flows":10,"lost":2,"standstill":0.5}}\n'
    )
    assert encode_request(Stop()) == b'{"v":1,"do":"stop"}\n'
    assert encode_reply(FlowOpened(RECORD)) == (
        b'{"v":1,"reply":"opened","flow":{"vip":["10.99.0.7",40000],"peer":["fd00:50::2",443],'
        b'"direction":"from-endpoint","since":12.5,"state":"open","to_peer":1,"to_endpoint":2,'
        b'"queued_to_peer":3,"queued_to_endpoint":4,"spooled":5,"waits_since":13.5}}\n'
    )


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[]", "no object"),
        (b"[" * 100_000, "no JSON"),
        (b'{"do":"hello"}', "no 'v'"),
        (b'{"v":2,"do":"hello"}', "version 2 is spoken there, 1 here"),
        (b'{"v":1}', "no 'do'"),
        (b'{"v":true,"do":"hello"}', "no whole number"),
        (b'{"v":1,"do":"dance"}', "nobody knows how to do 'dance'"),
        (b'{"v":1,"do":"hello","more":1}', "unknown key 'more'"),
        (b'{"v":1,"do":"hello"}' + b" " * LINE_OCTETS, "more than"),
        (b'{"v":1' + b"0" * 5000 + b',"do":"hello"}', "no JSON"),
    ],
)
def test_what_is_no_request_is_refused_with_a_reason(line: bytes, complaint: str) -> None:
    with pytest.raises(PeerError, match=complaint):
        decode_request(line)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pools", ["10.99.0.1/24"]),
        ("pools", "10.99.0.0/24"),
        ("source", "moon"),
        ("port_from_endpoints", 0),
        ("port_to_endpoints", 2000),
        ("octets_per_flow", 1),
        ("octets_per_flow", 2**62),
        ("flows", 0),
        ("dial_seconds", 0),
        ("dial_seconds", -1),
    ],
)
def test_settings_that_make_no_sense_are_refused(key: str, value: object) -> None:
    message = json.loads(encode_request(Configure(SETTINGS)))
    message["settings"][key] = value
    with pytest.raises(PeerError):
        decode_request(json.dumps(message).encode())


@pytest.mark.parametrize(
    ("seconds", "complaint"), [(b"1e999", "not between"), (b"NaN", "no JSON")]
)
def test_seconds_are_finite(seconds: bytes, complaint: str) -> None:
    line = encode_request(Configure(SETTINGS))
    fields = b'"dial_seconds":%s' % json.dumps(SETTINGS.dial_seconds).encode()
    assert fields in line
    with pytest.raises(PeerError, match=complaint):
        decode_request(line.replace(fields, b'"dial_seconds":' + seconds))


json_values = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats()
    | strategies.text(max_size=8),
    lambda inner: strategies.lists(inner) | strategies.dictionaries(strategies.text(), inner),
    max_leaves=8,
)


@given(strategies.binary(max_size=200))
def test_random_bytes_raise_only_the_named_error(line: bytes) -> None:
    for decode in (decode_request, decode_reply):
        with pytest.raises(PeerError):
            decode(line)


@given(strategies.sampled_from(REQUESTS), strategies.data())
def test_a_request_with_a_changed_value_raises_only_the_named_error(
    request_: Request, data: strategies.DataObject
) -> None:
    message = json.loads(encode_request(request_))
    where = (
        message["settings"]
        if "settings" in message and data.draw(strategies.booleans())
        else message
    )
    where[data.draw(strategies.sampled_from(sorted(where)))] = data.draw(json_values)
    with contextlib.suppress(PeerError):
        decode_request(json.dumps(message).encode())


@given(strategies.sampled_from(REPLIES), strategies.data())
def test_a_reply_with_a_changed_value_raises_only_the_named_error(
    reply: Reply, data: strategies.DataObject
) -> None:
    message = json.loads(encode_reply(reply))
    where = (
        message["flow"] if "flow" in message and data.draw(strategies.booleans()) else message
    )
    where[data.draw(strategies.sampled_from(sorted(where)))] = data.draw(json_values)
    with contextlib.suppress(PeerError):
        decode_reply(json.dumps(message).encode())
