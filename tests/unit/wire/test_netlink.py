import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import PeerError
from orchestrator.wire.netlink import (
    NLMSG_ERROR,
    Attribute,
    Flag,
    Frame,
    Outcome,
    attribute,
    attributes,
    frame,
    frames,
    outcome,
)
from tests.unit.wire import captured

u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFF_FFFF)


def test_frames_a_request() -> None:
    # struct nlmsghdr: length, type, flags, sequence, port; little-endian hosts
    packed = frame(0x13, Flag.REQUEST | Flag.ACK, 7, b"abcd")
    assert packed == bytes.fromhex("14000000 1300 0500 07000000 00000000") + b"abcd"


def test_splits_a_datagram_into_frames() -> None:
    first, second = frame(1, Flag.MULTI, 5, b"abc"), frame(3, Flag.MULTI, 5, b"")
    found = list(frames(first + b"\0" + second))
    assert [(item.kind, item.body) for item in found] == [(1, b"abc"), (3, b"")]


@pytest.mark.parametrize(
    "datagram",
    [
        b"\x10\0\0",
        bytes.fromhex("0f000000 0000 0000 00000000 00000000"),
        bytes.fromhex("11000000 0000 0000 00000000 00000000"),
    ],
    ids=["header cut off", "shorter than its header", "longer than the datagram"],
)
def test_refuses_frames_that_do_not_fit(datagram: bytes) -> None:
    with pytest.raises(PeerError):
        list(frames(datagram))


@pytest.mark.parametrize("body", [b"\x04\0", b"\x03\0\x01\0", b"\x09\0\x01\0abcd"])
def test_refuses_attributes_that_do_not_fit(body: bytes) -> None:
    with pytest.raises(PeerError):
        list(attributes(body))


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40))))
def test_attributes_survive_the_round_trip(items: list[tuple[int, bytes]]) -> None:
    body = b"".join(attribute(kind, value) for kind, value in items)
    assert [tuple(item) for item in attributes(body)] == items


@given(u16, u16, u32, u32, st.binary(max_size=64))
def test_frames_survive_the_round_trip(
    kind: int, flags: int, sequence: int, port: int, body: bytes
) -> None:
    found = list(frames(frame(kind, Flag(flags), sequence, body, port)))
    assert found == [Frame(kind, flags, sequence, port, body)]


@pytest.mark.parametrize(
    "datagram", [captured.REFUSAL_WHOLE, captured.REFUSAL_CAPPED], ids=["whole", "capped"]
)
def test_reads_why_the_kernel_refuses(datagram: bytes) -> None:
    (answer,) = frames(datagram)
    assert answer.kind == NLMSG_ERROR
    assert outcome(answer) == Outcome(22, "Invalid address family")


def test_reads_the_end_of_a_dump_as_success() -> None:
    (answer,) = frames(captured.EMPTY_DUMP)
    assert outcome(answer) == Outcome(0)


def test_values_and_bodies_stay_out_of_the_repr() -> None:
    secret = b"\x5ecret key"
    for value in (Attribute(18, secret), Frame(0x10, 0, 1, 0, secret)):
        assert "cret" not in repr(value)
