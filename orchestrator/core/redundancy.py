"""Packets that are sent twice, over two links, and taken once.

1. Each packet has a number; both its copies have the same. Numbers begin anew with the daemon,
   and with them the stream, which has a number of its own (`Numbering`).
2. The receiver takes a number the first time that it comes, if it is not older than `WINDOW`
   packets: what is older than that, a jitter buffer would not take either (`Window`).
3. Copies of the stream before may still be on their way when another begins: both have a
   window, any further one ends the oldest.
4. What goes beyond a call's rate goes once (`Meter`): every copy costs the daemon, and a link
   that is full loses more than a copy saves.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from orchestrator.core.quantities import SERIALS, Instant, follows

WINDOW: Final = 1024
"""Packets: two seconds of `RATE`, and more than two links differ by."""
STREAMS: Final = 2
RATE: Final = 500.0
"""Packets a second and virtual address: ten calls of 20 ms packets. A copy costs the daemon
some 0.1 ms."""
BURST: Final = 250.0
"""Packets."""


@dataclass(slots=True)
class Numbering:
    """Of one sender."""

    stream: int
    """32 bits, another one for each run of a daemon."""
    _numbers: Iterator[int] = field(default_factory=count)

    def next(self) -> int:
        return next(self._numbers) % SERIALS


@dataclass(slots=True)
class Window:
    """Of one sender's streams, at their receiver."""

    _latest: dict[int, int] = field(default_factory=dict)
    """By stream, the highest number, the older stream first."""
    _seen: dict[int, int] = field(default_factory=dict)
    """By stream: bit n is whether the number n below the highest has come."""

    def takes(self, stream: int, number: int) -> bool:
        """Whether this is the first copy of it."""
        if stream not in self._latest:
            while len(self._latest) >= STREAMS:
                oldest = next(iter(self._latest))
                del self._latest[oldest], self._seen[oldest]
            self._latest[stream], self._seen[stream] = number, 1
            return True
        latest = self._latest[stream]
        if follows(number, latest):
            ahead = (number - latest) % SERIALS
            before = self._seen[stream] << ahead if ahead < WINDOW else 0
            self._latest[stream] = number
            self._seen[stream] = (before | 1) & ((1 << WINDOW) - 1)
            return True
        behind = (latest - number) % SERIALS
        if behind >= WINDOW or self._seen[stream] >> behind & 1:
            return False
        self._seen[stream] |= 1 << behind
        return True


@dataclass(slots=True)
class Meter:
    """Of what one sender sends twice."""

    _allowed: float = BURST
    _since: Instant | None = None

    def allows(self, now: Instant) -> bool:
        """Whether one more packet may go twice now."""
        if self._since is not None:
            self._allowed = min(BURST, self._allowed + (now - self._since) * RATE)
        self._since = now
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True
