"""When to look at whom next: one time for each name, the earliest that was asked for.

A time that is replaced stays in the heap until it comes, or until such leftovers are more than
what counts: so the agenda is bounded by the number of names, and each operation takes the
logarithm of it.
"""

import heapq
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from orchestrator.core.quantities import Instant, UniqueId

SLACK: Final = 64
"""Leftovers below which tidying up is not worth it."""


Name = TypeVar("Name", str, tuple[str, UniqueId])
"""Somebody, or one CHILD_SA of theirs."""


class Agenda(Generic[Name]):
    def __init__(self) -> None:
        self._at: dict[Name, Instant] = {}
        self._heap: list[tuple[Instant, Name]] = []

    def __len__(self) -> int:
        """Entries kept, leftovers included."""
        return len(self._heap)

    def add(self, name: Name, at: Instant) -> None:
        """Looks at it then at the latest."""
        known = self._at.get(name)
        if known is not None and known <= at:
            return
        self._at[name] = at
        heapq.heappush(self._heap, (at, name))
        if len(self._heap) > 2 * len(self._at) + SLACK:
            self._heap = [(when, who) for who, when in self._at.items()]
            heapq.heapify(self._heap)

    def drop(self, name: Name) -> None:
        self._at.pop(name, None)

    def clear(self) -> None:
        self._at.clear()
        self._heap.clear()

    def next(self) -> Instant | None:
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: Instant) -> Iterator[Name]:
        """Whom to look at now; each is off the agenda when it is named."""
        while (at := self.next()) is not None and at <= now:
            name = heapq.heappop(self._heap)[1]
            del self._at[name]
            yield name
