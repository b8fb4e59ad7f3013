"""Sockets of netlink's families, shared by the adapters that speak one of them themselves.

Requests are synchronous: the kernel has carried one out, and answered, when `send` returns
(net/netlink/af_netlink.c, netlink_unicast_kernel). To wait for the answer in another way would
only take longer.
"""

import errno
import os
import socket
from collections.abc import Iterator
from typing import Final

from orchestrator.core.errors import KernelError
from orchestrator.wire.netlink import (
    NLMSG_DONE,
    NLMSG_ERROR,
    Flag,
    Frame,
    frame,
    frames,
    outcome,
)

DATAGRAM_SIZE: Final = 65536
"""Octets; the kernel fills at most 32 KiB of a dump into one datagram."""
DATAGRAMS_PER_READ: Final = 64
"""Taken from a multicast group before others have their turn again."""
_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP: Final = 1
_DROP_MEMBERSHIP: Final = 2
_CAP_ACK: Final = 10
"""Refusals echo the header of the request alone: a request may hold keys."""
_EXT_ACK: Final = 11
_SO_RCVBUFFORCE: Final = 33
_NO_FLAGS: Final = Flag(0)
_NONE_FINE: Final[frozenset[int]] = frozenset()


def subscribed(family: int, groups: int, buffer: int) -> socket.socket:
    """A socket in the multicast groups `groups` (bit n-1 is group n), which does not block; of
    what nobody has read yet the kernel keeps twice `buffer` octets. Raises KernelError."""
    opened = _open(family, groups)
    opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
    return opened


def hear(opened: socket.socket, group: int, *, on: bool) -> None:
    """Joins one more multicast group, or leaves it. Raises KernelError."""
    option = _ADD_MEMBERSHIP if on else _DROP_MEMBERSHIP
    try:
        opened.setsockopt(_SOL_NETLINK, option, group)
    except OSError as error:
        raise translated(error, "watch", f"netlink group {group}") from error


class Requests:
    """One request socket. Not for several threads at once.

    Of each request `operation` and `subject` say in a KernelError what was asked for: a verb,
    and what is so called once it is made text.
    """

    def __init__(self, family: int) -> None:
        self._socket = _open(family)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self.port: Final[int] = self._socket.getsockname()[0]
        """The kernel names it where it tells everybody of what was asked for here."""
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def hear(self, group: int, *, on: bool) -> None:
        """As the function of this name."""
        hear(self._socket, group, on=on)

    def order(
        self,
        kind: int,
        body: bytes,
        operation: str,
        subject: object,
        fine: frozenset[int] = _NONE_FINE,
        flags: Flag = _NO_FLAGS,
    ) -> None:
        """Asks for an act. Raises KernelError if the kernel refuses, but for a `fine` errno."""
        for _ in self.acknowledged(kind, body, operation, subject, fine, flags):
            pass

    def acknowledged(
        self,
        kind: int,
        body: bytes,
        operation: str,
        subject: object,
        fine: frozenset[int] = _NONE_FINE,
        flags: Flag = _NO_FLAGS,
    ) -> Iterator[Frame]:
        """What the kernel says before it acknowledges; raises KernelError if it refuses."""
        self._send(kind, flags | Flag.REQUEST | Flag.ACK, body, operation, subject)
        yield from self._until((NLMSG_ERROR,), operation, subject, fine)

    def dump(self, kind: int, body: bytes, subject: object) -> Iterator[Frame]:
        """Everything of a kind. Raises KernelError."""
        self._send(kind, Flag.REQUEST | Flag.DUMP, body, "list", subject)
        yield from self._until((NLMSG_DONE, NLMSG_ERROR), "list", subject)

    def _until(
        self,
        last: tuple[int, ...],
        operation: str,
        subject: object,
        fine: frozenset[int] = _NONE_FINE,
    ) -> Iterator[Frame]:
        """What is said before a frame of a kind that ends the answer, if that is a success."""
        while True:
            for answer in self._answers(operation, subject):
                if answer.kind in last:
                    _check(answer, operation, subject, fine)
                    return
                yield answer

    def _send(
        self, kind: int, flags: Flag, body: bytes, operation: str, subject: object
    ) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFF_FFFF
        try:
            self._socket.send(frame(kind, flags, self._sequence, body, self.port))
        except OSError as error:
            raise translated(error, operation, subject) from error

    def _answers(self, operation: str, subject: object) -> Iterator[Frame]:
        """The frames of the next datagram that answers the last request."""
        while True:
            try:
                datagram = self._socket.recv(DATAGRAM_SIZE)
            except OSError as error:
                raise translated(error, operation, subject) from error
            asked = self._sequence, self.port
            found = [item for item in frames(datagram) if (item.sequence, item.port) == asked]
            if found:
                yield from found
                return


def translated(error: OSError, operation: str, subject: object) -> KernelError:
    return KernelError(
        error.errno or errno.EIO, operation, str(subject), os.strerror(error.errno or 0)
    )


def _open(family: int, groups: int = 0) -> socket.socket:
    try:
        opened = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, family
        )
    except OSError as error:
        raise translated(error, "open", f"netlink family {family}") from error
    try:
        opened.bind((0, groups))
    except OSError as error:
        opened.close()
        raise translated(error, "watch", f"netlink family {family}") from error
    return opened


def _check(answer: Frame, operation: str, subject: object, fine: frozenset[int]) -> None:
    """Raises KernelError unless the answer is a success, or as good as one."""
    result = outcome(answer)
    if result.errno and result.errno not in fine:
        detail = result.text or os.strerror(result.errno)
        raise KernelError(result.errno, operation, str(subject), detail)
