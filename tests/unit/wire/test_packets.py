from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import PeerError
from orchestrator.wire.packets import (
    Icmp,
    IPHeader,
    Packet,
    Tcp,
    TcpFlag,
    Udp,
    parse,
    parse_ip,
)

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


def test_reads_a_syn() -> None:
    assert parse(SYN4) == Packet(
        IPHeader(4, ip_address("10.99.0.2"), ip_address("10.50.0.1"), 6, 60, 20),
        Tcp(50000, 80, 0x92B97C48, 0, TcpFlag.SYN, 0xFB40, 0),
    )


def test_counts_the_payload_of_a_segment_without_its_options() -> None:
    segment = SYN4[20:] + b"GET / HTTP/1.1\r\n"
    transport = parse(ip4(6, segment)).transport
    assert isinstance(transport, Tcp)
    assert transport.payload_length == 16


def test_reads_udp_over_ipv6() -> None:
    ends = ip_address("fd00:99::2"), ip_address("fd00:50::1")
    assert parse(UDP6) == Packet(IPHeader(6, *ends, 17, 53, 40), Udp(8080, 4242, 5))


def test_reads_the_same_from_a_view() -> None:
    for packet in (SYN4, UDP6):
        assert parse(memoryview(packet)) == parse(packet)


def test_finds_the_transport_behind_extension_headers() -> None:
    packet = ip6(0, HOP_BY_HOP + OPTIONS + FIRST_FRAGMENT + UDP6[40:])
    header, transport = parse(packet)
    assert (header.protocol, header.payload, header.more_fragments) == (17, 64, True)
    assert transport == Udp(8080, 4242, 5)


def test_a_later_fragment_has_no_transport_header() -> None:
    header, transport = parse(ip6(44, LATER_FRAGMENT + b"whatever"))
    assert (header.fragment_offset, header.more_fragments, transport) == (0x500, False, None)
    header, transport = parse(ip4(6, b"whatever", fragment=0x2000 | 185))
    assert (header.fragment_offset, header.more_fragments, transport) == (1480, True, None)


def test_a_first_fragment_claims_more_than_it_has() -> None:
    first = bytes.fromhex("1f901092 07d0 0000") + bytes(8)
    assert parse(ip4(17, first, fragment=0x2000)).transport == Udp(8080, 4242, 1992)


def test_reads_icmp_of_both_versions() -> None:
    assert parse(ip4(1, b"\x03\x04rest")).transport == Icmp(3, 4)
    assert parse(ip6(58, b"\x02\x00rest")).transport == Icmp(2, 0)


def test_leaves_other_protocols_alone() -> None:
    header, transport = parse(ip4(47, b""))
    assert (header.protocol, transport) == (47, None)


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
        ip4(6, SYN4[20:39]),
        ip4(6, SYN4[20:32] + b"\x40" + SYN4[33:]),
        ip4(6, SYN4[20:32] + b"\xf0" + SYN4[33:]),
        ip4(17, bytes(7)),
        ip4(17, bytes(4) + b"\x00\x07" + bytes(2)),
        ip4(17, bytes(4) + b"\x00\x09" + bytes(2)),
        ip4(1, b"\x08"),
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
        "TCP cut off",
        "TCP header below 20",
        "TCP header beyond the packet",
        "UDP cut off",
        "UDP below 8",
        "UDP beyond the packet",
        "ICMP cut off",
    ],
)
def test_refuses_what_is_cut_off_or_contradicts_itself(packet: bytes) -> None:
    with pytest.raises(PeerError):
        parse(packet)


@given(st.integers(0, len(SYN4) - 1))
def test_no_part_of_a_packet_is_a_packet(length: int) -> None:
    with pytest.raises(PeerError):
        parse_ip(SYN4[:length])
