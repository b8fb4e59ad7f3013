"""Many TCP connections, each used in a way of its own, and when their octets arrived.

One thread holds both ends of all of them, on sockets that live in two hosts of the lab, so that
writing and arrival are read from one clock (CLOCK_MONOTONIC). The octets of a connection are
running numbers: each is checked to have come once and in order.
"""

import os
import select
import socket
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Self

from orchestrator.core.quantities import IPAddress
from orchestrator.lab.background import Background
from orchestrator.lab.host import Host
from orchestrator.lab.ticker import Way

PORT: Final = 5006
RECORD: Final = 8
"""Octets that an application writes at a time when it does not pour: one number."""
_CONNECT: Final = 20.0
"""Seconds for one connection to be there on both sides."""
_BACKLOG: Final = 16
_FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_WRITE: Final = 1 << 16
_READ: Final = 1 << 18
_BLOCK: Final = 1 << 16
"""Octets of running numbers that are made at a time."""
_IDLE: Final = 0.1
"""Seconds after which a thread without anything to do looks whether it is to end."""
_WINDOW: Final = 0.2
"""Seconds over which goodput is measured."""
_STEADY: Final = 5
"""Windows over which a rate must last."""
_KEEPALIVE: Final = 5
"""Seconds."""
_UNANSWERED: Final = 3
_USER_TIMEOUT_MS: Final = 10_000

SocketOption = tuple[int, int, int]
"""Level, name, value."""


@dataclass(frozen=True, slots=True)
class Habit:
    """What an application does with its connection."""

    name: str
    options: tuple[SocketOption, ...] = ()
    """Of the socket of the side that sends."""
    pours: bool = False
    """It sends as much as the connection takes."""
    every: float | None = None
    """Seconds between two small writes, whatever the network does."""
    writes_when_cut: bool = False
    """One small write, as soon as the path is gone."""
    writes_when_back: bool = False
    """One small write, as soon as the path has returned."""


_NODELAY: Final = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

BULK: Final = Habit("bulk", pours=True)
INTERACTIVE: Final = Habit("interactive", (_NODELAY,), every=0.1)
IDLE_KEEPALIVE: Final = Habit(
    "idle-keepalive",
    (
        _NODELAY,
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _UNANSWERED),
    ),
    writes_when_back=True,
)
IDLE_USER_TIMEOUT: Final = Habit(
    "idle-user-timeout",
    (_NODELAY, (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)),
    writes_when_cut=True,
)
SLOW: Final = Habit("slow", (_NODELAY,), every=1.0)
"""For hundreds of flows at a time on one slow CPU."""


@dataclass(slots=True)
class Arrivals:
    """When octets were read by the receiving application, and how many it had then."""

    times: list[float] = field(default_factory=list)
    totals: list[int] = field(default_factory=list)

    def add(self, now: float, octets: int) -> None:
        self.totals.append(self.total + octets)
        self.times.append(now)

    @property
    def total(self) -> int:
        return self.totals[-1] if self.totals else 0

    def first_since(self, instant: float) -> float | None:
        """What is read from a TCP connection was never read before: this is new."""
        found = bisect_left(self.times, instant)
        return self.times[found] if found < len(self.times) else None

    def between(self, begin: float, end: float) -> int:
        """Octets read after `begin`, up to `end`."""
        return self._until(end) - self._until(begin)

    def _until(self, instant: float) -> int:
        found = bisect_right(self.times, instant)
        return self.totals[found - 1] if found else 0


@dataclass(slots=True)
class Flow:
    """One connection, whose octets go one way."""

    habit: Habit
    way: Way
    sender: socket.socket
    receiver: socket.socket
    arrivals: Arrivals = field(default_factory=Arrivals)
    failure: str | None = None
    """What an application saw that must not be: an error, an end, a wrong octet."""
    written: int = 0
    """Octets that the sending application wanted to send."""
    sent: int = 0
    """Octets that its socket took."""
    due: float = 0.0
    """When the application writes next, if it does so on its own."""

    def write(self) -> None:
        """One small write."""
        self.written += RECORD
        self.push()

    def push(self) -> None:
        """Gives the socket what it takes of what was written."""
        if self.habit.pours:
            self.written = self.sent + _WRITE
        try:
            while self.sent < self.written:
                self.sent += self.sender.send(numbers(self.sent, self.written - self.sent))
                if self.habit.pours:
                    return
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(f"the sender's socket: {error}")

    def pull(self) -> None:
        """Reads what there is, and checks it."""
        try:
            octets = self.receiver.recv(_READ)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(f"the receiver's socket: {error}")
            return
        now = time.monotonic()
        if not octets:
            self.fail("the receiver saw the end")
        elif octets != numbers(self.arrivals.total, len(octets)):
            self.fail(f"wrong octets after {self.arrivals.total}")
        else:
            self.arrivals.add(now, len(octets))

    def fail(self, why: str) -> None:
        if self.failure is None:
            self.failure = why


class Flows(Background):
    """Opens connections from the endpoint to the peer; they live from `with` to its end."""

    def __init__(self, endpoint: Host, peer: Host, address: IPAddress) -> None:
        super().__init__("flows")
        self._endpoint = endpoint
        self._target = (str(address), PORT)
        self._listener: socket.socket = peer.inside(
            socket.create_server,
            self._target,
            family=_FAMILY[address.version],
            backlog=_BACKLOG,
        )
        self._listener.settimeout(_CONNECT)
        self.flows: Final[list[Flow]] = []
        self._by_descriptor: dict[int, Flow] = {}

    def open(
        self, habit: Habit, way: Way, count: int, sources: Sequence[IPAddress] = ()
    ) -> None:
        """`count` connections, before `with`; from these addresses of the endpoint in turn, or
        as any application would: without naming one. Raises OSError if one cannot be made."""
        for number in range(count):
            source = (str(sources[number % len(sources)]), 0) if sources else None
            near = self._endpoint.inside(
                socket.create_connection, self._target, _CONNECT, source_address=source
            )
            far, _ = self._listener.accept()
            sender, receiver = (near, far) if way is Way.UP else (far, near)
            for option in habit.options:
                sender.setsockopt(*option)
            for each in (sender, receiver):
                each.setblocking(False)  # noqa: FBT003 - the standard library's signature
            self.flows.append(Flow(habit, way, sender, receiver))

    def __enter__(self) -> Self:
        began = time.monotonic()
        for number, flow in enumerate(self.flows):
            # Not all at the same time: applications do not know of each other.
            share = number / len(self.flows)
            flow.due = began + (flow.habit.every or 0.0) * share
            if flow.habit.every is None:
                flow.write()
        return super().__enter__()

    def _close(self) -> None:
        self._listener.close()
        for flow in self.flows:
            flow.sender.close()
            flow.receiver.close()

    def of(self, habit: Habit, way: Way) -> list[Flow]:
        return [flow for flow in self.flows if flow.habit is habit and flow.way is way]

    def tell_cut(self) -> None:
        """The path is gone: those who write then do."""
        for flow in self.flows:
            if flow.habit.writes_when_cut:
                flow.write()

    def tell_back(self) -> None:
        """The path has returned: those who write then do."""
        for flow in self.flows:
            if flow.habit.writes_when_back and flow.failure is None:
                flow.write()

    def _work(self) -> None:
        with select.epoll() as poll:
            for flow in self.flows:
                wanted = select.EPOLLOUT if flow.habit.pours else 0
                poll.register(flow.sender, wanted | select.EPOLLRDHUP)
                poll.register(flow.receiver, select.EPOLLIN)
                self._by_descriptor |= {
                    flow.sender.fileno(): flow,
                    flow.receiver.fileno(): flow,
                }
            beating = [flow for flow in self.flows if flow.habit.every is not None]
            due = min((flow.due for flow in beating), default=None)
            while not self._stop.is_set():
                now = time.monotonic()
                pause = _IDLE if due is None else min(max(due - now, 0), _IDLE)
                for descriptor, mask in poll.poll(pause):
                    self._serve(poll, descriptor, mask)
                if due is not None and time.monotonic() >= due:
                    due = _beat(beating, time.monotonic())

    def _serve(self, poll: select.epoll, descriptor: int, mask: int) -> None:
        flow = self._by_descriptor[descriptor]
        if flow.failure is None:
            if descriptor == flow.receiver.fileno():
                flow.pull()
            elif mask & (select.EPOLLERR | select.EPOLLHUP | select.EPOLLRDHUP):
                code = flow.sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                flow.fail(f"the sender's socket: {os.strerror(code) if code else 'the end'}")
            else:
                flow.push()
        if flow.failure is not None:
            poll.unregister(descriptor)


def _beat(flows: Iterable[Flow], now: float) -> float:
    """Has those write whose time has come; returns when the next one writes."""
    following = now + _IDLE
    for flow in flows:
        if flow.failure is None and flow.habit.every is not None:
            if flow.due <= now:
                flow.write()
                flow.due += flow.habit.every
            following = min(following, flow.due)
    return following


def regained(
    flows: Sequence[Arrivals], since: float, rate: float, until: float
) -> float | None:
    """After how many seconds from `since` the flows together have a rate (octets/s) again.

    That is the end of the first window of 0.2 s which has it, if the windows up to one second
    from its beginning have it together, too: what had waited in a queue and comes all at once
    is no rate. None: not before `until`.
    """
    number = 0
    while since + (number + _STEADY) * _WINDOW <= until:
        begin = since + number * _WINDOW
        spans = ((begin, begin + _WINDOW * windows) for windows in (1, _STEADY))
        if all(
            sum(each.between(*span) for each in flows) >= rate * (span[1] - span[0])
            for span in spans
        ):
            return (number + 1) * _WINDOW
        number += 1
    return None


def numbers(begin: int, length: int) -> bytes:
    """These octets of the endless sequence 0, 1, 2, …, each number 8 octets, network order."""
    first, last = begin // _BLOCK, (begin + length - 1) // _BLOCK
    blocks = b"".join(_block(index) for index in range(first, last + 1))
    offset = begin - first * _BLOCK
    return blocks[offset : offset + length]


@lru_cache(maxsize=64)
def _block(index: int) -> bytes:
    count = _BLOCK // RECORD
    block = array("Q", range(index * count, (index + 1) * count))
    block.byteswap()  # the lab's machines are little-endian
    return block.tobytes()
