"""What one worker writes for the next: there and back, bounded, and rubbish."""

import contextlib
import json
import struct
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import PeerError
from orchestrator.core.flows import (
    LARGEST_QUEUE,
    FlowDirection,
    ListenerKey,
    SocketAddress,
)
from orchestrator.core.quantities import Instant
from orchestrator.core.relay_events import Leg
from orchestrator.core.relay_state import Half, RelayState, StreamState
from orchestrator.wire.proxy_handover import (
    DESCRIPTORS_PER_BATCH,
    FORMAT,
    MOST_OCTETS,
    Batch,
    Commit,
    Declined,
    HandedFlow,
    Message,
    Opening,
    Ready,
    Received,
    SpoolExtent,
    Taken,
    batches,
    decode,
    encode,
)
from tests.unit.wire.test_proxy_control import COUNTERS, SETTINGS

HALVES = (Half.READING, Half.WRITING, Half.ENDED)


def a_flow(
    inner: bytes = b"", outer: bytes = b"", limit: int = LARGEST_QUEUE, moved: int = 0
) -> HandedFlow:
    streams = [
        StreamState(
            Half.WRITING if queue else Half.READING,
            readable=bool(moved % 2),
            hangup=False,
            writable=True,
            queued=len(queue),
            moved=moved,
        )
        for queue in (inner, outer)
    ]
    relay = RelayState(
        Leg.OUTER,
        limit,
        frozenset({Leg.INNER}),
        None,
        frozenset(),
        frozenset(),
        (streams[0], streams[1]),
    )
    return HandedFlow(
        SocketAddress(ip_address("10.99.0.7"), 40000),
        SocketAddress(ip_address("fd00:50::2"), 443),
        FlowDirection.TO_ENDPOINT,
        Instant(12.25),
        Instant(42.25),
        relay,
        (inner, outer),
    )


def lost() -> HandedFlow:
    """The peer's reset waits behind what the endpoint has not acknowledged."""
    flow = a_flow()
    inner, outer = flow.relay.streams
    relay = replace(
        flow.relay,
        lost=Leg.OUTER,
        watched=frozenset({Leg.INNER}),
        streams=(replace(inner, half=Half.DROPPED), replace(outer, half=Half.BROKEN)),
    )
    return replace(flow, relay=relay)


def spooled(queue: bytes = b"") -> HandedFlow:
    """The endpoint is away, and much waits for it."""
    flow = a_flow(b"", queue)
    inner, outer = flow.relay.streams
    half = Half.WRITING if queue else Half.LOADING
    relay = replace(flow.relay, streams=(inner, replace(outer, half=half, spooled=100)))
    return replace(flow, relay=relay, spools=(None, SpoolExtent(72, 180)))


MESSAGES: list[Message] = [
    Ready(),
    Opening(3, SETTINGS, COUNTERS, (ListenerKey(FlowDirection.TO_ENDPOINT, 6, 11111),)),
    Batch((a_flow(b"in", b""), a_flow(b"", b"out"), lost(), a_flow(b"both", b"ways"))),
    Batch((spooled(), spooled(b"out"))),
    Commit(),
    Received(7),
    Taken(),
    Declined("no"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: type(one).__name__)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    assert decode(encode(message)) == message


def test_golden_octets() -> None:
    head = (
        b'{"message":"batch","flows":[{"vip":["10.99.0.7",40000],"peer":["fd00:50::2",443],'
        b'"direction":"to-endpoint","since":12.25,"deadline":42.25,"dialled":"OUTER",'
        b'"limit":8,"patient":["INNER"],"lost":[],"watched":[],"drained":[],"streams":'
        b'[{"half":"WRITING","readable":true,"hangup":false,"writable":true,"queued":2,'
        b'"moved":5,"spooled":0,"spool_head":0,"spool_tail":0},{"half":"READING",'
        b'"readable":true,"hangup":false,"writable":true,"queued":0,"moved":5,"spooled":0,'
        b'"spool_head":0,"spool_tail":0}]}]}'
    )
    flow = a_flow(b"\x00\xff", limit=8, moved=5)
    assert encode(Batch((flow,))) == struct.pack("!I", len(head)) + head + b"\x00\xff"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=250))
def test_batches_have_every_flow_in_order_and_fit_a_message(
    sizes: list[tuple[int, int]],
) -> None:
    quarter = LARGEST_QUEUE // 3
    flows = [
        a_flow(bytes(quarter * inner), bytes(quarter * outer), moved=number)
        for number, (inner, outer) in enumerate(sizes)
    ]
    made = list(batches(flows))
    assert [flow for batch in made for flow in batch.flows] == flows
    for batch in made:
        assert 0 < sum(flow.descriptors for flow in batch.flows) < DESCRIPTORS_PER_BATCH + 4
        assert len(encode(batch)) <= MOST_OCTETS


def altered(message: Message, /, **changes: object) -> bytes:
    octets = encode(message)
    (length,) = struct.unpack_from("!I", octets)
    head = json.dumps({**json.loads(octets[4 : 4 + length]), **changes}).encode()
    return struct.pack("!I", len(head)) + head + octets[4 + length :]


def altered_flow(flow: HandedFlow, **changes: object) -> bytes:
    octets = encode(Batch((flow,)))
    (length,) = struct.unpack_from("!I", octets)
    (fields,) = json.loads(octets[4 : 4 + length])["flows"]
    return altered(Batch((flow,)), flows=[{**fields, **changes}])


def altered_stream(flow: HandedFlow, **changes: object) -> bytes:
    """The one from OUTER."""
    octets = encode(Batch((flow,)))
    (length,) = struct.unpack_from("!I", octets)
    (fields,) = json.loads(octets[4 : 4 + length])["flows"]
    inner, outer = fields["streams"]
    return altered_flow(flow, streams=[inner, {**outer, **changes}])


@pytest.mark.parametrize(
    ("octets", "complaint"),
    [
        (b"", "without a head"),
        (b"\x00\x00\x00\x09{}", "a head of 9 octets"),
        (b"\xff\xff\xff\xff{}", "a head of"),
        (b"\x00\x00\x00\x02{}", "no 'message'"),
        (altered(Commit(), message="what"), "unknown message 'what'"),
        (altered(Commit(), more=1), "unknown key 'more'"),
        (altered(MESSAGES[1], format=FORMAT + 1), "format 3 is not known here"),
        (altered(MESSAGES[1], format=FORMAT + 1, settings=None), "format 3 is not known here"),
        (encode(Commit()) + b"x", "belong to no flow"),
        (encode(Batch((a_flow(b"in"),))) + b"x", "belong to no flow"),
        (encode(Batch((a_flow(b"in"),)))[:-1], "not as many as the relay says"),
        (altered_flow(a_flow(), lost=["INNER", "OUTER"]), "loses one leg at most"),
        (altered_flow(a_flow(), lost=["INNER"]), "INNER is lost"),
        (altered_flow(a_flow(), streams=[]), "two half-streams"),
        (altered_flow(a_flow(), dialled="BOTH"), "'BOTH' is no leg"),
        (altered_flow(a_flow(), limit=LARGEST_QUEUE + 1), "at most may"),
        (altered_flow(a_flow(), limit=0), "queue nothing"),
        (altered_flow(spooled(), patient=[]), "not patient"),
        (altered_stream(spooled(), spooled=0), "0 bytes spooled in LOADING"),
        (altered_stream(spooled(), spool_tail=0), "a spool and nothing in it"),
        (altered_stream(spooled(), spool_head=180), "a spool from 180 to 180"),
        (altered_stream(a_flow(), spool_tail=9), "a spool and nothing in it"),
        (altered_stream(a_flow(), spooled=9), "9 bytes spooled in READING"),
    ],
)
def test_what_makes_no_sense_is_refused(octets: bytes, complaint: str) -> None:
    with pytest.raises(PeerError, match=complaint):
        decode(octets)


@given(st.binary(max_size=200))
def test_rubbish_raises_one_error_only(octets: bytes) -> None:
    with contextlib.suppress(PeerError):
        decode(octets)


@given(st.sampled_from(MESSAGES), st.integers(0, 2000), st.binary(min_size=1, max_size=6))
def test_a_damaged_message_raises_one_error_only(
    message: Message, where: int, octets: bytes
) -> None:
    honest = encode(message)
    where %= len(honest)
    with contextlib.suppress(PeerError):
        decode(honest[:where] + octets + honest[where + len(octets) :])
