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
