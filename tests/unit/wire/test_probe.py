from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import PeerError
from orchestrator.core.quantities import Spi
from orchestrator.wire.probe import PROBE_SIZE, Kind, Probe, decode, encode

PROBE = Probe(Kind.REQUEST, flip=7, sequence=0x01020304, spi=Spi(0xC0FFEE01), within_ms=12_500)
# Computed by hand from the layout in the module.
OCTETS = bytes.fromhex("01 01 0000 00000007 01020304 c0ffee01 000030d4 00000000")
KINDS = {1: Kind.REQUEST, 2: Kind.REPLY, 3: Kind.ASLEEP, 4: Kind.WARM, 5: Kind.FLOWS}
"""Golden: a released endpoint and server say these numbers to each other."""

u16, u32 = (st.integers(0, 2**bits - 1) for bits in (16, 32))
probes = st.builds(
    Probe,
    st.sampled_from(Kind),
    u32,
    u32,
    st.builds(Spi, u32),
    u32,
    u16,
    st.integers(0, 9000),
)


def test_is_laid_out_as_documented() -> None:
    assert encode(PROBE) == OCTETS
    assert decode(OCTETS) == PROBE
    assert len(OCTETS) == PROBE_SIZE == 24


@pytest.mark.parametrize("kind", Kind)
def test_a_kind_is_one_octet_and_changes_no_other(kind: Kind) -> None:
    (number,) = [number for number in KINDS if KINDS[number] is kind]
    octets = OCTETS[:1] + bytes([number]) + OCTETS[2:]
    assert encode(replace(PROBE, kind=kind)) == octets
    assert decode(octets) == replace(PROBE, kind=kind)


def test_says_how_much_the_path_carries_where_nothing_else_is() -> None:
    octets = OCTETS[:2] + bytes.fromhex("04c2") + OCTETS[4:]
    assert encode(replace(PROBE, limit=1218)) == octets
    assert decode(octets) == replace(PROBE, limit=1218)


def test_is_longer_by_its_padding() -> None:
    assert encode(replace(PROBE, padding=3)) == OCTETS + bytes(3)
    assert decode(OCTETS + bytes(3)) == replace(PROBE, padding=3)


@given(probes)
def test_survives_the_round_trip(probe: Probe) -> None:
    assert decode(encode(probe)) == probe


@pytest.mark.parametrize(
    ("octets", "complaint"),
    [
        (b"", "0 octets"),
        (OCTETS[:-1], "23 octets"),
        (OCTETS + b"\0\1", "padded"),
        (b"\x02" + OCTETS[1:], "version 2"),
        (b"\x01\x00" + OCTETS[2:], "kind 0"),
        (b"\x01\x06" + OCTETS[2:], "kind 6"),
    ],
)
def test_refuses_what_is_not_exactly_a_probe(octets: bytes, complaint: str) -> None:
    with pytest.raises(PeerError, match=complaint):
        decode(octets)
