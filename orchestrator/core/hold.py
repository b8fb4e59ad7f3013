"""Packets that cannot be sent now: kept within limits, each left at most once.

1. Bounded in bytes and packets, in bytes for each flow, and in age for each kind of packet;
   what is too old is dropped when the queue is touched.
2. When all is full, the flow that holds most loses first (longest queue drop). Within a flow
   the oldest datagram goes, or the newest, as configured; of TCP the newest segment, never the
   first unacknowledged one, which alone can start the flow again.
3. It leaves in the order of `Kind`, within a kind in the order of arrival.
4. Of the same part of a TCP flow only the newest copy is kept: a sender that is told of two
   takes its loss for imagined, forgets what is lost, and waits for a timer that has backed off
   (RFC 3708).
5. A TCP sender that has backed off still has all that it sent. Where it can be made to send
   anew, its segments are not released (`take_stalled`): an old copy has an old timestamp, and
   its answer would make the sender believe in a round trip as long as the outage.
"""

from collections import Counter
from collections.abc import Container, Hashable
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import NamedTuple

from orchestrator.core.hold_total import PACKET_COST, Account, HoldTotal
from orchestrator.core.largest import Largest
from orchestrator.core.quantities import Instant, Seconds, follows


class Kind(IntEnum):
    """What a packet is to a queue, in the order in which they leave."""

    CONTROL = 0
    """TCP without data: it opens, resets, acknowledges or probes"""
    SEGMENT = 1
    """TCP that its sender repeats until it is acknowledged"""
    QUERY = 2
    """a question that is asked again, or given up, within seconds: DNS, NTP"""
    DATAGRAM = 3
    """all other UDP"""
    OTHER = 4
    """ICMP, fragments, and what else there is"""

    @property
    def is_tcp(self) -> bool:
        return self in (Kind.CONTROL, Kind.SEGMENT)


class Drop(StrEnum):
    """Why a packet that was held, or should have been, is lost."""

    FULL = "full"
    """The limits of its address or of its flow, in octets or packets."""
    TOTAL = "total"
    """The limit of all sessions together (`core.hold_total`)."""
    TOO_LARGE = "too-large"
    """It alone is more than may be held."""
    TOO_OLD = "too-old"
    ASLEEP = "asleep"
    """Of what is for an endpoint that sleeps only TCP is held."""
    ENDED = "ended"
    """Its session has ended."""


class Label(NamedTuple):
    """What a queue needs to know of a packet."""

    flow: Hashable
    kind: Kind
    part: Hashable = None
    """Which part of the flow it carries: another packet with the same one is a copy. None: it
    is like no other."""
    sequence: int = 0
    """Of a SEGMENT: its place in the flow, modulo 2**32."""


@dataclass(frozen=True, slots=True)
class HoldLimits:
    max_bytes: int = 4 * 1024 * 1024
    max_packets: int = 8192
    flow_bytes: int = 1024 * 1024
    tcp_age: Seconds = Seconds(300.0)
    datagram_age: Seconds = Seconds(30.0)
    query_age: Seconds = Seconds(5.0)
    keep_oldest: bool = False
    """Of a flow of datagrams that is full; otherwise the newest are kept."""

    def age(self, kind: Kind) -> Seconds:
        if kind.is_tcp:
            return self.tcp_age
        return self.query_age if kind is Kind.QUERY else self.datagram_age


@dataclass(frozen=True, slots=True)
class HoldPolicy:
    """How what cannot be sent is treated."""

    limits: HoldLimits = HoldLimits()
    freeze: bool = True
    """Keep TCP senders from giving up meanwhile (`core.freeze`)."""
    query_ports: frozenset[int] = frozenset({53, 123})
    """UDP ports to which a QUERY goes."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    since: Instant
    packet: bytes
    label: Label


@dataclass(slots=True, eq=False)
class _Flow:
    """What waits of one flow, by number."""

    key: Hashable
    weight: int = 0
    """Octets of its packets."""
    segments: dict[int, None] = field(default_factory=dict)
    """In the order of arrival, as the others."""
    others: dict[int, None] = field(default_factory=dict)
    head: int | None = None
    """Of the segments the one with the lowest sequence number, as far as is known."""


class HoldQueue:
    """What waits for one virtual address, on the account of its session."""

    def __init__(self, limits: HoldLimits, account: Account | None = None) -> None:
        self.limits = limits
        self.held_bytes = 0
        self.dropped: Counter[Drop] = Counter()
        """Packets lost since the beginning."""
        self._account = account or Account(HoldTotal())
        self._account.join(self)
        self._since = Instant(0.0)
        self._next = 0
        self._packets: dict[int, _Waiting] = {}
        """By a number that grows: in the order of arrival."""
        self._by_kind: dict[Kind, dict[int, None]] = {kind: {} for kind in Kind}
        self._flows: dict[Hashable, _Flow] = {}
        self._parts: dict[tuple[Hashable, Hashable], int] = {}
        self._longest: Largest[_Flow] = Largest()

    def __len__(self) -> int:
        return len(self._packets)

    @property
    def weight(self) -> int:
        """Octets of memory, as all sessions together are measured."""
        return self.held_bytes + PACKET_COST * len(self._packets)

    @property
    def flows(self) -> int:
        """How many have something here."""
        return len(self._flows)

    @property
    def since(self) -> Instant | None:
        """Since when it has not been empty; None: it is."""
        return self._since if self._packets else None

    @property
    def oldest(self) -> Instant | None:
        """When what waits longest came; None: nothing waits."""
        firsts = [next(iter(numbers)) for numbers in self._by_kind.values() if numbers]
        return min((self._packets[number].since for number in firsts), default=None)

    @property
    def fullness(self) -> float:
        """How near it is to its limits in bytes and packets: 0 is empty, 1 full."""
        return max(
            self.held_bytes / self.limits.max_bytes,
            len(self._packets) / self.limits.max_packets,
        )

    def push(self, packet: bytes, now: Instant, label: Label) -> None:
        """Keeps the packet, if there may be one as large."""
        if len(packet) > min(self.limits.max_bytes, self.limits.flow_bytes):
            self.dropped[Drop.TOO_LARGE] += 1
            return
        self._expire(now)
        if label.part is not None:
            copied = self._parts.get((label.flow, label.part))
            if copied is not None:
                self._take(copied)
        self._fit_flow(self._keep(_Waiting(now, packet, label)))
        self._fit()
        self._account.settle()

    def change_limits(self, limits: HoldLimits, now: Instant) -> None:
        """What is too much by the new ones goes, by rules 1 and 2."""
        self.limits = limits
        self._expire(now)
        for flow in tuple(self._flows.values()):
            self._fit_flow(flow)
        self._fit()

    def give(self) -> None:
        """Loses one packet, by rule 2, to sessions that hold less; there is one."""
        self._overflow(self._longest.first(), Drop.TOTAL)

    def end(self) -> None:
        """All is lost, and nothing more may come."""
        self.dropped[Drop.ENDED] += len(self._packets)
        for number in tuple(self._packets):
            self._take(number)
        self._account.leave(self)

    def first(self, now: Instant) -> bytes | None:
        """The packet that leaves next; it stays until it is `sent`. None: there is none."""
        self._expire(now)
        number = self._first_number()
        return None if number is None else self._packets[number].packet

    def sent(self) -> None:
        """What `first` named has left."""
        number = self._first_number()
        if number is not None:
            self._take(number)

    def take_stalled(self, backed_off: Container[Hashable], now: Instant) -> tuple[Label, ...]:
        """Of each TCP flow that has backed off its first unacknowledged segment.

        All segments of these flows leave the queue (rule 5).
        """
        self._expire(now)
        stalled = []
        for flow in tuple(self._flows.values()):
            if flow.head is not None and flow.key in backed_off:
                stalled.append(self._packets[flow.head].label)
                for number in tuple(flow.segments):
                    self._take(number)
        return tuple(stalled)

    def shed(self) -> None:
        """Only TCP stays."""
        gone = [
            number
            for kind, numbers in self._by_kind.items()
            if not kind.is_tcp
            for number in numbers
        ]
        for number in gone:
            self._take(number)
        self.dropped[Drop.ASLEEP] += len(gone)

    def slept(self, seconds: Seconds) -> None:
        """The device did, and its senders of TCP with it, whose timers stood still: everything
        else has grown older meanwhile."""
        for kind, numbers in self._by_kind.items():
            for number in () if kind.is_tcp else numbers:
                waiting = self._packets[number]
                since = Instant(waiting.since - seconds)
                self._packets[number] = replace(waiting, since=since)

    def _first_number(self) -> int | None:
        return next((number for kind in self._by_kind.values() for number in kind), None)

    # Keeping

    def _keep(self, waiting: _Waiting) -> _Flow:
        number, label = self._next, waiting.label
        self._next += 1
        if not self._packets:
            self._since = waiting.since
        self._packets[number] = waiting
        self._by_kind[label.kind][number] = None
        if label.part is not None:
            self._parts[label.flow, label.part] = number
        flow = self._flows.get(label.flow)
        if flow is None:
            flow = self._flows[label.flow] = _Flow(label.flow)
        if label.kind is Kind.SEGMENT:
            flow.segments[number] = None
            if flow.head is None or self._precedes(number, flow.head):
                flow.head = number
        else:
            flow.others[number] = None
        size = len(waiting.packet)
        flow.weight += size
        self.held_bytes += size
        self._longest.grown(flow)
        self._account.changed(size + PACKET_COST)
        return flow

    def _precedes(self, number: int, other: int) -> bool:
        one, two = self._packets[number].label, self._packets[other].label
        return not follows(one.sequence, two.sequence)

    def _take(self, number: int) -> None:
        waiting = self._packets.pop(number)
        label = waiting.label
        del self._by_kind[label.kind][number]
        if label.part is not None:
            del self._parts[label.flow, label.part]
        size = len(waiting.packet)
        self.held_bytes -= size
        self._account.changed(-size - PACKET_COST)
        flow = self._flows[label.flow]
        flow.weight -= size
        flow.segments.pop(number, None)
        flow.others.pop(number, None)
        if flow.head == number:
            flow.head = next(iter(flow.segments), None)
        if not flow.segments and not flow.others:
            del self._flows[label.flow]
            self._longest.gone(flow)

    # Losing

    def _expire(self, now: Instant) -> None:
        for kind, numbers in self._by_kind.items():
            limit = self.limits.age(kind)
            while numbers:
                number = next(iter(numbers))
                if now - self._packets[number].since <= limit:
                    break
                self._take(number)
                self.dropped[Drop.TOO_OLD] += 1

    def _fit_flow(self, flow: _Flow) -> None:
        while flow.weight > self.limits.flow_bytes:
            self._overflow(flow)

    def _fit(self) -> None:
        while (
            self.held_bytes > self.limits.max_bytes
            or len(self._packets) > self.limits.max_packets
        ):
            self._overflow(self._longest.first())

    def _overflow(self, flow: _Flow, why: Drop = Drop.FULL) -> None:
        """Rule 2."""
        if len(flow.segments) > 1:
            newest = reversed(flow.segments)
            number = next(number for number in newest if number != flow.head)
        elif flow.others:
            datagrams = self._packets[next(iter(flow.others))].label.kind is Kind.DATAGRAM
            from_newest = datagrams and self.limits.keep_oldest
            number = next(reversed(flow.others) if from_newest else iter(flow.others))
        else:
            number = next(iter(flow.segments))
        self._take(number)
        self.dropped[why] += 1
