"""Sends whole IP packets again as if their source had sent them now.

A raw socket with the header included: the packet is routed by its own source and destination,
so that the policy rules and the XFRM out policy apply to it as to any other. The source is
named per packet (IP_PKTINFO), so one socket serves all virtual addresses, and the server's
held packets too, whose sources are addresses of others.
"""

import errno
import os
import socket
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from types import TracebackType
from typing import Final, Self

from orchestrator.core.errors import KernelError

_IP_PKTINFO: Final = 8
_IP_NODEFRAG: Final = 22
"""Keeps conntrack from collecting fragments: they leave as they were held."""
_IPV6_TRANSPARENT: Final = 75
"""Allows sources that are not ours; IPv4 allows them to whoever includes the header."""
_PKTINFO4: Final = Struct("=i4s4s")
"""struct in_pktinfo: interface (any), source, unused"""
_PKTINFO6: Final = Struct("=16si")
"""struct in6_pktinfo: source, interface (any)"""
_HEADER: Final = {4: 20, 6: 40}
"""Octets that a packet has at least."""


class Injector:
    """A raw socket for each family that the kernel has; sending never waits.

    What is sent carries `mark`, if it is not 0, by which the rules may route it.
    """

    def __init__(self, mark: int = 0) -> None:
        self._mark = mark
        self._sockets: dict[int, socket.socket] = {}
        try:
            self._open(4, socket.AF_INET, socket.IPPROTO_IP, _IP_NODEFRAG)
            self._open(6, socket.AF_INET6, socket.IPPROTO_IPV6, _IPV6_TRANSPARENT)
        except OSError as error:
            self.close()
            raise _translated(error, "open", "a raw socket") from error

    def _open(self, version: int, family: int, level: int, option: int) -> None:
        # IPPROTO_RAW implies IP_HDRINCL and IPV6_HDRINCL, and receives nothing.
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        try:
            sock = socket.socket(family, kind, socket.IPPROTO_RAW)
        except OSError as error:
            if error.errno == errno.EAFNOSUPPORT:  # a kernel without IPv6 holds none of it
                return
            raise
        self._sockets[version] = sock
        sock.setsockopt(level, option, 1)
        if self._mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self, version: int) -> int:
        """The socket for packets of IP version 4 or 6: writable when `send` has room again."""
        return self._sockets[version].fileno()

    def send(self, packet: bytes) -> bool:
        """Sends one IPv4 or IPv6 packet; its IPv4 header checksum is computed anew.

        False when too much is on its way already: nothing was sent; wait until the socket is
        writable. The limit is net.core.wmem_default, some 90 packets. It is there on purpose:
        a device whose queue is full drops without a word, and a larger limit than its queue
        loses what was held for minutes.

        Raises KernelError: EMSGSIZE when the packet is longer than the way allows,
        ENETUNREACH and the like when there is none, EINVAL for octets that are no IP packet.
        """
        version = packet[0] >> 4 if packet else 0
        sock = self._sockets.get(version)
        if sock is None or len(packet) < _HEADER[version]:
            raise KernelError(errno.EINVAL, "inject", _name(packet), "not an IP packet")
        source, destination = _ENDS[version](packet)
        try:
            sock.sendmsg((packet,), (source,), 0, (destination, 0))
        except BlockingIOError:
            return False
        except OSError as error:
            raise _translated(error, "inject", _name(packet)) from error
        return True


_Ends = tuple[tuple[int, int, bytes], str]
"""The control message that names the source, and the destination."""


def _ends4(packet: bytes) -> _Ends:
    info = _PKTINFO4.pack(0, packet[12:16], bytes(4))
    return (socket.IPPROTO_IP, _IP_PKTINFO, info), str(IPv4Address(packet[16:20]))


def _ends6(packet: bytes) -> _Ends:
    info = _PKTINFO6.pack(packet[8:24], 0)
    control = socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info
    return control, str(IPv6Address(packet[24:40]))


_ENDS: Final = {4: _ends4, 6: _ends6}


def _name(packet: bytes) -> str:
    return f"a packet of {len(packet)} octets"


def _translated(error: OSError, operation: str, subject: str) -> KernelError:
    number = error.errno or errno.EIO
    return KernelError(number, operation, subject, os.strerror(number))
