"""Packets through the lab's NAT64, there and back."""

import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from orchestrator.core.nat64 import synthesize
from orchestrator.lab.nat64 import Translator, checksum
from orchestrator.wire.packets import parse_ip

PREFIX = IPv6Network("2001:db8:64ff::/96")
HOST, OTHER_HOST = IPv6Address("2001:db8:66::2"), IPv6Address("2001:db8:66::3")
SERVER = IPv4Address("203.0.113.10")
POOL = IPv4Network("192.168.64.0/29")
UDP, TCP, ICMP, ICMPV6 = 17, 6, 1, 58
ECHO, ECHO_REPLY, ECHO6, ECHO6_REPLY = 8, 0, 128, 129


@pytest.fixture
def translator() -> Translator:
    return Translator(PREFIX, iter(POOL.hosts()))


def server6() -> IPv6Address:
    whole = synthesize(PREFIX, SERVER)
    assert whole is not None
    return whole


def ipv6(payload: bytes, protocol: int, source: IPv6Address = HOST) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
    return header + source.packed + server6().packed + payload


def ipv4(payload: bytes, protocol: int, destination: IPv4Address) -> bytes:
    bare = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    return bare + SERVER.packed + destination.packed + payload


def udp(data: bytes) -> bytes:
    """With a checksum of zero, as ESP in UDP has it over IPv4."""
    return struct.pack("!HHHH", 4500, 4501, 8 + len(data), 0) + data


def is_sound(packet: bytes) -> bool:
    """Whether the checksums are right, as a receiver sees it."""
    header = parse_ip(packet)
    payload = packet[header.payload :]
    ends = header.source + header.destination
    if header.version == 4:
        pseudo = ends + struct.pack("!HH", header.protocol, len(payload))
        header_sound = checksum(packet[: header.payload]) == 0
        return (
            header_sound
            and checksum((b"" if header.protocol == ICMP else pseudo) + payload) == 0
        )
    return checksum(ends + struct.pack("!II", len(payload), header.protocol) + payload) == 0


@pytest.mark.parametrize("data", [b"", b"odd", b"even", bytes(1400)])
def test_datagrams_there_and_back(translator: Translator, data: bytes) -> None:
    there = translator.translate(ipv6(udp(data), UDP))
    assert there is not None
    header = parse_ip(there)
    source = IPv4Address(header.source)
    assert (header.destination, header.protocol) == (SERVER.packed, UDP)
    assert source in POOL
    assert is_sound(there)
    back = translator.translate(ipv4(udp(data), UDP, source))
    assert back is not None
    ends = parse_ip(back)
    assert (ends.source, ends.destination) == (server6().packed, HOST.packed)
    assert is_sound(back)
    assert back[48:] == data


def test_echoes_change_their_types(translator: Translator) -> None:
    there = translator.translate(ipv6(bytes([ECHO6, 0, 0, 0, 1, 2, 3, 4]), ICMPV6))
    assert there is not None
    header = parse_ip(there)
    assert (header.protocol, there[header.payload]) == (ICMP, ECHO)
    assert is_sound(there)
    answered = bytes([ECHO_REPLY, 0, 0, 0, 1, 2, 3, 4])
    reply = ipv4(answered, ICMP, IPv4Address(header.source))
    back = translator.translate(reply)
    assert back is not None
    assert (parse_ip(back).protocol, back[40]) == (ICMPV6, ECHO6_REPLY)
    assert is_sound(back)


def test_each_host_has_an_address_of_its_own_while_there_are_some(
    translator: Translator,
) -> None:
    hosts = [IPv6Address(int(HOST) + n) for n in range(8)]
    sent = [translator.translate(ipv6(udp(b"x"), UDP, host)) for host in hosts]
    sources = [parse_ip(packet).source for packet in sent if packet is not None]
    assert len(set(sources)) == len(sources) == len(list(POOL.hosts()))
    again = translator.translate(ipv6(udp(b"x"), UDP, HOST))
    assert again is not None
    assert parse_ip(again).source == sources[0]


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        ipv6(b"", 59),
        ipv6(bytes([1, 0, 0, 0, 0, 0, 0, 0]), ICMPV6),
        ipv6(udp(b"x"), UDP)[:-1],
        ipv4(udp(b"x"), UDP, IPv4Address("192.168.64.5")),
    ],
    ids=["nothing", "no transport", "an ICMP error", "cut off", "for nobody"],
)
def test_what_cannot_be_translated_is_dropped(translator: Translator, packet: bytes) -> None:
    assert translator.translate(packet) is None
