"""The capture's filters, run by a small interpreter of classic BPF against made-up packets."""

import struct
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.quantities import IPAddress
from orchestrator.lab.capture import Instruction, clear_filter, protected_filter

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
OUTGOING, INCOMING = 4, 0
VIP, VIP6 = ip_address("10.99.0.7"), ip_address("fd00:99::7")
OTHER, OTHER6 = ip_address("203.0.113.10"), ip_address("2001:db8::1")
CLEAR = clear_filter([ip_network("10.99.0.0/24"), ip_network("fd00:99::/64")])
PROTECTED = protected_filter()


def accepts(
    program: list[Instruction], kind: int, packet: bytes, direction: int = OUTGOING
) -> bool:
    """What the kernel would say; a load beyond the packet's end rejects it, as there."""
    accumulator = index = at = 0
    ancillary = {0xFFFFF000: kind, 0xFFFFF004: direction}
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        try:
            match code:
                case 0x20:
                    accumulator = (
                        ancillary[k]
                        if k in ancillary
                        else struct.unpack_from("!I", packet, k)[0]
                    )
                case 0x30:
                    accumulator = packet[k]
                case 0x48:
                    [accumulator] = struct.unpack_from("!H", packet, index + k)
                case 0xB1:
                    index = 4 * (packet[k] & 15)
                case 0x01:
                    index = k
                case 0x54:
                    accumulator &= k
                case 0x15:
                    at += if_true if accumulator == k else if_false
                case 0x06:
                    return k > 0
                case _:
                    raise AssertionError(f"unknown instruction {code:#x}")
        except (IndexError, struct.error):
            return False


def ipv4(
    source: IPAddress, destination: IPAddress, protocol: int = 17, payload: bytes = b"",
    options: int = 0,
) -> bytes:  # fmt: skip
    header = bytes([0x45 + options]) + bytes(8) + bytes([protocol]) + bytes(2)
    return header + source.packed + destination.packed + bytes(4 * options) + payload


def ipv6(
    source: IPAddress, destination: IPAddress, protocol: int = 17, payload: bytes = b""
) -> bytes:
    return (
        b"\x60"
        + bytes(5)
        + bytes([protocol, 64])
        + source.packed
        + destination.packed
        + payload
    )


def arp(sender: IPAddress, target: IPAddress) -> bytes:
    return bytes(14) + sender.packed + bytes(6) + target.packed


@pytest.mark.parametrize(
    ("kind", "packet"),
    [
        (IPV4, ipv4(VIP, OTHER)),
        (IPV4, ipv4(OTHER, VIP)),
        (IPV6, ipv6(VIP6, OTHER6)),
        (IPV6, ipv6(OTHER6, VIP6)),
        (ARP, arp(VIP, OTHER)),
        (ARP, arp(OTHER, VIP)),
    ],
)
def test_a_virtual_address_is_seen_wherever_it_stands(kind: int, packet: bytes) -> None:
    assert accepts(CLEAR, kind, packet)
    assert not accepts(CLEAR, kind, packet, INCOMING), "the other end counted it"


@given(
    st.ip_addresses(v=4).filter(lambda a: a not in ip_network("10.99.0.0/24")),
    st.ip_addresses(v=4).filter(lambda a: a not in ip_network("10.99.0.0/24")),
    st.binary(max_size=60),
)
def test_other_ipv4_is_not_seen(source: IPAddress, destination: IPAddress, rest: bytes) -> None:
    assert not accepts(CLEAR, IPV4, ipv4(source, destination, payload=rest))
    assert not accepts(CLEAR, ARP, arp(source, destination))


@given(st.integers(0, 255), st.integers(0, 2**64 - 1))
def test_every_address_of_the_pools_is_seen(low: int, low6: int) -> None:
    assert accepts(CLEAR, IPV4, ipv4(VIP + (low - 7), OTHER))
    assert accepts(CLEAR, IPV6, ipv6(OTHER6, ip_network("fd00:99::/64")[low6]))


def test_the_neighbouring_network_is_not_seen() -> None:
    assert not accepts(CLEAR, IPV4, ipv4(ip_address("10.99.1.0"), OTHER))
    assert not accepts(CLEAR, IPV6, ipv6(ip_address("fd00:99:0:1::"), OTHER6))


@pytest.mark.parametrize("port", [500, 4500])
@pytest.mark.parametrize("options", [0, 3])
def test_ike_is_protected_whatever_the_length_of_the_header(port: int, options: int) -> None:
    for ports in ((port, 9), (9, port)):
        udp = struct.pack("!HHHH", *ports, 8, 0)
        assert accepts(PROTECTED, IPV4, ipv4(OTHER, OTHER, 17, udp, options))
        assert accepts(PROTECTED, IPV6, ipv6(OTHER6, OTHER6, 17, udp))


def test_esp_is_protected() -> None:
    assert accepts(PROTECTED, IPV4, ipv4(OTHER, OTHER, 50))
    assert accepts(PROTECTED, IPV6, ipv6(OTHER6, OTHER6, 50))


def test_other_traffic_is_not_protected() -> None:
    udp = struct.pack("!HHHH", 9, 53, 8, 0)
    assert not accepts(PROTECTED, IPV4, ipv4(OTHER, OTHER, 17, udp))
    assert not accepts(PROTECTED, IPV6, ipv6(OTHER6, OTHER6, 17, udp))
    assert not accepts(PROTECTED, IPV4, ipv4(OTHER, OTHER, 6, struct.pack("!HH", 500, 500)))


@given(st.sampled_from([IPV4, IPV6, ARP, 0x88CC]), st.binary(max_size=80))
def test_no_packet_breaks_a_filter(kind: int, packet: bytes) -> None:
    accepts(CLEAR, kind, packet)
    accepts(PROTECTED, kind, packet)
