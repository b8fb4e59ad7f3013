import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import PeerError
from orchestrator.core.quantities import Spi
from orchestrator.wire import probe
from orchestrator.wire.copy import HEADER_SIZE, Copy, decode, encode, is_copy

COPY = Copy(stream=0x01020304, number=7, packet=b"\x45rest")
# Computed by hand from the layout in the module.
OCTETS = bytes.fromhex("01 10 0000 01020304 00000007 45") + b"rest"

u32 = st.integers(0, 2**32 - 1)


def test_is_laid_out_as_documented() -> None:
    assert encode(COPY) == OCTETS
    assert decode(OCTETS) == COPY
    assert HEADER_SIZE == 12


@given(st.builds(Copy, u32, u32, st.binary()))
def test_survives_the_round_trip(copy: Copy) -> None:
    assert decode(encode(copy)) == copy
    assert is_copy(encode(copy))


@pytest.mark.parametrize("kind", probe.Kind)
def test_no_probe_is_taken_for_one(kind: probe.Kind) -> None:
    assert not is_copy(probe.encode(probe.Probe(kind, 1, 2, Spi(3))))


@pytest.mark.parametrize(
    ("octets", "complaint"),
    [
        (b"", "0 octets"),
        (OCTETS[:11], "11 octets"),
        (b"\x02" + OCTETS[1:], "version 2"),
        (b"\x01\x01" + OCTETS[2:], "kind 1"),
        (b"\x01\x10\x80" + OCTETS[3:], "reserved"),
    ],
)
def test_refuses_what_is_not_exactly_a_copy(octets: bytes, complaint: str) -> None:
    with pytest.raises(PeerError, match=complaint):
        decode(octets)


@given(st.binary())
def test_random_octets_raise_nothing_else(octets: bytes) -> None:
    try:
        decode(octets)
    except PeerError:
        return
    assert is_copy(octets)
