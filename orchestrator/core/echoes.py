"""When what TCP segments echo is too old to measure a round trip by.

A segment echoes the time of the last one that its sender took in (RFC 7323). After an outage
that was before it. The far end takes the difference for its round trip, waits accordingly, and
its repetitions for needless ones (RFC 3522). So nothing is echoed for a while:

1. A path was lost, and none has answered within `STALE_AFTER`: what is echoed is stale.
2. What was lost in silence, or while the device slept, is stale at once.
3. `FRESH_AFTER` after an answer both ends have heard each other, and echo what is new.
"""

from dataclasses import dataclass
from typing import Final

from orchestrator.core.quantities import Instant, Seconds

STALE_AFTER: Final = Seconds(0.2)
"""The least retransmission timeout of Linux: nobody has taken a shorter outage for a loss."""
FRESH_AFTER: Final = Seconds(1.0)
"""Of the round trips that we work with several; every flow that restarts at once has renewed
what it echoes after one."""


@dataclass(slots=True)
class Echoes:
    """One endpoint's."""

    stale: bool = False
    turns_at: Instant | None = None
    """When that becomes otherwise; None: when something happens."""

    def lost(self, now: Instant) -> None:
        """No path carries traffic (any more)."""
        if self.stale:
            self.turns_at = None
        elif self.turns_at is None:
            self.turns_at = Instant(now + STALE_AFTER)

    def long_lost(self, now: Instant) -> None:
        """No path has carried any for a time that nobody knows."""
        self.turns_at = None if self.stale else now

    def answered(self, now: Instant) -> None:
        """A path has proved that it carries traffic."""
        self.turns_at = Instant(now + FRESH_AFTER) if self.stale else None

    def turn(self, now: Instant) -> bool:
        """Whether `stale` has become otherwise by now."""
        if self.turns_at is None or now < self.turns_at:
            return False
        self.turns_at = None
        self.stale = not self.stale
        return True
