"""Whatever octets arrive, their reader answers with a value or with PeerError.

Two kinds of octets: any at all, and honest ones with a few damaged, which get further in.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from dns import rrset
from dns.message import make_query, make_response
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.adapters import dns
from orchestrator.core.errors import PeerError
from orchestrator.wire import netlink, netlink_xfrm, packets, probe
from orchestrator.wire.netlink import Flag, Frame
from orchestrator.wire.probe import Kind, encode
from orchestrator.wire.xfrm_structs import Message
from tests.unit.wire import captured
from tests.unit.wire.test_netlink_xfrm import COUNTS, MAPPING
from tests.unit.wire.test_packets import SYN4, UDP6
from tests.unit.wire.test_probe import PROBE

NAME = "vpn.example.org."
QUERY = make_query(NAME, "A", id=4711)


def answered(*records: str) -> bytes:
    response = make_response(QUERY)
    for record in records:
        name, lives, kind, value = record.split(maxsplit=3)
        section = response.authority if kind == "SOA" else response.answer
        section.append(rrset.from_text(name, int(lives), "IN", kind, value))
    return response.to_wire()


ANSWERS = (
    answered(f"{NAME} 60 A 203.0.113.10"),
    answered(f"{NAME} 60 CNAME a.example.org.", "a.example.org. 5 A 203.0.113.10"),
    answered("example.org. 60 SOA a. b. 1 2 3 4 5"),
)


def read_netlink(datagram: bytes) -> None:
    for frame in netlink.frames(datagram):
        if frame.kind in (netlink.NLMSG_ERROR, netlink.NLMSG_DONE):
            netlink.outcome(frame)
        else:
            netlink_xfrm.notification(frame)


def read_any_message(body: bytes) -> None:
    """The same body as each message there is."""
    for kind in Message:
        with contextlib.suppress(PeerError):
            netlink_xfrm.notification(Frame(kind, 0, 0, 0, body))
    for end in (netlink.NLMSG_ERROR, netlink.NLMSG_DONE):
        for flags in (0, Flag.ACK_TLVS, Flag.ACK_TLVS | Flag.CAPPED):
            with contextlib.suppress(PeerError):
                netlink.outcome(Frame(end, flags, 0, 0, body))


def read_packet(packet: bytes) -> None:
    packets.parse_ip(packet)


def read_probe(octets: bytes) -> None:
    probe.decode(octets)


def read_answer(packet: bytes) -> None:
    dns.read(QUERY, packet, 4)


READERS: dict[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = {
    "netlink": (
        read_netlink,
        tuple(value for value in vars(captured).values() if isinstance(value, bytes)),
    ),
    "message": (
        read_any_message,
        (
            captured.NEWSA_GCM_ESN[16:],
            captured.DELSA[16:],
            captured.UPDPOLICY[16:],
            captured.REFUSAL_CAPPED[16:],
            COUNTS,
            MAPPING,
        ),
    ),
    "packet": (read_packet, (SYN4, UDP6)),
    "answer": (read_answer, ANSWERS),
    "probe": (read_probe, tuple(encode(replace(PROBE, kind=kind)) for kind in Kind)),
}


@st.composite
def damaged(draw: st.DrawFn, honest: tuple[bytes, ...]) -> bytes:
    octets = bytearray(draw(st.sampled_from(honest)))
    for _ in range(draw(st.integers(1, 4))):
        octets[draw(st.integers(0, len(octets) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(octets)) | st.just(len(octets)))
    return bytes(octets[:cut])


@pytest.mark.parametrize("reader", READERS)
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_octets_are_read_or_refused(reader: str, data: st.DataObject) -> None:
    read, _ = READERS[reader]
    with contextlib.suppress(PeerError):
        read(data.draw(st.binary(max_size=600)))


@pytest.mark.parametrize("reader", READERS)
@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_damaged_octets_are_read_or_refused(reader: str, data: st.DataObject) -> None:
    read, honest = READERS[reader]
    with contextlib.suppress(PeerError):
        read(data.draw(damaged(honest)))


@pytest.mark.parametrize("reader", READERS)
def test_honest_octets_are_read(reader: str) -> None:
    # The negative control: the readers do not refuse everything.
    read, honest = READERS[reader]
    for octets in honest:
        read(octets)
