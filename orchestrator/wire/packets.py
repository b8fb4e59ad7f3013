"""Reads the headers of IP packets: who, to whom, and what is inside.

IPv4 (RFC 791), IPv6 with its extension headers (RFC 8200). Nothing is copied but addresses and
numbers; checksums are not looked at. Pure; a packet that is cut off, or says of itself what is
not so, raises PeerError.

Addresses stay as they are on the wire: this is done for every packet that is held. To make two
of the `ipaddress` module takes as long as all the rest, and each look-up by one runs Python to
hash it.
"""

from struct import Struct
from typing import Any, Final, NamedTuple

from orchestrator.core.errors import PeerError

_IPV4: Final = Struct("!BxHxxHxBxx4s4s")
"""version and length, total length, fragment, protocol, source, destination"""
_IPV6: Final = Struct("!4xHBx16s16s")
"""payload length, next header, source, destination"""
_EXTENSION: Final = Struct("!BBH")
"""next header, units of 8 octets beyond the first; a fragment header has its offset behind"""

_WORD: Final = 4
_FRAGMENT_UNIT: Final = 8
_EXTENSION_UNIT: Final = 8
_MORE_FRAGMENTS4: Final = 0x2000
_OFFSET4: Final = 0x1FFF
_MORE_FRAGMENTS6: Final = 0x0001
_OFFSET6: Final = 0xFFF8
_FRAGMENT: Final = 44
_EXTENSIONS: Final = frozenset({0, 43, 60, _FRAGMENT})
"""Hop-by-hop options, routing, destination options, fragment."""
_MAX_EXTENSIONS: Final = 8
"""No honest packet has more; RFC 8200, 4.1 lists six places."""


class IPHeader(NamedTuple):
    version: int
    source: bytes
    """4 or 16 octets, network order."""
    destination: bytes
    protocol: int
    """Of what follows the IP header and all extension headers."""
    length: int
    """Octets of the whole packet."""
    payload: int
    """Where it begins, in octets from the start of the packet."""
    fragment_offset: int = 0
    """Octets; above 0 the payload does not begin with a transport header."""
    more_fragments: bool = False


def parse_ip(packet: bytes | memoryview) -> IPHeader:
    """Raises PeerError."""
    if not packet:
        raise PeerError("packet: empty")
    match packet[0] >> 4:
        case 4:
            return _ipv4(packet)
        case 6:
            return _ipv6(packet)
        case version:
            raise PeerError(f"packet: IP version {version}")


def _ipv4(packet: bytes | memoryview) -> IPHeader:
    first, length, fragment, protocol, source, destination = _read(_IPV4, packet, 0)
    payload = (first & 0x0F) * _WORD
    if length != len(packet):
        raise PeerError(f"packet: {len(packet)} octets that claim to be {length}")
    if not _IPV4.size <= payload <= length:
        raise PeerError(f"packet: an IPv4 header of {payload} octets")
    return IPHeader(
        4,
        source,
        destination,
        protocol,
        length,
        payload,
        (fragment & _OFFSET4) * _FRAGMENT_UNIT,
        bool(fragment & _MORE_FRAGMENTS4),
    )


def _ipv6(packet: bytes | memoryview) -> IPHeader:
    length, protocol, source, destination = _read(_IPV6, packet, 0)
    payload = _IPV6.size
    if payload + length != len(packet):
        raise PeerError(f"packet: {len(packet)} octets that claim to be {payload + length}")
    offset, more = 0, False
    for _ in range(_MAX_EXTENSIONS):
        if protocol not in _EXTENSIONS or offset:
            break
        following, units, fragment = _read(_EXTENSION, packet, payload)
        if protocol == _FRAGMENT:
            offset, more = fragment & _OFFSET6, bool(fragment & _MORE_FRAGMENTS6)
            units = 0
        payload += (units + 1) * _EXTENSION_UNIT
        protocol = following
    else:
        raise PeerError(f"packet: more than {_MAX_EXTENSIONS} extension headers")
    if payload > len(packet):
        raise PeerError("packet: an extension header is cut off")
    return IPHeader(6, source, destination, protocol, len(packet), payload, offset, more)


def _read(layout: Struct, packet: bytes | memoryview, offset: int) -> tuple[Any, ...]:
    if len(packet) - offset < layout.size:
        raise PeerError(f"packet: cut off after {len(packet)} octets")
    return layout.unpack_from(packet, offset)
