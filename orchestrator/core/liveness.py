"""Whether a path carries data, from probes sent through the tunnel and their answers.

1. Readiness is an answer, not "ESTABLISHED": a path is proven by its first answer.
2. While a probe is unanswered the next one follows after a retransmission timeout
   (RFC 6298: SRTT + 4 RTTVAR, bounded); an answered path is asked again at the interval.
3. A path whose probes stayed unanswered for `dead_after` is dead.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from orchestrator.core.quantities import Instant, Seconds

INITIAL_RTO: Final = Seconds(0.3)
"""Before the first measurement: above the RTT of any access network but a satellite's."""
MIN_RTO: Final = Seconds(0.1)
MAX_RTO: Final = Seconds(1.0)
"""RFC 6298 has a minimum of 1 s for TCP; a probe costs 60 octets, so we can be quicker."""
OUTSTANDING_LIMIT: Final = 32
"""Probes whose sending time is remembered; beyond it the oldest is forgotten."""


class PathHealth(StrEnum):
    UNPROVEN = "unproven"
    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"


@dataclass(slots=True)
class Liveness:
    """One path's probes; starts unproven, with a probe due at once."""

    interval: Seconds
    """Between an answer and the next probe."""
    dead_after: Seconds
    """From the first unanswered probe to the verdict."""
    due: Instant
    """When the next probe has to be sent."""
    srtt: Seconds | None = None
    rttvar: Seconds = Seconds(0.0)
    proven: bool = False
    _sent: dict[int, Instant] = field(default_factory=dict)
    _waiting_since: Instant | None = None

    def begin(self, interval: Seconds, now: Instant) -> None:
        """Unproven again, with a probe due at once; what was measured is still believed."""
        self.interval, self.due, self.proven = interval, now, False
        self._sent.clear()
        self._waiting_since = None

    def sent(self, sequence: int, now: Instant) -> None:
        """A probe went out."""
        if len(self._sent) >= OUTSTANDING_LIMIT:
            del self._sent[next(iter(self._sent))]
        self._sent[sequence] = now
        if self._waiting_since is None:
            self._waiting_since = now
        self.due = Instant(now + self.rto)

    def answered(self, sequence: int, now: Instant) -> Seconds | None:
        """An answer came; returns the RTT, or None for an answer we did not wait for."""
        then = self._sent.pop(sequence, None)
        if then is None:
            return None
        rtt = Seconds(now - then)
        self._measure(rtt)
        self.proven = True
        self._sent.clear()
        self._waiting_since = None
        self.due = Instant(now + self.interval)
        return rtt

    def rest(self, interval: Seconds, now: Instant) -> None:
        """It has just answered: the next probe is due so long after that."""
        self.interval, self.due = interval, Instant(now + interval)

    def hurry(self, interval: Seconds) -> None:
        """The next probe is due no later than so long after the latest answer."""
        if self._waiting_since is None and interval < self.interval:
            self.due = Instant(self.due - self.interval + interval)
            self.interval = interval

    @property
    def waiting_since(self) -> Instant | None:
        """When the first probe was sent that is unanswered; None: all are answered."""
        return self._waiting_since

    @property
    def rto(self) -> Seconds:
        if self.srtt is None:
            return INITIAL_RTO
        return Seconds(min(max(self.srtt + 4 * self.rttvar, MIN_RTO), MAX_RTO))

    def health(self, now: Instant, dead_after: Seconds | None = None) -> PathHealth:
        """`dead_after` where the path is to be given up sooner than usual."""
        longest = self.dead_after if dead_after is None else dead_after
        if self._waiting_since is not None and now >= self._waiting_since + longest:
            return PathHealth.DEAD
        if not self.proven:
            return PathHealth.UNPROVEN
        late = self._waiting_since is not None and now >= self._waiting_since + self.rto
        return PathHealth.SUSPECT if late else PathHealth.ALIVE

    def deadline(self, dead_after: Seconds | None = None) -> Instant:
        """When to look again: a probe is due, or the verdict falls."""
        if self._waiting_since is None:
            return self.due
        longest = self.dead_after if dead_after is None else dead_after
        return Instant(min(self.due, self._waiting_since + longest))

    def _measure(self, rtt: Seconds) -> None:
        if self.srtt is None:
            self.srtt, self.rttvar = rtt, Seconds(rtt / 2)
            return
        self.rttvar = Seconds(0.75 * self.rttvar + 0.25 * abs(self.srtt - rtt))
        self.srtt = Seconds(0.875 * self.srtt + 0.125 * rtt)
