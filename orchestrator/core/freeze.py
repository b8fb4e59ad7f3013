"""Which held TCP segments are probes that an absent far end would have answered.

A connection without traffic asks from time to time whether its far end is still there
(keepalive), one whose far end has closed its window whether it has opened again (RFC 9293,
3.8.4 and 3.8.6.1); after some questions without an answer it ends. Such a probe carries nothing
and looks like any other acknowledgment, but for its sequence number, which is one less than
that of the next octet. To answer something else by mistake would acknowledge an octet that
nobody has; so a segment counts as a probe only when

1. exactly the same was there before, and long enough ago that only a timer can have sent both:
   an acknowledgment that repeats itself answers something, and nothing comes in meanwhile; an
   announcement of more window announces another window;
2. nothing of its flow waits for acknowledgment: then the sender does not probe.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, NamedTuple

from orchestrator.core.quantities import Instant, Seconds

TIMER_GAP: Final = Seconds(0.15)
"""Less than the shortest time between two probes: TCP_RTO_MIN, 0.2 s (include/net/tcp.h)."""
MOST_FLOWS: Final = 4096
"""Watched at once; beyond it the one that was watched first is forgotten."""


class Signature(NamedTuple):
    """What two probes of the same kind have in common."""

    sequence: int
    acknowledgment: int
    window: int


@dataclass(slots=True)
class _Seen:
    signature: Signature | None
    since: Instant
    waiting: bool = False
    """Something of the flow waits for acknowledgment."""


class Freeze:
    """One outage of one virtual address: `forget` when it is over."""

    def __init__(self) -> None:
        self._flows: dict[Hashable, _Seen] = {}

    def forget(self) -> None:
        """Nothing that was seen counts any more."""
        self._flows.clear()

    def waits(self, flow: Hashable, now: Instant) -> None:
        """A segment of the flow was held that its sender repeats until it is acknowledged."""
        self._seen(flow, now).waiting = True

    def is_probe(self, flow: Hashable, signature: Signature, now: Instant) -> bool:
        """Whether this segment, which carries nothing, is to be answered."""
        seen = self._seen(flow, now)
        if seen.signature != signature:
            seen.signature, seen.since = signature, now
            return False
        return not seen.waiting and now - seen.since >= TIMER_GAP

    def _seen(self, flow: Hashable, now: Instant) -> _Seen:
        seen = self._flows.get(flow)
        if seen is None:
            if len(self._flows) >= MOST_FLOWS:
                del self._flows[next(iter(self._flows))]
            seen = self._flows[flow] = _Seen(None, now)
        return seen
