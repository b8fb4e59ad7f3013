"""How long nothing came: what an application sees of an outage."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise


def longest_silence(arrivals: Sequence[float], begin: float, end: float) -> tuple[float, float]:
    """The longest time between two instants without an arrival: when it began, when it ended.

    `arrivals` are in their order; seconds of any one clock.
    """
    inside = arrivals[bisect_left(arrivals, begin) : bisect_right(arrivals, end)]
    return max(pairwise([begin, *inside, end]), key=lambda gap: gap[1] - gap[0])


def first_arrival(arrivals: Sequence[float], since: float) -> float | None:
    """The first at or after an instant; None: there is none."""
    place = bisect_left(arrivals, since)
    return arrivals[place] if place < len(arrivals) else None
