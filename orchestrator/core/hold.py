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
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from math import inf
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

    @property
    def ages(self) -> tuple[Seconds, ...]:
        """Of each kind, in their order."""
        return tuple(self.age(kind) for kind in Kind)


@dataclass(frozen=True, slots=True)
class HoldPolicy:
    """How what cannot be sent is treated."""

    limits: HoldLimits = HoldLimits()
    freeze: bool = True
    """Keep TCP senders from giving up meanwhile (`core.freeze`)."""
    query_ports: frozenset[int] = frozenset({53, 123})
    """UDP ports to which a QUERY goes."""


@dataclass(slots=True, eq=False)
class _Waiting:
    number: int
    """Grows from packet to packet."""
    since: Instant
    packet: bytes
    label: Label
    flow: "_Flow"


_Waitings = dict[int, _Waiting]
"""By number, in the order of arrival."""


@dataclass(slots=True, eq=False)
class _Flow:
    """What waits of one flow."""

    key: Hashable
    weight: int = 0
    """Octets of its packets."""
    segments: _Waitings = field(default_factory=dict)
    others: _Waitings = field(default_factory=dict)
    head: _Waiting | None = None
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
        self._pushed = 0
        self._packets = 0
        self._by_kind: tuple[_Waitings, ...] = tuple({} for _ in Kind)
        self._ages = limits.ages
        self._expiry = Instant(inf)
        """Until then nothing is too old; something may be from then on."""
        self._flows: dict[Hashable, _Flow] = {}
        self._parts: dict[tuple[Hashable, Hashable], _Waiting] = {}
        self._longest: Largest[_Flow] = Largest()

    def __len__(self) -> int:
        return self._packets

    @property
    def weight(self) -> int:
        """Octets of memory, as all sessions together are measured."""
        return self.held_bytes + PACKET_COST * self._packets

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
        firsts = [next(iter(kept.values())) for kept in self._by_kind if kept]
        return min((waiting.since for waiting in firsts), default=None)

    @property
    def fullness(self) -> float:
        """How near it is to its limits in bytes and packets: 0 is empty, 1 full."""
        return max(
            self.held_bytes / self.limits.max_bytes,
            self._packets / self.limits.max_packets,
        )

    def push(self, packet: bytes, now: Instant, label: Label) -> None:
        """Keeps the packet, if there may be one as large."""
        if len(packet) > self.limits.max_bytes or len(packet) > self.limits.flow_bytes:
            self.dropped[Drop.TOO_LARGE] += 1
            return
        self._expire(now)
        if label.part is not None:
            copied = self._parts.get((label.flow, label.part))
            if copied is not None:
                self._take(copied)
        self._fit_flow(self._keep(packet, now, label))
        self._fit()
        self._account.settle()

    def change_limits(self, limits: HoldLimits, now: Instant) -> None:
        """What is too much by the new ones goes, by rules 1 and 2."""
        self.limits, self._ages = limits, limits.ages
        self._expiry = Instant(-inf)
        self._expire(now)
        for flow in tuple(self._flows.values()):
            self._fit_flow(flow)
        self._fit()

    def give(self) -> None:
        """Loses one packet, by rule 2, to sessions that hold less; there is one."""
        self._overflow(self._longest.first(), Drop.TOTAL)

    def end(self) -> None:
        """All is lost, and nothing more may come."""
        self.dropped[Drop.ENDED] += self._packets
        for kept in self._by_kind:
            self._take_all(kept)
        self._account.leave(self)

    def first(self, now: Instant) -> bytes | None:
        """The packet that leaves next; it stays until it is `sent`. None: there is none."""
        self._expire(now)
        first = self._first()
        return None if first is None else first.packet

    def sent(self) -> None:
        """What `first` named has left."""
        first = self._first()
        if first is not None:
            self._take(first)

    def take_stalled(self, backed_off: Container[Hashable], now: Instant) -> tuple[Label, ...]:
        """Of each TCP flow that has backed off its first unacknowledged segment.

        All segments of these flows leave the queue (rule 5).
        """
        self._expire(now)
        stalled = []
        for flow in tuple(self._flows.values()):
            if flow.head is not None and flow.key in backed_off:
                stalled.append(flow.head.label)
                self._take_all(flow.segments)
        return tuple(stalled)

    def shed(self) -> None:
        """Only TCP stays."""
        for kind in Kind:
            if not kind.is_tcp:
                self.dropped[Drop.ASLEEP] += len(self._by_kind[kind])
                self._take_all(self._by_kind[kind])

    def slept(self, seconds: Seconds) -> None:
        """The device did, and its senders of TCP with it, whose timers stood still: everything
        else has grown older meanwhile."""
        self._expiry = Instant(-inf)
        for kind in Kind:
            for waiting in () if kind.is_tcp else self._by_kind[kind].values():
                waiting.since = Instant(waiting.since - seconds)

    def _first(self) -> _Waiting | None:
        for kept in self._by_kind:
            if kept:
                return next(iter(kept.values()))
        return None

    # Keeping

    def _keep(self, packet: bytes, now: Instant, label: Label) -> _Flow:
        flow = self._flows.get(label.flow)
        if flow is None:
            flow = self._flows[label.flow] = _Flow(label.flow)
        number = self._pushed
        self._pushed += 1
        waiting = _Waiting(number, now, packet, label, flow)
        if not self._packets:
            self._since = now
        self._packets += 1
        self._by_kind[label.kind][number] = waiting
        expiry = now + self._ages[label.kind]
        if expiry < self._expiry:
            self._expiry = Instant(expiry)
        if label.part is not None:
            self._parts[label.flow, label.part] = waiting
        if label.kind is Kind.SEGMENT:
            flow.segments[number] = waiting
            if flow.head is None or not follows(label.sequence, flow.head.label.sequence):
                flow.head = waiting
        else:
            flow.others[number] = waiting
        size = len(packet)
        flow.weight += size
        self.held_bytes += size
        self._longest.grown(flow)
        self._account.changed(size + PACKET_COST)
        return flow

    def _take(self, waiting: _Waiting) -> None:
        number, label, flow = waiting.number, waiting.label, waiting.flow
        self._packets -= 1
        del self._by_kind[label.kind][number]
        if label.part is not None:
            del self._parts[label.flow, label.part]
        size = len(waiting.packet)
        self.held_bytes -= size
        self._account.changed(-size - PACKET_COST)
        flow.weight -= size
        if label.kind is Kind.SEGMENT:
            del flow.segments[number]
            if flow.head is waiting:
                flow.head = next(iter(flow.segments.values()), None)
        else:
            del flow.others[number]
        if not flow.segments and not flow.others:
            del self._flows[label.flow]
            self._longest.gone(flow)

    def _take_all(self, kept: _Waitings) -> None:
        for waiting in tuple(kept.values()):
            self._take(waiting)

    # Losing

    def _expire(self, now: Instant) -> None:
        if now < self._expiry:
            return
        expiry = inf
        for kept, age in zip(self._by_kind, self._ages, strict=True):
            while kept:
                first = next(iter(kept.values()))
                if now - first.since <= age:
                    expiry = min(expiry, first.since + age)
                    break
                self._take(first)
                self.dropped[Drop.TOO_OLD] += 1
        self._expiry = Instant(expiry)

    def _fit_flow(self, flow: _Flow) -> None:
        while flow.weight > self.limits.flow_bytes:
            self._overflow(flow)

    def _fit(self) -> None:
        while (
            self.held_bytes > self.limits.max_bytes or self._packets > self.limits.max_packets
        ):
            self._overflow(self._longest.first())

    def _overflow(self, flow: _Flow, why: Drop = Drop.FULL) -> None:
        """Rule 2."""
        if len(flow.segments) > 1:
            newest = reversed(flow.segments.values())
            loser = next(waiting for waiting in newest if waiting is not flow.head)
        elif flow.others:
            loser = next(iter(flow.others.values()))
            if self.limits.keep_oldest and loser.label.kind is Kind.DATAGRAM:
                loser = next(reversed(flow.others.values()))
        else:
            loser = next(iter(flow.segments.values()))
        self._take(loser)
        self.dropped[why] += 1
