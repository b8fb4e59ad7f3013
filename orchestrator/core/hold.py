"""Packets that cannot be sent now, kept in order within limits.

1. Bounded in bytes, packets and age; what is too old is dropped when the queue is touched.
2. When full the oldest goes first: the newest segment of a TCP flow is the one in back-off,
   and of a datagram stream the newest is worth most.
3. Released once, in the order of arrival.
4. Of the same part of a TCP flow only the newest copy is kept, and no other is released: a
   sender that is told of two copies takes its loss for imagined, forgets what is lost, and
   waits for a timer that has backed off (RFC 3708).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from orchestrator.core.quantities import Instant, Seconds


@dataclass(frozen=True, slots=True)
class HoldLimits:
    max_bytes: int = 4 * 1024 * 1024
    """Twice the bandwidth-delay product of 100 Mbit/s at 150 ms."""
    max_packets: int = 8192
    max_age: Seconds = Seconds(120.0)
    """As long as a TCP sender in back-off waits at most before it sends again itself."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    since: Instant
    packet: bytes
    part: Hashable | None


@dataclass(slots=True)
class HoldQueue:
    limits: HoldLimits
    held_bytes: int = 0
    dropped: int = 0
    """Packets lost to a limit since the beginning."""
    _packets: dict[int, _Waiting] = field(default_factory=dict)
    """By a number that grows: in the order of arrival."""
    _parts: dict[Hashable, int] = field(default_factory=dict)
    _next: int = 0

    def __len__(self) -> int:
        return len(self._packets)

    def push(self, packet: bytes, now: Instant, part: Hashable | None = None) -> None:
        """Keeps the packet, if it is no larger than the whole queue may be.

        `part` says which part of its flow it carries (rule 4); None: it is like no other.
        """
        if len(packet) > self.limits.max_bytes:
            self.dropped += 1
            return
        if part in self._parts:
            self._take(self._parts[part])
        self._keep(_Waiting(now, packet, part))
        self._expire(now)
        self._shrink()

    def release(self, now: Instant) -> tuple[bytes, ...]:
        """Everything still young enough, oldest first; the queue is empty afterwards."""
        self._expire(now)
        return tuple(self._take(number).packet for number in tuple(self._packets))

    def put_back(self, packets: Sequence[bytes], now: Instant) -> None:
        """What was released and could not be sent goes first again; its age starts anew."""
        later = [self._take(number) for number in tuple(self._packets)]
        for waiting in (*(_Waiting(now, packet, None) for packet in packets), *later):
            self._keep(waiting)
        self._shrink()

    def _keep(self, waiting: _Waiting) -> None:
        self._packets[self._next] = waiting
        if waiting.part is not None:
            self._parts[waiting.part] = self._next
        self._next += 1
        self.held_bytes += len(waiting.packet)

    def _take(self, number: int) -> _Waiting:
        waiting = self._packets.pop(number)
        if waiting.part is not None:
            del self._parts[waiting.part]
        self.held_bytes -= len(waiting.packet)
        return waiting

    def _shrink(self) -> None:
        while (
            self.held_bytes > self.limits.max_bytes
            or len(self._packets) > self.limits.max_packets
        ):
            self._drop_oldest()

    def _expire(self, now: Instant) -> None:
        while self._packets and now - self._oldest().since > self.limits.max_age:
            self._drop_oldest()

    def _oldest(self) -> _Waiting:
        return next(iter(self._packets.values()))

    def _drop_oldest(self) -> None:
        self._take(next(iter(self._packets)))
        self.dropped += 1
