from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import PeerError
from orchestrator.core.quantities import Spi
from orchestrator.wire import probe
from orchestrator.wire.copy import is_copy
from orchestrator.wire.labels import Flow
from orchestrator.wire.segments import TCP
from orchestrator.wire.stalled import MOST, decode, encode, is_stalled

VIP = ip_address("10.99.0.2").packed
FLOW = Flow(TCP, VIP, 0x1234, ip_address("10.51.1.2").packed, 443)
# Computed by hand from the layout in the module.
OCTETS = bytes.fromhex("01 11 0001 1234 01bb 0a330102")

ports = st.integers(0, 2**16 - 1)
LENGTHS = {4: 4, 6: 16}


@st.composite
def flows(draw: st.DrawFn) -> list[Flow]:
    length = LENGTHS[draw(st.sampled_from([4, 6]))]
    vip = draw(st.binary(min_size=length, max_size=length))
    peers = st.binary(min_size=length, max_size=length)
    one = st.builds(Flow, st.just(TCP), st.just(vip), ports, peers, ports)
    return draw(st.lists(one, min_size=1, max_size=MOST))


def test_is_laid_out_as_documented() -> None:
    assert encode([FLOW]) == OCTETS
    assert decode(OCTETS, VIP) == (FLOW,)


@given(flows())
def test_survives_the_round_trip(told: list[Flow]) -> None:
    octets = encode(told)
    assert is_stalled(octets)
    assert list(decode(octets, told[0].source)) == told
    assert len(octets) <= 1200


@pytest.mark.parametrize("kind", probe.Kind)
def test_no_probe_and_no_copy_is_taken_for_one(kind: probe.Kind) -> None:
    assert not is_stalled(probe.encode(probe.Probe(kind, 1, 2, Spi(3))))
    assert not is_copy(OCTETS)


@pytest.mark.parametrize(
    ("octets", "complaint"),
    [
        (b"", "0 octets"),
        (b"\x02" + OCTETS[1:], "version 2"),
        (b"\x01\x10" + OCTETS[2:], "kind 16"),
        (b"\x01\x11\x00\x00", "0 in 4"),
        (OCTETS + b"\x00", "1 in 13"),
        (OCTETS[:-1], "1 in 11"),
        (b"\x01\x11\x00\x02" + OCTETS[4:], "2 in 12"),
        (b"\x01\x11\x00\x21" + OCTETS[4:] * (MOST + 1), "33 in"),
    ],
)
def test_refuses_what_is_not_exactly_that(octets: bytes, complaint: str) -> None:
    with pytest.raises(PeerError, match=complaint):
        decode(octets, VIP)


@given(st.binary(), st.sampled_from([VIP, ip_address("fd00:99::2").packed]))
def test_random_octets_raise_nothing_else(octets: bytes, vip: bytes) -> None:
    try:
        decode(octets, vip)
    except PeerError:
        return
    assert is_stalled(octets)
