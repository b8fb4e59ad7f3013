"""Finds who has most, among many who gain and lose, at a logarithm's cost for each change."""

import heapq
from itertools import count
from typing import Final, Generic, Protocol, TypeVar

_SLACK: Final = 256
"""Needless entries in a heap before they are cleared away."""


class Weighed(Protocol):
    @property
    def weight(self) -> int: ...


T = TypeVar("T", bound=Weighed)


class Largest(Generic[T]):
    """Those who have something. Tell it of every gain; a loss is seen when it matters."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, T]] = []
        """Weights are negated. Each of `_listed` is in it with the weight that is listed; what
        is there with another one is needless."""
        self._listed: dict[T, int] = {}
        """At least as much as each weighs."""
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._listed)

    def grown(self, one: T) -> None:
        """It has more than before, or something for the first time."""
        if one.weight <= self._listed.get(one, -1):
            return
        self._list(one)
        if len(self._heap) > 2 * len(self._listed) + _SLACK:
            self._heap = [(-w, next(self._numbers), each) for each, w in self._listed.items()]
            heapq.heapify(self._heap)

    def gone(self, one: T) -> None:
        """It has nothing any more."""
        self._listed.pop(one, None)

    def first(self) -> T:
        """Who has most. Raises IndexError when nobody has anything."""
        while True:
            negated, _, one = self._heap[0]
            if self._listed.get(one) != -negated:
                heapq.heappop(self._heap)
            elif one.weight != -negated:
                heapq.heappop(self._heap)
                self._list(one)
            else:
                return one

    def _list(self, one: T) -> None:
        self._listed[one] = one.weight
        heapq.heappush(self._heap, (-one.weight, next(self._numbers), one))
