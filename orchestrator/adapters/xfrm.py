"""Talks NETLINK_XFRM: puts and drops our policies, reads and moves SAs, watches both.

The calls are synchronous: the kernel has answered when `send` returns, so that nothing waits,
and a flip costs tens of microseconds. Policies are ours alone; SAs are charon's, and touched
only to move them or to bury them.
"""

import errno
import os
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from orchestrator.core.errors import KernelError, PeerError
from orchestrator.core.kernel import Direction, Policy, Selector
from orchestrator.core.quantities import IPAddress, Reqid, Spi
from orchestrator.wire.netlink import (
    NLMSG_DONE,
    NLMSG_ERROR,
    Flag,
    Frame,
    attribute,
    frame,
    frames,
    outcome,
)
from orchestrator.wire.netlink_xfrm import (
    Notification,
    StateGone,
    encode_policy,
    encode_policy_id,
    notification,
    policy_in,
    state_in,
)
from orchestrator.wire.security_association import Mark, SecurityAssociation, moved
from orchestrator.wire.xfrm_state import encode_identity, encode_mark, encode_state
from orchestrator.wire.xfrm_structs import IPPROTO_ESP, Attr, Group, Message

_NETLINK_XFRM: Final = 6
_SOL_NETLINK: Final = 270
_NETLINK_ADD_MEMBERSHIP: Final = 1
_NETLINK_DROP_MEMBERSHIP: Final = 2
_NETLINK_CAP_ACK: Final = 10
"""Refusals echo the header of the request alone: a request may hold keys."""
_NETLINK_EXT_ACK: Final = 11
_SO_RCVBUFFORCE: Final = 33
_DATAGRAM_SIZE: Final = 65536
"""Octets; the kernel fills at most 32 KiB of a dump into one datagram."""
_MONITOR_BUFFER: Final = 2 << 20
"""Octets, which the kernel doubles: some 2,000 SAs may change between two reads."""
_DATAGRAMS_PER_READ: Final = 64
"""Taken from a monitor before the caller has its turn again."""
CHANGES: Final = (Group.EXPIRE, Group.SA, Group.POLICY, Group.MAPPING)
_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH})


class NewsLost:
    """A monitor was too slow and the kernel dropped notifications: read everything again."""


class Xfrm:
    """One request socket. Not for several threads at once."""

    def __init__(self) -> None:
        self._socket = _open()
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self.port: Final[int] = self._socket.getsockname()[0]
        """The kernel names it where it tells of what this connection did."""
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def put_policy(self, policy: Policy) -> None:
        """Makes the policy exist as described; one that is there is replaced, atomically.

        Raises KernelError; what was there is there still.
        """
        body = encode_policy(policy)
        self._order(Message.UPDPOLICY, body, "put", _policy(policy.direction, policy.selector))

    def drop_policy(self, direction: Direction, selector: Selector) -> None:
        """Makes the policy not exist. Raises KernelError."""
        body = encode_policy_id(direction, selector)
        subject = _policy(direction, selector)
        self._order(Message.DELPOLICY, body, "drop", subject, _GONE)

    def policies(self) -> tuple[Policy, ...]:
        """Our policies, as they were put. Raises KernelError."""
        answers = self._dump(Message.GETPOLICY, b"", "the policies")
        return tuple(policy for policy in map(policy_in, answers) if isinstance(policy, Policy))

    def states(self, reqid: Reqid | None = None) -> tuple[SecurityAssociation, ...]:
        """The ESP SAs, of one reqid or of all; the kernel gives all, we choose.

        Raises KernelError.
        """
        filters = attribute(Attr.PROTO, bytes([IPPROTO_ESP]))
        answers = self._dump(Message.GETSA, filters, "the SAs")
        states = map(state_in, answers)
        return tuple(sa for sa in states if reqid is None or sa.reqid == reqid)

    def state(
        self, destination: IPAddress, spi: Spi, mark: Mark | None = None
    ) -> SecurityAssociation:
        """The ESP SA as it is now; one with a mark is found by its mark only.

        Raises KernelError, with ESRCH when there is none.
        """
        body = encode_identity(destination, spi, IPPROTO_ESP) + encode_mark(mark)
        found = list(self._acknowledged(Message.GETSA, body, "read", _sa(destination, spi)))
        return state_in(found[0])

    def move_state(
        self, sa: SecurityAssociation, new_source: IPAddress, new_destination: IPAddress
    ) -> SecurityAssociation:
        """Takes the SA to other outer addresses, counters and all; returns it as it is then.

        No sequence number is used twice: the counters come from the kernel's report of the
        deletion, and nothing is sent through a deleted SA (xfrm_output_one looks under the
        lock). Between deletion and addition packets for the SA are lost, so let the policy
        hold them first. The statistics and the time of last use start anew.

        Raises KernelError; the SA is then where it was, unless the error says otherwise.
        """
        _moved(sa, new_source, new_destination)
        last = self._take(sa)
        try:
            there = _moved(last, new_source, new_destination)
            self._add(there)
        except KernelError as error:
            self._put_back(last, error)
            raise
        return there

    def drop_state(self, destination: IPAddress, spi: Spi, mark: Mark | None = None) -> None:
        """Makes the ESP SA not exist. Raises KernelError."""
        body = encode_identity(destination, spi, IPPROTO_ESP) + encode_mark(mark)
        self._order(Message.DELSA, body, "drop", _sa(destination, spi), _GONE)

    def _take(self, sa: SecurityAssociation) -> SecurityAssociation:
        """Deletes the SA; returns it as it was at that instant.

        The kernel reports a deletion to a multicast group, with the number and port of the
        request, before it acknowledges it: the report is the first of two answers.
        """
        subject = _sa(sa.destination, sa.spi)
        body = encode_identity(sa.destination, sa.spi, sa.protocol) + encode_mark(sa.mark)
        report: Notification | None = None
        self._hear(_NETLINK_ADD_MEMBERSHIP)
        try:
            for answer in self._acknowledged(Message.DELSA, body, "move", subject):
                report = notification(answer)
        finally:
            self._hear(_NETLINK_DROP_MEMBERSHIP)
        if not isinstance(report, StateGone):
            # Adding it again with older counters could use a number twice: it stays deleted.
            raise KernelError(errno.ENOBUFS, "move", subject, "it is lost: its end unreported")
        return report.state

    def _hear(self, option: int) -> None:
        """Joins or leaves the group that deletions are reported to."""
        try:
            self._socket.setsockopt(_SOL_NETLINK, option, Group.SA)
        except OSError as error:
            raise _translated(error, "watch", "SAs") from error

    def _add(self, sa: SecurityAssociation) -> None:
        self._order(Message.NEWSA, encode_state(sa), "move", _sa(sa.destination, sa.spi))

    def _put_back(self, sa: SecurityAssociation, cause: Exception) -> None:
        try:
            self._add(sa)
        except KernelError as error:
            number, subject = error.errno, _sa(sa.destination, sa.spi)
            raise KernelError(number, "move", subject, f"it is lost: {error}") from cause

    def _order(
        self,
        kind: Message,
        body: bytes,
        operation: str,
        subject: str,
        fine: frozenset[int] = frozenset(),
    ) -> None:
        for _ in self._acknowledged(kind, body, operation, subject, fine):
            pass

    def _acknowledged(
        self,
        kind: Message,
        body: bytes,
        operation: str,
        subject: str,
        fine: frozenset[int] = frozenset(),
    ) -> Iterator[Frame]:
        """What the kernel says before it acknowledges; raises KernelError if it refuses."""
        self._send(kind, Flag.REQUEST | Flag.ACK, body, operation, subject)
        while True:
            for answer in self._answers(operation, subject):
                if answer.kind == NLMSG_ERROR:
                    _check(answer, operation, subject, fine)
                    return
                yield answer

    def _dump(self, kind: Message, body: bytes, subject: str) -> Iterator[Frame]:
        self._send(kind, Flag.REQUEST | Flag.DUMP, body, "list", subject)
        while True:
            for answer in self._answers("list", subject):
                if answer.kind in (NLMSG_DONE, NLMSG_ERROR):
                    _check(answer, "list", subject)
                    return
                yield answer

    def _send(
        self, kind: Message, flags: Flag, body: bytes, operation: str, subject: str
    ) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFF_FFFF
        try:
            self._socket.send(frame(kind, flags, self._sequence, body, self.port))
        except OSError as error:
            raise _translated(error, operation, subject) from error

    def _answers(self, operation: str, subject: str) -> Iterator[Frame]:
        """The frames of the next datagram that answers the last request."""
        while True:
            try:
                datagram = self._socket.recv(_DATAGRAM_SIZE)
            except OSError as error:
                raise _translated(error, operation, subject) from error
            asked = self._sequence, self.port
            found = [item for item in frames(datagram) if (item.sequence, item.port) == asked]
            if found:
                yield from found
                return


class Monitor:
    """Subscribes to what is done to policies and SAs, but for what `besides` does."""

    def __init__(
        self, groups: tuple[Group, ...] = CHANGES, besides: Xfrm | None = None
    ) -> None:
        self._besides = None if besides is None else besides.port
        self._socket = _open(sum(1 << (group - 1) for group in groups))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _MONITOR_BUFFER)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def hear(self, group: Group, *, on: bool) -> None:
        """Listens to one more group, or no longer. Raises KernelError."""
        option = _NETLINK_ADD_MEMBERSHIP if on else _NETLINK_DROP_MEMBERSHIP
        try:
            self._socket.setsockopt(_SOL_NETLINK, option, group)
        except OSError as error:
            raise _translated(error, "watch", group.name) from error

    def read(self) -> tuple[Notification | NewsLost, ...]:
        """What happened since the last call, in order; does not wait. Raises KernelError."""
        happened: list[Notification | NewsLost] = []
        for _ in range(_DATAGRAMS_PER_READ):
            try:
                datagram = self._socket.recv(_DATAGRAM_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise _translated(error, "watch", "policies and SAs") from error
                happened.append(NewsLost())
                continue
            happened += self._news(datagram)
        return tuple(happened)

    def _news(self, datagram: bytes) -> list[Notification | NewsLost]:
        try:
            return [
                news
                for item in frames(datagram)
                if item.port != self._besides and (news := notification(item)) is not None
            ]
        except PeerError:
            # A kernel that speaks otherwise than its header files: what it said is lost to us.
            return [NewsLost()]


def _open(groups: int = 0) -> socket.socket:
    """A socket in the multicast groups `groups` (bit n-1 is group n). Raises KernelError."""
    try:
        sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_XFRM
        )
    except OSError as error:
        raise _translated(error, "open", "NETLINK_XFRM") from error
    try:
        sock.bind((0, groups))
    except OSError as error:
        sock.close()
        raise _translated(error, "watch", "policies and SAs") from error
    return sock


def _moved(
    sa: SecurityAssociation, source: IPAddress, destination: IPAddress
) -> SecurityAssociation:
    try:
        return moved(sa, source, destination)
    except ValueError as error:
        subject = _sa(sa.destination, sa.spi)
        raise KernelError(errno.EOPNOTSUPP, "move", subject, str(error)) from error


def _check(
    answer: Frame, operation: str, subject: str, fine: frozenset[int] = frozenset()
) -> None:
    """Raises KernelError unless the answer is a success, or as good as one."""
    result = outcome(answer)
    if result.errno and result.errno not in fine:
        detail = result.text or os.strerror(result.errno)
        raise KernelError(result.errno, operation, subject, detail)


def _translated(error: OSError, operation: str, subject: str) -> KernelError:
    return KernelError(
        error.errno or errno.EIO, operation, subject, os.strerror(error.errno or 0)
    )


def _policy(direction: Direction, selector: Selector) -> str:
    return f"policy {direction.name.lower()} {selector.source} -> {selector.destination}"


def _sa(destination: IPAddress, spi: Spi) -> str:
    return f"SA {spi:08x} to {destination}"
