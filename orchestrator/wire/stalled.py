"""TCP flows of an endpoint whose senders have backed off, told to the server inside the tunnel.

Between the service's ports, as a probe: a UDP payload of 4 octets, network order, then for each
flow the port at the virtual address that it comes from, and port and address of its peer (4 or
16 octets, as the virtual address has). Its first octets are those of a probe (`wire.probe`),
with a kind that no probe has. The SA that carried it has authenticated it.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +---------------+---------------+-------------------------------+
    |  version = 1  |   kind = 17   |             flows             |
    +---------------+---------------+-------------------------------+
    |             port              |          peer's port          |
    +-------------------------------+-------------------------------+
    |                     peer's address ...                        |
    +---------------------------------------------------------------+

Pure; whatever is not exactly this raises PeerError.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final

from orchestrator.core.errors import PeerError
from orchestrator.wire.labels import Flow
from orchestrator.wire.probe import VERSION
from orchestrator.wire.segments import TCP

KIND: Final = 17
MOST: Final = 32
"""Flows in a message: with IPv6 644 octets, which every path carries."""
_HEADER: Final = Struct("!BBH")
_PORTS: Final = Struct("!HH")
_BEGINNING: Final = bytes([VERSION, KIND])


def is_stalled(octets: bytes) -> bool:
    """Whether that is meant."""
    return octets.startswith(_BEGINNING)


def encode(flows: Sequence[Flow]) -> bytes:
    """At most `MOST`, all from one virtual address."""
    entries = (_PORTS.pack(flow.source_port, flow.port) + flow.destination for flow in flows)
    return _HEADER.pack(VERSION, KIND, len(flows)) + b"".join(entries)


def decode(octets: bytes, vip: bytes) -> tuple[Flow, ...]:
    """From `vip`, packed. Raises PeerError."""
    size = _PORTS.size + len(vip)
    if len(octets) < _HEADER.size:
        raise PeerError(f"stalled flows: {len(octets)} octets")
    version, kind, count = _HEADER.unpack_from(octets)
    if (version, kind) != (VERSION, KIND):
        raise PeerError(f"stalled flows: version {version}, kind {kind}")
    if not 0 < count <= MOST or len(octets) != _HEADER.size + count * size:
        raise PeerError(f"stalled flows: {count} in {len(octets)} octets")
    found = []
    for at in range(_HEADER.size, len(octets), size):
        port, peer_port = _PORTS.unpack_from(octets, at)
        found.append(Flow(TCP, vip, port, octets[at + _PORTS.size : at + size], peer_port))
    return tuple(found)
