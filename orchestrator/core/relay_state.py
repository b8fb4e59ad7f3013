"""What a relay is in while it stands, as values: they can be carried to another process."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from orchestrator.core.relay_events import Leg


class Half(IntEnum):
    """The state of one half-stream."""

    WAITING = 0
    READING = 1
    """the queue is empty"""
    WRITING = 2
    """the queue holds bytes"""
    ENDED = 3
    """the FIN was passed on"""
    BROKEN = 4
    """its source is lost; a reset waits behind what its destination has not acknowledged"""
    DROPPED = 5
    """its destination is lost, nothing goes this way any more"""
    LOADING = 6
    """the queue is empty, the spool holds bytes"""


@dataclass(frozen=True, slots=True)
class StreamState:
    """One half-stream of a relay that stands."""

    half: Half
    readable: bool
    hangup: bool
    writable: bool
    queued: int
    """bytes"""
    moved: int
    """bytes"""
    spooled: int = 0
    """bytes"""

    def check(self, limit: int) -> None:
        """Raises ValueError for what no half-stream can be in that queues at most `limit`."""
        if not 0 <= self.queued <= limit or self.moved < 0:
            raise ValueError(f"{self.queued} bytes queued, {self.moved} moved")
        if (self.half is Half.WRITING) is not bool(self.queued):
            raise ValueError(f"{self.queued} bytes queued in {self.half.name}")
        if self.spooled not in _SPOOLED.get(self.half, range(1)):
            raise ValueError(f"{self.spooled} bytes spooled in {self.half.name}")


@dataclass(frozen=True, slots=True)
class RelayState:
    """A relay that stands, as a value. Raises ValueError for what no relay can be in."""

    dialled: Leg
    limit: int
    patient: frozenset[Leg]
    lost: Leg | None
    watched: frozenset[Leg]
    """whose far end has been waited for"""
    drained: frozenset[Leg]
    streams: tuple[StreamState, StreamState]
    """from INNER, from OUTER"""

    def __post_init__(self) -> None:
        halves = [stream.half for stream in self.streams]
        if self.limit < 1:
            raise ValueError("a relay that may queue nothing")
        for stream in self.streams:
            stream.check(self.limit)
        for leg in Leg:
            if self.streams[1 - leg].spooled and leg not in self.patient:
                raise ValueError(f"bytes are spooled for {leg.name}, which is not patient")
        if halves.count(Half.WAITING) == 1:
            raise ValueError("one half-stream waits for the dial, the other does not")
        if not self.drained <= self.watched:
            raise ValueError("a leg is drained that was not watched")
        if self.lost is None:
            if Half.BROKEN in halves or Half.DROPPED in halves:
                raise ValueError("a half-stream is lost, and no leg")
        elif halves[1 - self.lost] is not Half.DROPPED or halves[self.lost] not in _OWED:
            raise ValueError(f"{self.lost.name} is lost, and its half-streams are not")

    @property
    def dialing(self) -> bool:
        return self.streams[0].half is Half.WAITING

    @property
    def awaited(self) -> frozenset[Leg]:
        """The legs whose DRAINED is still to come."""
        return self.watched - self.drained


_OWED: Final = (Half.READING, Half.WRITING, Half.LOADING, Half.BROKEN)
"""What the half-stream from a lost leg can be in while the flow stands."""
_SPOOLED: Final = {Half.WRITING: range(2**63), Half.LOADING: range(1, 2**63)}
"""How many bytes may be in the spool; elsewhere none."""
