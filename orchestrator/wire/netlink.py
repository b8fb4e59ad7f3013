"""Netlink framing: datagrams into frames, frames into attributes, refusals into sentences.

Everything is in the host's byte order (include/uapi/linux/netlink.h). Pure; whatever is cut
off or contradicts itself raises PeerError.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag
from struct import Struct
from typing import Final, NamedTuple

from orchestrator.core.errors import PeerError

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3

_HEADER: Final = Struct("=IHHII")
_ATTRIBUTE: Final = Struct("=HH")
_ERROR: Final = Struct("=i")
_TYPE_MASK: Final = 0x3FFF
"""NLA_TYPE_MASK: the two bits above are NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
_ERROR_TEXT: Final = 1
"""NLMSGERR_ATTR_MSG"""


class Flag(IntFlag):
    REQUEST = 0x1
    MULTI = 0x2
    ACK = 0x4
    DUMP = 0x300
    CAPPED = 0x100
    """On an NLMSG_ERROR: the request is echoed as its header alone."""
    ACK_TLVS = 0x200
    """On an NLMSG_ERROR: attributes follow."""
    REPLACE = 0x100
    """On a request: what is there already gives way."""
    EXCLUSIVE = 0x200
    """On a request: unless it is there already."""
    CREATE = 0x400


class Frame(NamedTuple):
    kind: int
    flags: int
    sequence: int
    port: int
    body: bytes

    def __repr__(self) -> str:
        # The body may hold a key.
        return f"Frame(kind={self.kind}, sequence={self.sequence}, length={len(self.body)})"


class Attribute(NamedTuple):
    kind: int
    value: bytes

    def __repr__(self) -> str:
        # The value may be a key.
        return f"Attribute(kind={self.kind}, length={len(self.value)})"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the kernel says at the end of a request; `errno` 0 is success."""

    errno: int
    text: str = ""


def frame(kind: int, flags: Flag, sequence: int, body: bytes, port: int = 0) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, port) + body


def frames(datagram: bytes) -> Iterator[Frame]:
    """The frames of one datagram, in order. Raises PeerError."""
    offset = 0
    while offset < len(datagram):
        if len(datagram) - offset < _HEADER.size:
            raise PeerError("netlink: a frame's header is cut off")
        length, kind, flags, sequence, port = _HEADER.unpack_from(datagram, offset)
        if not _HEADER.size <= length <= len(datagram) - offset:
            raise PeerError(f"netlink: a frame claims {length} octets")
        yield Frame(
            kind, flags, sequence, port, datagram[offset + _HEADER.size : offset + length]
        )
        offset += aligned(length)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to its alignment of 4."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(aligned(length) - length)


def attributes(body: bytes, offset: int = 0) -> Iterator[Attribute]:
    """The attributes that start at `offset`, in order. Raises PeerError."""
    while offset < len(body):
        if len(body) - offset < _ATTRIBUTE.size:
            raise PeerError("netlink: an attribute's header is cut off")
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if not _ATTRIBUTE.size <= length <= len(body) - offset:
            raise PeerError(f"netlink: an attribute claims {length} octets")
        yield Attribute(kind & _TYPE_MASK, body[offset + _ATTRIBUTE.size : offset + length])
        offset += aligned(length)


def outcome(answer: Frame) -> Outcome:
    """Reads an NLMSG_ERROR or NLMSG_DONE (struct nlmsgerr). Raises PeerError."""
    if len(answer.body) < _ERROR.size:
        if answer.kind == NLMSG_DONE and not answer.body:
            return Outcome(0)
        raise PeerError("netlink: an error without a number")
    (number,) = _ERROR.unpack_from(answer.body)
    extra = _ERROR.size
    if answer.kind == NLMSG_ERROR:
        extra = _after_echo(answer)
    if not answer.flags & Flag.ACK_TLVS:
        return Outcome(-number)
    text = b"".join(
        value for kind, value in attributes(answer.body, extra) if kind == _ERROR_TEXT
    )
    return Outcome(-number, text.rstrip(b"\0").decode("utf-8", "replace"))


def _after_echo(answer: Frame) -> int:
    """Where the attributes start: behind the echoed request, whole or its header alone."""
    echoed = _HEADER.size
    if len(answer.body) < _ERROR.size + echoed:
        raise PeerError("netlink: an error without its request")
    if not answer.flags & Flag.CAPPED:
        (length,) = Struct("=I").unpack_from(answer.body, _ERROR.size)
        echoed = max(echoed, aligned(length))
    return _ERROR.size + echoed


def aligned(length: int) -> int:
    return (length + 3) & ~3
