"""How fast what was held may leave: a new path is not flooded with all that an outage left.

A burst at once, and twice as much after each round trip, as TCP's slow start (RFC 5681, 3.1)
feels its way up; nothing is measured, because nothing is acknowledged.
"""

from typing import Final

from orchestrator.core.quantities import Instant, Seconds

BURST: Final = 128
"""Packets at once: 180 kB, 15 ms at 100 Mbit/s; the queues of access networks bear that."""
UNKNOWN_RTT: Final = Seconds(0.1)
_MOST_DOUBLINGS: Final = 16


class Pacer:
    """One release, from `begun` on."""

    def __init__(self, begun: Instant, rtt: Seconds | None) -> None:
        self._begun = begun
        self._rtt = rtt or UNKNOWN_RTT
        self._left = 0

    def allowance(self, now: Instant) -> int:
        """How many packets may leave now."""
        doublings = min((now - self._begun) / self._rtt, _MOST_DOUBLINGS)
        return int(BURST * 2**doublings) - self._left

    def left(self, packets: int) -> None:
        """So many have."""
        self._left += packets
