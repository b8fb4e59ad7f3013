"""Sockets of netlink's families, shared by the adapters that speak one of them themselves.

Requests are synchronous: the kernel has carried one out, and answered, when `send` returns
(net/netlink/af_netlink.c, netlink_unicast_kernel). To wait for the answer in another way would
only take longer.
"""

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.core.errors import KernelError
from orchestrator.wire.netlink import (
    NLMSG_DONE,
    NLMSG_ERROR,
    Flag,
    Frame,
    aligned,
    frame,
    frames,
    outcome,
)

DATAGRAM_SIZE: Final = 65536
"""Octets; the kernel fills at most 32 KiB of a dump into one datagram."""
DATAGRAMS_PER_READ: Final = 64
"""Taken from a multicast group before others have their turn again."""
TOGETHER: Final = 64
"""Orders in one message: their refusals fit into a socket's buffer, should there be so many."""
_LAST_NUMBER: Final = 0xFFFF_FFFF
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


@dataclass(frozen=True, slots=True)
class Order:
    """An act that is asked for. `operation` and `subject` say in a KernelError what it was: a
    verb, and what is so called once it is made text."""

    kind: int
    body: bytes
    operation: str
    subject: object
    flags: Flag = _NO_FLAGS
    fine: frozenset[int] = _NONE_FINE
    """With these errno it is as good as done."""

    def refusal(self, answer: Frame) -> KernelError | None:
        error = _refusal(answer, self.operation, self.subject)
        return None if error is None or error.errno in self.fine else error


class Requests:
    """One request socket. Not for several threads at once."""

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

    def order(self, order: Order) -> None:
        """Raises KernelError if the kernel refuses."""
        (refused,) = self.orders((order,))
        if refused is not None:
            raise refused

    def orders(self, orders: Sequence[Order]) -> list[KernelError | None]:
        """Why the kernel refused each, if it did. They are carried out in their order, those
        behind a refused one, too; as many as one message takes without anything of ours in
        between, in two system calls."""
        refused: list[KernelError | None] = []
        for first in range(0, len(orders), TOGETHER):
            refused += self._carry_out(orders[first : first + TOGETHER])
        return refused

    def _carry_out(self, orders: Sequence[Order]) -> list[KernelError | None]:
        first = self._take_numbers(len(orders))
        last = first + len(orders) - 1
        message = bytearray()
        for number, order in enumerate(orders, first):
            # Refusals come unasked: the success of the last one ends the answer.
            flags = order.flags | Flag.REQUEST | (Flag.ACK if number == last else _NO_FLAGS)
            message += frame(order.kind, flags, number, order.body, self.port)
            message += bytes(aligned(len(message)) - len(message))
        refused: dict[int, KernelError | None] = {}
        try:
            self._socket.send(message)
            while last not in refused:
                for answer in frames(self._socket.recv(DATAGRAM_SIZE)):
                    ours = answer.port == self.port and first <= answer.sequence <= last
                    if ours and answer.kind == NLMSG_ERROR:
                        order = orders[answer.sequence - first]
                        refused[answer.sequence] = order.refusal(answer)
        except OSError as error:
            # Of none is it known that it was done.
            return [translated(error, order.operation, order.subject) for order in orders]
        return [refused.get(number) for number in range(first, last + 1)]

    def acknowledged(
        self, kind: int, body: bytes, operation: str, subject: object
    ) -> Iterator[Frame]:
        """What the kernel says before it acknowledges; raises KernelError if it refuses."""
        self._send(kind, Flag.REQUEST | Flag.ACK, body, operation, subject)
        yield from self._until((NLMSG_ERROR,), operation, subject)

    def dump(self, kind: int, body: bytes, subject: object) -> Iterator[Frame]:
        """Everything of a kind. Raises KernelError."""
        self._send(kind, Flag.REQUEST | Flag.DUMP, body, "list", subject)
        yield from self._until((NLMSG_DONE, NLMSG_ERROR), "list", subject)

    def _until(self, last: tuple[int, ...], operation: str, subject: object) -> Iterator[Frame]:
        """What is said before a frame of a kind that ends the answer, if that is a success."""
        while True:
            for answer in self._answers(operation, subject):
                if answer.kind in last:
                    if error := _refusal(answer, operation, subject):
                        raise error
                    return
                yield answer

    def _send(
        self, kind: int, flags: Flag, body: bytes, operation: str, subject: object
    ) -> None:
        number = self._take_numbers(1)
        try:
            self._socket.send(frame(kind, flags, number, body, self.port))
        except OSError as error:
            raise translated(error, operation, subject) from error

    def _take_numbers(self, count: int) -> int:
        """The first of so many in a row."""
        if self._sequence + count > _LAST_NUMBER:
            self._sequence = 0
        self._sequence += count
        return self._sequence - count + 1

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


def _refusal(answer: Frame, operation: str, subject: object) -> KernelError | None:
    """What the answer's outcome is, unless a success."""
    result = outcome(answer)
    if not result.errno:
        return None
    detail = result.text or os.strerror(result.errno)
    return KernelError(result.errno, operation, str(subject), detail)
