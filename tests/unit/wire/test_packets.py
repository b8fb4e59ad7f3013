from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import PeerError
from orchestrator.wire.packets import IPHeader, parse_ip

# Captured from a TUN device: the SYN of a connection to 10.50.0.1:80, with options.
SYN4 = bytes.fromhex(
    "4500003c8c00400040069a240a6300020a320001"
    "c350005092b97c4800000000a002fb409e6500000204053c0402080a28fc9e98000000000103030a"
)
# Written by hand from RFC 8200 and RFC 768.
UDP6 = (
    bytes.fromhex(
        "60000000000d1140 fd000099000000000000000000000002 fd000050000000000000000000000001"
        "1f901092000d0000"
    )
    + b"hello"
)
HOP_BY_HOP = bytes.fromhex("3c00010400000000")
OPTIONS = bytes.fromhex("2c00010400000000")
FIRST_FRAGMENT = bytes.fromhex("1100000100001234")
LATER_FRAGMENT = bytes.fromhex("11000500 00001234")


def ip6(following: int, body: bytes) -> bytes:
    return UDP6[:4] + len(body).to_bytes(2, "big") + bytes([following, 64]) + UDP6[8:40] + body


def ip4(protocol: int, body: bytes, fragment: int = 0) -> bytes:
    total = (20 + len(body)).to_bytes(2, "big")
    head = SYN4[:2] + total + SYN4[4:6] + fragment.to_bytes(2, "big") + bytes([64, protocol])
    return head + SYN4[10:20] + body


def test_reads_ipv4() -> None:
    ends = ip_address("10.99.0.2").packed, ip_address("10.50.0.1").packed
    assert parse_ip(SYN4) == IPHeader(4, *ends, 6, 60, 20)


def test_reads_ipv6() -> None:
    ends = ip_address("fd00:99::2").packed, ip_address("fd00:50::1").packed
    assert parse_ip(UDP6) == IPHeader(6, *ends, 17, 53, 40)


def test_reads_the_same_from_a_view() -> None:
    for packet in (SYN4, UDP6):
        assert parse_ip(memoryview(packet)) == parse_ip(packet)


def test_finds_the_payload_behind_extension_headers() -> None:
    packet = ip6(0, HOP_BY_HOP + OPTIONS + FIRST_FRAGMENT + UDP6[40:])
    header = parse_ip(packet)
    assert (header.protocol, header.payload, header.more_fragments) == (17, 64, True)
    assert packet[header.payload :] == UDP6[40:]


def test_knows_a_fragment() -> None:
    header = parse_ip(ip6(44, LATER_FRAGMENT + b"whatever"))
    assert (header.fragment_offset, header.more_fragments) == (0x500, False)
    header = parse_ip(ip4(6, b"whatever", fragment=0x2000 | 185))
    assert (header.fragment_offset, header.more_fragments) == (1480, True)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x50" + bytes(60),
        SYN4[:19],
        SYN4[:-1],
        SYN4 + b"\0",
        b"\x44" + SYN4[1:],
        b"\x4f" + ip4(6, b"")[1:],
        UDP6[:39],
        UDP6[:-1],
        UDP6 + b"\0",
        ip6(0, b"\x11"),
        ip6(0, b"\x11\x01\x01\x04\0\0\0\0"),
        ip6(0, (b"\0" + HOP_BY_HOP[1:]) * 9),
    ],
    ids=[
        "empty",
        "version 5",
        "IPv4 header cut off",
        "IPv4 cut off",
        "IPv4 trailed",
        "IPv4 header below 20",
        "IPv4 header beyond the packet",
        "IPv6 header cut off",
        "IPv6 cut off",
        "IPv6 trailed",
        "extension cut off",
        "extension beyond the packet",
        "too many extensions",
    ],
)
def test_refuses_what_is_cut_off_or_contradicts_itself(packet: bytes) -> None:
    with pytest.raises(PeerError):
        parse_ip(packet)


@given(st.integers(0, len(SYN4) - 1))
def test_no_part_of_a_packet_is_a_packet(length: int) -> None:
    with pytest.raises(PeerError):
        parse_ip(SYN4[:length])
