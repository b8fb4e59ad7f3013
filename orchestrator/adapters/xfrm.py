"""Talks NETLINK_XFRM: puts and drops our policies, reads and moves SAs, watches both.

The calls are synchronous: the kernel has answered when `send` returns, so that nothing waits,
and a flip costs tens of microseconds. Policies are ours alone; SAs are charon's, and touched
only to move them or to bury them.
"""

import errno
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

from orchestrator.adapters.netlink import (
    DATAGRAM_SIZE,
    DATAGRAMS_PER_READ,
    Order,
    Requests,
    hear,
    subscribed,
    translated,
)
from orchestrator.core.errors import KernelError, PeerError
from orchestrator.core.kernel import Direction, Policy, Selector
from orchestrator.core.plan import Drop, Operation, Put
from orchestrator.core.quantities import IPAddress, Reqid, Spi
from orchestrator.wire.netlink import attribute, frames
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
_MONITOR_BUFFER: Final = 2 << 20
"""Octets, which the kernel doubles: some 2,000 SAs may change between two reads."""
CHANGES: Final = (Group.EXPIRE, Group.SA, Group.POLICY, Group.MAPPING)
_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH})


class NewsLost:
    """A monitor was too slow and the kernel dropped notifications: read everything again."""


class Xfrm:
    """One request socket. Not for several threads at once."""

    def __init__(self) -> None:
        self._requests = Requests(_NETLINK_XFRM)
        self.port: Final[int] = self._requests.port
        """The kernel names it where it tells of what this connection did."""

    def close(self) -> None:
        self._requests.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, operations: Iterable[Operation]) -> list[KernelError | None]:
        """Puts and drops policies, in their order; why the kernel refused each, if it did. What
        is there already is replaced, atomically; to drop what is not there is fine. Raises
        TypeError for what is no policy."""
        return self._requests.orders([_order(operation) for operation in operations])

    def policies(self) -> tuple[Policy, ...]:
        """Our policies, as they were put. Raises KernelError."""
        answers = self._requests.dump(Message.GETPOLICY, b"", "the policies")
        return tuple(policy for policy in map(policy_in, answers) if isinstance(policy, Policy))

    def states(self, reqid: Reqid | None = None) -> tuple[SecurityAssociation, ...]:
        """The ESP SAs, of one reqid or of all; the kernel gives all, we choose.

        Raises KernelError.
        """
        filters = attribute(Attr.PROTO, bytes([IPPROTO_ESP]))
        answers = self._requests.dump(Message.GETSA, filters, "the SAs")
        states = map(state_in, answers)
        return tuple(sa for sa in states if reqid is None or sa.reqid == reqid)

    def state(
        self, destination: IPAddress, spi: Spi, mark: Mark | None = None
    ) -> SecurityAssociation:
        """The ESP SA as it is now; one with a mark is found by its mark only.

        Raises KernelError, with ESRCH when there is none.
        """
        body = encode_identity(destination, spi, IPPROTO_ESP) + encode_mark(mark)
        found = list(
            self._requests.acknowledged(Message.GETSA, body, "read", _sa(destination, spi))
        )
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
        subject = _sa(destination, spi)
        self._requests.order(Order(Message.DELSA, body, "drop", subject, fine=_GONE))

    def _take(self, sa: SecurityAssociation) -> SecurityAssociation:
        """Deletes the SA; returns it as it was at that instant.

        The kernel reports a deletion to a multicast group, with the number and port of the
        request, before it acknowledges it: the report is the first of two answers.
        """
        subject = _sa(sa.destination, sa.spi)
        body = encode_identity(sa.destination, sa.spi, sa.protocol) + encode_mark(sa.mark)
        report: Notification | None = None
        self._requests.hear(Group.SA, on=True)
        try:
            for answer in self._requests.acknowledged(Message.DELSA, body, "move", subject):
                report = notification(answer)
        finally:
            self._requests.hear(Group.SA, on=False)
        if not isinstance(report, StateGone):
            # Adding it again with older counters could use a number twice: it stays deleted.
            raise KernelError(errno.ENOBUFS, "move", subject, "it is lost: its end unreported")
        return report.state

    def _add(self, sa: SecurityAssociation) -> None:
        subject = _sa(sa.destination, sa.spi)
        self._requests.order(Order(Message.NEWSA, encode_state(sa), "move", subject))

    def _put_back(self, sa: SecurityAssociation, cause: Exception) -> None:
        try:
            self._add(sa)
        except KernelError as error:
            number, subject = error.errno, _sa(sa.destination, sa.spi)
            raise KernelError(number, "move", subject, f"it is lost: {error}") from cause


class Monitor:
    """Subscribes to what is done to policies and SAs, but for what `besides` does."""

    def __init__(
        self, groups: tuple[Group, ...] = CHANGES, besides: Xfrm | None = None
    ) -> None:
        self._besides = None if besides is None else besides.port
        bits = sum(1 << (group - 1) for group in groups)
        self._socket = subscribed(_NETLINK_XFRM, bits, _MONITOR_BUFFER)

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
        hear(self._socket, group, on=on)

    def read(self) -> tuple[Notification | NewsLost, ...]:
        """What happened since the last call, in order; does not wait. Raises KernelError."""
        happened: list[Notification | NewsLost] = []
        for _ in range(DATAGRAMS_PER_READ):
            try:
                datagram = self._socket.recv(DATAGRAM_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise translated(error, "watch", "policies and SAs") from error
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


def _moved(
    sa: SecurityAssociation, source: IPAddress, destination: IPAddress
) -> SecurityAssociation:
    try:
        return moved(sa, source, destination)
    except ValueError as error:
        subject = _sa(sa.destination, sa.spi)
        raise KernelError(errno.EOPNOTSUPP, "move", subject, str(error)) from error


def _order(operation: Operation) -> Order:
    match operation:
        case Put(Policy() as policy):
            name = _policy(policy.direction, policy.selector)
            return Order(Message.UPDPOLICY, encode_policy(policy), "put", name)
        case Drop(Policy() as policy):
            name = _policy(policy.direction, policy.selector)
            body = encode_policy_id(policy.direction, policy.selector)
            return Order(Message.DELPOLICY, body, "drop", name, fine=_GONE)
    raise TypeError(f"no policy: {operation}")


def _policy(direction: Direction, selector: Selector) -> str:
    return f"policy {direction.name.lower()} {selector.source} -> {selector.destination}"


def _sa(destination: IPAddress, spi: Spi) -> str:
    return f"SA {spi:08x} to {destination}"
