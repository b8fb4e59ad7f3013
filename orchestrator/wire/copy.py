"""A packet of a flow that is sent twice, inside the tunnel, between the service's ports.

A UDP payload: 12 octets, network order, then the packet itself. Its first octets are those of a
probe (`wire.probe`), with a kind that no probe has: both come to the same socket. The SA that
carried it has authenticated it.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +---------------+---------------+-------------------------------+
    |  version = 1  |   kind = 16   |             zero              |
    +---------------+---------------+-------------------------------+
    |                            stream                             |
    +---------------------------------------------------------------+
    |                            number                             |
    +---------------------------------------------------------------+

Pure; whatever is not exactly this raises PeerError.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Final

from orchestrator.core.errors import PeerError
from orchestrator.wire.probe import VERSION

KIND: Final = 16
_LAYOUT: Final = Struct("!BBHII")
HEADER_SIZE: Final = _LAYOUT.size
_BEGINNING: Final = bytes([VERSION, KIND])


@dataclass(frozen=True, slots=True)
class Copy:
    stream: int
    """32 bits."""
    number: int
    """32 bits; copies of one packet have the same."""
    packet: bytes
    """An IP packet, whole."""


def is_copy(octets: bytes) -> bool:
    """Whether that is meant."""
    return octets.startswith(_BEGINNING)


def encode(copy: Copy) -> bytes:
    return _LAYOUT.pack(VERSION, KIND, 0, copy.stream, copy.number) + copy.packet


def decode(octets: bytes) -> Copy:
    """Raises PeerError."""
    if len(octets) < HEADER_SIZE:
        raise PeerError(f"copy: {len(octets)} octets, fewer than {HEADER_SIZE}")
    version, kind, zero, stream, number = _LAYOUT.unpack_from(octets)
    if (version, kind) != (VERSION, KIND):
        raise PeerError(f"copy: version {version}, kind {kind}")
    if zero:
        raise PeerError("copy: reserved bits are set")
    return Copy(stream, number, octets[HEADER_SIZE:])
