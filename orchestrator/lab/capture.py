"""Counts what crosses the underlay: packets of virtual addresses in clear, and protected ones.

The kernel counts: packet sockets with a classic BPF program each, never read for the count, so
that a capture costs a benchmark next to nothing. Only packets that leave a device count, and
both ends of every link are watched: each packet is seen once, before the link can lose it.
"""

import ctypes
import errno
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from orchestrator.core.quantities import IPNetwork
from orchestrator.lab.host import Host

_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_SO_ATTACH_FILTER: Final = 26
_ETH_P_ALL: Final = 0x0003
_ETH_P_IP: Final = 0x0800
_ETH_P_ARP: Final = 0x0806
_ETH_P_IPV6: Final = 0x86DD
_PACKET_OUTGOING: Final = 4
_PROTOCOL_AT: Final = 0xFFFF_F000
"""SKF_AD_OFF + SKF_AD_PROTOCOL: loads the packet's Ethertype."""
_DIRECTION_AT: Final = 0xFFFF_F004
"""SKF_AD_OFF + SKF_AD_PKTTYPE"""
_KEPT_BYTES: Final = 65536
"""Of receive buffer: some packets are kept, to be shown when there should be none."""
_SHOWN_BYTES: Final = 2048

# Offsets from the network header.
_SOURCE_AND_DESTINATION: Final = {
    _ETH_P_IP: (12, 16),
    _ETH_P_IPV6: (8, 24),
    _ETH_P_ARP: (14, 24),
}
_PROTOCOL_OF_IP: Final = 9
_PROTOCOL_OF_IPV6: Final = 6
_IPV6_HEADER: Final = 40
_UDP: Final = 17
_ESP: Final = 50
_IKE_PORTS: Final = (500, 4500)

# include/uapi/linux/bpf_common.h
_LOAD_WORD: Final = 0x20
_LOAD_BYTE: Final = 0x30
_LOAD_HALF_AFTER_X: Final = 0x48
_X_FROM_IP_HEADER: Final = 0xB1
_X_FROM_CONSTANT: Final = 0x01
_AND: Final = 0x54
_JUMP_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_ALL: Final = 0xFFFF_FFFF

Instruction = tuple[int, int, int, int]
"""struct sock_filter: code, jump if true, jump if false, k; a jump skips that many."""
Test = tuple[Instruction, ...]
"""Loads something and ends with a comparison, whose jumps `_accept_when_all` fills in."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One packet that should not have been there."""

    host: str
    device: str
    packet: bytes
    """From its network header on."""


class Capture:
    """Watches devices until it is closed; the counts stay readable."""

    def __init__(
        self, devices: Sequence[tuple[Host, str]], networks: tuple[IPNetwork, ...]
    ) -> None:
        self._clear: list[_Counter] = []
        self._protected: list[_Counter] = []
        for host, device in devices:
            self._clear.append(_Counter(host, device, clear_filter(networks)))
            self._protected.append(_Counter(host, device, protected_filter()))

    @property
    def in_clear(self) -> int:
        """Packets from or to one of the networks that were not inside ESP."""
        return sum(counter.count() for counter in self._clear)

    @property
    def protected(self) -> int:
        """ESP and IKE packets: that the capture looked where the traffic was."""
        return sum(counter.count() for counter in self._protected)

    def by_device(self) -> dict[str, tuple[int, int]]:
        """For "host:device", the packets in clear and the protected ones."""
        return {
            f"{clear.host}:{clear.device}": (clear.count(), protected.count())
            for clear, protected in zip(self._clear, self._protected, strict=True)
        }

    def examples(self) -> list[Seen]:
        """Some of the packets in clear, each once."""
        return [seen for counter in self._clear for seen in counter.take()]

    def close(self) -> None:
        for counter in (*self._clear, *self._protected):
            counter.close()


class _Counter:
    """Counts the packets of one device that a filter accepts."""

    def __init__(self, host: Host, device: str, program: Sequence[Instruction]) -> None:
        self.host = host.name
        self.device = device
        self._total = 0
        # Protocol 0: it gets nothing before the filter is in place and `bind` names one.
        self._socket = host.inside(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KEPT_BYTES)
        self._socket.settimeout(0)
        _attach(self._socket, program)
        self._socket.bind((device, _ETH_P_ALL))

    def count(self) -> int:
        if self._socket.fileno() >= 0:
            # Reading resets it. What the buffer had no room for is in it.
            statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
            self._total += int(struct.unpack("=II", statistics)[0])
        return self._total

    def take(self) -> list[Seen]:
        taken: list[Seen] = []
        while self._socket.fileno() >= 0:
            try:
                packet = self._socket.recv(_SHOWN_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENETDOWN:
                    raise
                continue  # the device went down once; told once
            taken.append(Seen(self.host, self.device, packet))
        return taken

    def close(self) -> None:
        self.count()
        self._socket.close()


def clear_filter(networks: Sequence[IPNetwork]) -> list[Instruction]:
    """Accepts what leaves as IPv4, IPv6 or ARP with an address in one of the networks."""
    program = _only_outgoing()
    for network in networks:
        is_v4 = isinstance(network, IPv4Network)
        for kind in (_ETH_P_IP, _ETH_P_ARP) if is_v4 else (_ETH_P_IPV6,):
            for offset in _SOURCE_AND_DESTINATION[kind]:
                program += _accept_when_all(_is_kind(kind), *_in_network(offset, network))
    return [*program, (_RETURN, 0, 0, 0)]


def protected_filter() -> list[Instruction]:
    """Accepts what leaves as ESP, as UDP-encapsulated ESP or as IKE."""
    program = _only_outgoing()
    for kind, offset, header in (
        (_ETH_P_IP, _PROTOCOL_OF_IP, (_X_FROM_IP_HEADER, 0, 0, 0)),
        (_ETH_P_IPV6, _PROTOCOL_OF_IPV6, (_X_FROM_CONSTANT, 0, 0, _IPV6_HEADER)),
    ):
        program += _accept_when_all(_is_kind(kind), _equals(_LOAD_BYTE, offset, _ESP))
        for port in _IKE_PORTS:
            for port_offset in (0, 2):
                program += _accept_when_all(
                    _is_kind(kind),
                    _equals(_LOAD_BYTE, offset, _UDP),
                    (header, *_equals(_LOAD_HALF_AFTER_X, port_offset, port)),
                )
    return [*program, (_RETURN, 0, 0, 0)]


def _only_outgoing() -> list[Instruction]:
    return [
        (_LOAD_WORD, 0, 0, _DIRECTION_AT),
        (_JUMP_IF_EQUAL, 1, 0, _PACKET_OUTGOING),
        (_RETURN, 0, 0, 0),
    ]


def _is_kind(kind: int) -> Test:
    return _equals(_LOAD_WORD, _PROTOCOL_AT, kind)


def _equals(load: int, offset: int, value: int) -> Test:
    return ((load, 0, 0, offset), (_JUMP_IF_EQUAL, 0, 0, value))


def _in_network(offset: int, network: IPNetwork) -> list[Test]:
    """One test for each 32-bit word that the network's mask says something about."""
    masks = struct.unpack(f"!{network.max_prefixlen // 32}I", network.netmask.packed)
    words = struct.unpack(f"!{len(masks)}I", network.network_address.packed)
    return [
        (
            (_LOAD_WORD, 0, 0, offset + 4 * number),
            (_AND, 0, 0, mask),
            (_JUMP_IF_EQUAL, 0, 0, word),
        )
        for number, (mask, word) in enumerate(zip(masks, words, strict=True))
        if mask
    ]


def _accept_when_all(*tests: Test) -> list[Instruction]:
    """The tests in a row: the first that fails skips the rest and the acceptance."""
    left = sum(len(test) for test in tests)
    block: list[Instruction] = []
    for test in tests:
        left -= len(test)
        *loads, (code, _, _, value) = test
        block += [*loads, (code, 0, left + 1, value)]
    return [*block, (_RETURN, 0, 0, _ALL)]


def _attach(opened: socket.socket, program: Sequence[Instruction]) -> None:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    # struct sock_fprog: a length and a pointer, aligned as the compiler would.
    fprog = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
