"""Packets that cannot be sent now, kept in order within limits.

1. Bounded in bytes, packets and age; what is too old is dropped when the queue is touched.
2. When full the oldest goes first: the newest segment of a TCP flow is the one in back-off,
   and of a datagram stream the newest is worth most.
3. Released once, in the order of arrival.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.core.quantities import Instant, Seconds


@dataclass(frozen=True, slots=True)
class HoldLimits:
    max_bytes: int = 4 * 1024 * 1024
    """Twice the bandwidth-delay product of 100 Mbit/s at 150 ms."""
    max_packets: int = 8192
    max_age: Seconds = Seconds(120.0)
    """As long as a TCP sender in back-off waits at most before it sends again itself."""


@dataclass(slots=True)
class HoldQueue:
    limits: HoldLimits
    held_bytes: int = 0
    dropped: int = 0
    """Packets lost to a limit since the beginning."""
    _packets: deque[tuple[Instant, bytes]] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._packets)

    def push(self, packet: bytes, now: Instant) -> None:
        """Keeps the packet, if it is no larger than the whole queue may be."""
        if len(packet) > self.limits.max_bytes:
            self.dropped += 1
            return
        self._packets.append((now, packet))
        self.held_bytes += len(packet)
        self._expire(now)
        self._shrink()

    def release(self, now: Instant) -> tuple[bytes, ...]:
        """Everything still young enough, oldest first; the queue is empty afterwards."""
        self._expire(now)
        packets = tuple(packet for _, packet in self._packets)
        self._packets.clear()
        self.held_bytes = 0
        return packets

    def put_back(self, packets: Sequence[bytes], now: Instant) -> None:
        """What was released and could not be sent goes first again; its age starts anew."""
        self._packets.extendleft((now, packet) for packet in reversed(packets))
        self.held_bytes += sum(map(len, packets))
        self._shrink()

    def _shrink(self) -> None:
        while (
            self.held_bytes > self.limits.max_bytes
            or len(self._packets) > self.limits.max_packets
        ):
            self._drop_oldest()

    def _expire(self, now: Instant) -> None:
        while self._packets and now - self._packets[0][0] > self.limits.max_age:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, packet = self._packets.popleft()
        self.held_bytes -= len(packet)
        self.dropped += 1
