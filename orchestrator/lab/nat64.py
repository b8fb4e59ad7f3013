"""Translates between IPv6 and IPv4 on an access router: what the lab has for NAT64.

    python -m orchestrator.lab.nat64 PREFIX POOL

Each IPv6 host that sends to the prefix gets an IPv4 address of POOL, and headers are rewritten
(RFC 7915); that all leave with the router's own address is the router's NAT. UDP, TCP and
echoes are translated, anything else and fragments are dropped. A UDP checksum of zero, which
ESP in UDP has over IPv4, is computed (RFC 7915, 4.5). It says "ready" when it translates.

In Python, some thousand packets a second: enough to see that it works.
"""

import select
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from orchestrator.adapters.tun import TunDevice
from orchestrator.core.errors import PeerError
from orchestrator.core.nat64 import extract, synthesize
from orchestrator.wire.packets import IPHeader, parse_ip

DEVICE: Final = "nat64"
READY: Final = b"ready\n"
_TCP: Final = 6
_UDP: Final = 17
_ICMP: Final = 1
_ICMPV6: Final = 58
_CHECKSUM_AT: Final = {_TCP: 16, _UDP: 6, _ICMP: 2, _ICMPV6: 2}
_ECHOES: Final = {8: 128, 0: 129}
"""ICMP type to ICMPv6 type: request, reply."""
_ECHOES6: Final = {six: four for four, six in _ECHOES.items()}
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_IPV6: Final = struct.Struct("!IHBB16s16s")
_DO_NOT_FRAGMENT: Final = 0x4000


@dataclass(slots=True)
class Translator:
    prefix: IPv6Network
    pool: Iterator[IPv4Address]
    """Addresses that nobody has yet."""
    by_host: dict[IPv6Address, IPv4Address] = field(default_factory=dict)
    by_address: dict[IPv4Address, IPv6Address] = field(default_factory=dict)

    def translate(self, packet: bytes) -> bytes | None:
        """The same in the other family; None: it cannot be said there."""
        try:
            header = parse_ip(packet)
        except PeerError:
            return None
        if header.more_fragments or header.fragment_offset:
            return None
        payload = packet[header.payload : header.length]
        if header.version == 6:
            return self._to_ipv4(header, payload, packet[7])
        return self._to_ipv6(header, payload, packet[8])

    def _to_ipv4(self, header: IPHeader, payload: bytes, hops: int) -> bytes | None:
        source, destination = IPv6Address(header.source), IPv6Address(header.destination)
        inside = extract(self.prefix, destination)
        if inside is None or hops <= 1:
            return None
        if source not in self.by_host:
            address = next(self.pool, None)
            if address is None:
                return None
            self.by_host[source] = address
            self.by_address[address] = source
        protocol = _ICMP if header.protocol == _ICMPV6 else header.protocol
        mine = self.by_host[source]
        pseudo = mine.packed + inside.packed + struct.pack("!HH", protocol, len(payload))
        rewritten = _rewritten(payload, protocol, b"" if protocol == _ICMP else pseudo)
        if rewritten is None:
            return None
        length = _IPV4.size + len(rewritten)
        fields = (0x45, 0, length, 0, _DO_NOT_FRAGMENT, hops - 1, protocol)
        bare = _IPV4.pack(*fields, 0, mine.packed, inside.packed)
        whole = _IPV4.pack(*fields, checksum(bare), mine.packed, inside.packed)
        return whole + rewritten

    def _to_ipv6(self, header: IPHeader, payload: bytes, hops: int) -> bytes | None:
        source, destination = IPv4Address(header.source), IPv4Address(header.destination)
        host = self.by_address.get(destination)
        outside = synthesize(self.prefix, source)
        if host is None or outside is None or hops <= 1:
            return None
        protocol = _ICMPV6 if header.protocol == _ICMP else header.protocol
        pseudo = outside.packed + host.packed + struct.pack("!II", len(payload), protocol)
        rewritten = _rewritten(payload, protocol, pseudo)
        if rewritten is None:
            return None
        fixed = (6 << 28, len(rewritten), protocol, hops - 1)
        return _IPV6.pack(*fixed, outside.packed, host.packed) + rewritten


def _rewritten(payload: bytes, protocol: int, pseudo: bytes) -> bytes | None:
    """With the checksum, and the ICMP type, that the other family wants."""
    at = _CHECKSUM_AT.get(protocol)
    if at is None or len(payload) < at + 2:
        return None
    changed = bytearray(payload)
    if protocol in (_ICMP, _ICMPV6):
        kind = (_ECHOES6 if protocol == _ICMP else _ECHOES).get(changed[0])
        if kind is None:
            return None
        changed[0] = kind
    changed[at : at + 2] = b"\0\0"
    found = checksum(pseudo + bytes(changed))
    if protocol == _UDP and not found:
        found = 0xFFFF
    changed[at : at + 2] = found.to_bytes(2, "big")
    return bytes(changed)


def checksum(octets: bytes) -> int:
    """RFC 1071."""
    padded = octets + bytes(len(octets) % 2)
    total = sum(int(word) for word in struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def main(prefix: str, pool: str) -> None:
    network = IPv4Network(pool)
    router, *_ = hosts = list(network.hosts())
    translator = Translator(IPv6Network(prefix), iter(hosts[1:]))
    with TunDevice.open(DEVICE) as tun:
        commands = (
            f"link set {DEVICE} up",
            f"addr add {router}/{network.prefixlen} dev {DEVICE}",
            f"-6 route add {prefix} dev {DEVICE}",
        )
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)
        print(READY.decode(), end="", flush=True)  # noqa: T201 - what the lab waits for
        while True:
            select.select([tun], [], [])
            while (packet := tun.read()) is not None:
                translated = translator.translate(packet)
                if translated is not None:
                    tun.write(translated)


if __name__ == "__main__":
    main(*sys.argv[1:])
