"""Which places come and go, and from when on they are steady.

A link at the edge of its coverage, a cable with a loose contact: it is there for a moment, long
enough to begin with, too short to be of use. The rules:

1. A place flaps that has vanished twice within a while (`look`).
2. It is steady again when it has been there for some time without a break. Before that nothing
   is begun there, and nobody goes there, as long as something else works (`steady_at`).
"""

from collections.abc import Iterable
from typing import Final

from orchestrator.core.places import Place
from orchestrator.core.quantities import Instant, Seconds

WHILE: Final = Seconds(10.0)
"""Once in that time is anybody's cable; a cell that is left is not entered again so soon."""
STEADY: Final = Seconds(5.0)
"""As long as a place that was given up waits for the first time (`core.penalties`)."""
MOST: Final = 64
"""Places that are remembered; the one that vanished first is forgotten."""


class Flaps:
    """Of one endpoint."""

    def __init__(self) -> None:
        self._here: frozenset[Place] = frozenset()
        self._vanished: dict[Place, tuple[Instant | None, Instant]] = {}
        """When, the last time but one and the last time; in the order of the latter."""

    def look(self, places: Iterable[Place], now: Instant) -> None:
        """These are there now."""
        before, self._here = self._here, frozenset(places)
        for place in before - self._here:
            _, last = self._vanished.pop(place, (None, None))
            self._vanished[place] = last, now
        while len(self._vanished) > MOST:
            del self._vanished[next(iter(self._vanished))]

    def forgive(self, place: Place) -> None:
        """The operator wants it."""
        self._vanished.pop(place, None)

    def forgive_all(self) -> None:
        self._vanished.clear()

    def steady_at(self, place: Place) -> Instant:
        """If it does not vanish again."""
        before, last = self._vanished.get(place, (None, Instant(0.0)))
        flaps = before is not None and last - before < WHILE
        return Instant(last + STEADY) if flaps else Instant(0.0)
