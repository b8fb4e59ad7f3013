"""Tells a hold queue what a packet is: which flow it belongs to, and how it is to be kept."""

from collections.abc import Collection
from struct import Struct
from typing import Final, NamedTuple

from orchestrator.core.hold import Kind, Label
from orchestrator.wire.packets import IPHeader
from orchestrator.wire.segments import RST, SYN, Segment

_UDP: Final = 17
_PORTS: Final = Struct("!HH")


class Flow(NamedTuple):
    """One direction of a connection, or of what passes for one."""

    protocol: int
    source: bytes
    """4 or 16 octets, network order."""
    source_port: int
    destination: bytes
    port: int


def label(
    packet: bytes, header: IPHeader, segment: Segment | None, query_ports: Collection[int]
) -> Label:
    """`segment` is the packet's, if it is one of TCP; `query_ports` are UDP ports to which
    questions go that nobody waits for long."""
    if segment is not None:
        return _tcp(header, segment)
    ports = (0, 0)
    whole = not header.fragment_offset and not header.more_fragments
    if header.protocol == _UDP and whole and header.length - header.payload >= _PORTS.size:
        ports = _PORTS.unpack_from(packet, header.payload)
        kind = Kind.QUERY if ports[1] in query_ports else Kind.DATAGRAM
    else:
        kind = Kind.OTHER
    flow = Flow(header.protocol, header.source, ports[0], header.destination, ports[1])
    return Label(flow, kind)


def _tcp(header: IPHeader, segment: Segment) -> Label:
    ports = segment.source_port, segment.destination_port
    flow = Flow(header.protocol, header.source, ports[0], header.destination, ports[1])
    # A SYN has nobody yet who could send anew, and a reset has nobody any more.
    signal = segment.flags & (SYN | RST)
    kind = Kind.SEGMENT if segment.occupies and not signal else Kind.CONTROL
    return Label(flow, kind, (kind, segment.sequence, signal), segment.sequence)
