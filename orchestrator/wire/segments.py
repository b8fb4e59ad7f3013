"""Reads TCP segments that wait, and makes the few octets that are sent for them.

TCP (RFC 9293), its timestamps (RFC 7323), ICMP (RFC 792) and ICMPv6 (RFC 4443). Pure; what is
cut off, or is no whole segment, is None.

Two things are made of a held segment: the acknowledgment that a far end would give to a probe,
and the ICMP message by which a sender in back-off tries again at once (RFC 6069). One thing is
changed in it: what it echoes, when that has become too old to measure anything by. One is made
of what a socket of ours has sent: the same segment again.
"""

from struct import Struct
from typing import Final, NamedTuple

from orchestrator.wire.packets import IPHeader

TCP: Final = 6
FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
ACK: Final = 0x10

_HEADER: Final = Struct("!HHIIBBHHH")
"""ports, sequence, acknowledgment, data offset, flags, window, checksum, urgent pointer"""
_CHECKSUM_AT: Final = 16
_CHECKSUM: Final = Struct("!H")
_WORD: Final = 4
_OCTET: Final = 8
"""Bits."""
_TIMESTAMPS: Final = Struct("!BBII")
"""kind 8, length 10, value, echo"""
_TIMESTAMPS_KIND: Final = 8
_ECHO_AT: Final = 6
"""Octets from the start of the option."""
_ECHO: Final = Struct("!I")
_END_OF_OPTIONS, _NO_OPERATION = 0, 1
_SEQUENCES: Final = 2**32

_OCTETS4: Final = 4
"""Of an IPv4 address."""
_IPV4: Final = Struct("!BBHHHBBH4s4s")
_IPV6: Final = Struct("!IHBB16s16s")
_VERSION4: Final = 0x45
_VERSION6: Final = 0x6000_0000
_HOP_LIMIT: Final = 64
_ICMP: Final = Struct("!BBHI")
"""type, code, checksum, unused"""
_ICMP4, _ICMP6 = 1, 58
_HOST_UNREACHABLE: Final = (3, 1)
_NO_ROUTE6: Final = (1, 0)
_QUOTED: Final = Struct("!HHI")
"""Of the segment that is complained of: ports and sequence number."""


class Segment(NamedTuple):
    source_port: int
    destination_port: int
    sequence: int
    acknowledgment: int
    flags: int
    window: int
    """As it is on the wire, unscaled."""
    carried: int
    """Octets of data."""
    timestamps: tuple[int, int] | None
    """Its value and its echo (RFC 7323)."""
    echo_at: int
    """Octets from the start of the packet to the echo; 0 without timestamps."""

    @property
    def occupies(self) -> bool:
        """Whether it takes sequence numbers, so that its sender repeats it."""
        return self.carried > 0 or bool(self.flags & (SYN | FIN))


class Data(NamedTuple):
    """Of a segment that only carries data."""

    sequence: int
    acknowledgment: int
    window: int
    """As it is on the wire, unscaled."""
    time: int | None
    """The value of its timestamps; None: the connection has none."""
    octets: bytes


def parse_segment(packet: bytes, header: IPHeader) -> Segment | None:
    """None for other protocols, for fragments, and for what is cut off."""
    whole = not header.fragment_offset and not header.more_fragments
    if header.protocol != TCP or not whole or header.length - header.payload < _HEADER.size:
        return None
    source, destination, sequence, acknowledgment, offset, flags, window, _, _ = (
        _HEADER.unpack_from(packet, header.payload)
    )
    options, data = header.payload + _HEADER.size, header.payload + (offset >> 4) * _WORD
    if not options <= data <= header.length:
        return None
    at = _find_timestamps(packet, options, data)
    return Segment(
        source,
        destination,
        sequence,
        acknowledgment,
        flags,
        window,
        header.length - data,
        _TIMESTAMPS.unpack_from(packet, at)[2:] if at else None,
        at + _ECHO_AT if at else 0,
    )


def _find_timestamps(packet: bytes, at: int, end: int) -> int:
    """Where the option begins; 0: there is none."""
    while at < end:
        kind = packet[at]
        if kind == _END_OF_OPTIONS:
            break
        if kind == _NO_OPERATION:
            at += 1
            continue
        length = packet[at + 1] if at + 1 < end else 0
        if length < 2 or at + length > end:
            break
        if kind == _TIMESTAMPS_KIND and length == _TIMESTAMPS.size:
            return at
        at += length
    return 0


def without_echo(packet: bytes, header: IPHeader, segment: Segment) -> bytes:
    """The same segment, which tells nothing of when it was answered.

    An acknowledgment that waited echoes a time long ago. A sender would take that for its round
    trip, and its retransmissions for needless ones (RFC 3522); an echo of zero is none.
    """
    if segment.timestamps is None or not segment.timestamps[1]:
        return packet
    changed = bytearray(packet)
    at = segment.echo_at
    _ECHO.pack_into(changed, at, 0)
    # Of an echo that begins at an odd octet the words are those that it has a part in.
    removed = segment.timestamps[1] << (_OCTET if (at - header.payload) & 1 else 0)
    where = header.payload + _CHECKSUM_AT
    (before,) = _CHECKSUM.unpack_from(packet, where)
    # RFC 1624, equation 3, where the new octets are zero.
    checksum = ~_fold((~before & 0xFFFF) + -removed % 0xFFFF) & 0xFFFF
    _CHECKSUM.pack_into(changed, where, checksum)
    return bytes(changed)


def probe_answer(header: IPHeader, probe: Segment) -> bytes:
    """What the far end answers to a keepalive or a window probe, without opening its window.

    Such a probe has the sequence number before the next one (RFC 9293, 3.8.4): the answer
    acknowledges what was acknowledged before, and not an octet more.
    """
    options = b""
    if probe.timestamps is not None:
        value, echo = probe.timestamps
        stamps = _TIMESTAMPS.pack(_TIMESTAMPS_KIND, _TIMESTAMPS.size, echo, value)
        options = bytes([_NO_OPERATION, _NO_OPERATION]) + stamps
    length = _HEADER.size + len(options)
    fields = (
        probe.destination_port,
        probe.source_port,
        probe.acknowledgment,
        (probe.sequence + 1) % _SEQUENCES,
        length // _WORD << 4,
        ACK,
        0,
    )
    body = _HEADER.pack(*fields, 0, 0) + options
    pseudo = _pseudo_header(header.destination, header.source, TCP, length)
    checksum = ~_sum(pseudo + body) & 0xFFFF
    body = _HEADER.pack(*fields, checksum, 0) + options
    return _packet(header.destination, header.source, TCP, body)


def data_segment(
    source: bytes, source_port: int, destination: bytes, port: int, sent: Data
) -> bytes:
    """The segment, with nothing for an echo: that tells its far end nothing of any time."""
    options = b""
    if sent.time is not None:
        stamps = _TIMESTAMPS.pack(_TIMESTAMPS_KIND, _TIMESTAMPS.size, sent.time, 0)
        options = bytes([_NO_OPERATION, _NO_OPERATION]) + stamps
    offset = (_HEADER.size + len(options)) // _WORD << 4
    ports, numbers = (source_port, port), (sent.sequence, sent.acknowledgment)
    fields = (*ports, *numbers, offset, ACK, sent.window)
    rest = options + sent.octets
    length = _HEADER.size + len(rest)
    pseudo = _pseudo_header(source, destination, TCP, length)
    checksum = ~_sum(pseudo + _HEADER.pack(*fields, 0, 0) + rest) & 0xFFFF
    return _packet(source, destination, TCP, _HEADER.pack(*fields, checksum, 0) + rest)


def unreachable(
    source: bytes, source_port: int, destination: bytes, port: int, sequence: int
) -> bytes:
    """The ICMP message that a segment could not be delivered, to its sender.

    Host unreachable (RFC 792) or no route (RFC 4443, 3.1), in the name of the destination. Of a
    TCP sender in back-off it takes back one step (RFC 6069, 4); Linux sends anew as soon as the
    shorter wait is over (tcp_ld_RTO_revert, net/ipv4/tcp_ipv4.c). `sequence` is that of the
    first octet that was not acknowledged: for any other number the message is ignored.
    """
    segment = _QUOTED.pack(source_port, port, sequence)
    quoted = _packet(source, destination, TCP, segment, claimed=_HEADER.size)
    if len(source) == _OCTETS4:
        head = _ICMP.pack(*_HOST_UNREACHABLE, 0, 0)
        checksum = ~_sum(head + quoted) & 0xFFFF
        body = _ICMP.pack(*_HOST_UNREACHABLE, checksum, 0) + quoted
        return _packet(destination, source, _ICMP4, body)
    length = _ICMP.size + len(quoted)
    pseudo = _pseudo_header(destination, source, _ICMP6, length)
    checksum = ~_sum(pseudo + _ICMP.pack(*_NO_ROUTE6, 0, 0) + quoted) & 0xFFFF
    body = _ICMP.pack(*_NO_ROUTE6, checksum, 0) + quoted
    return _packet(destination, source, _ICMP6, body)


def _packet(
    source: bytes, destination: bytes, protocol: int, body: bytes, claimed: int = 0
) -> bytes:
    """`claimed`: how long the payload is said to be, when less of it is there."""
    length = max(claimed, len(body))
    ends = source, destination
    if len(source) != _OCTETS4:
        return _IPV6.pack(_VERSION6, length, protocol, _HOP_LIMIT, *ends) + body
    fields = (_VERSION4, 0, _IPV4.size + length, 0, 0, _HOP_LIMIT, protocol)
    checksum = ~_sum(_IPV4.pack(*fields, 0, *ends)) & 0xFFFF
    return _IPV4.pack(*fields, checksum, *ends) + body


def _pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    """RFC 9293, 3.1 and RFC 8200, 8.1: in a sum the places of the last two do not matter."""
    return source + destination + length.to_bytes(4, "big") + protocol.to_bytes(4, "big")


def _sum(octets: bytes) -> int:
    """The one's complement sum of RFC 1071."""
    padded = octets + b"\0" * (len(octets) & 1)
    return int.from_bytes(padded) % 0xFFFF  # as 2**16 leaves 1


def _fold(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
