"""Which places are not gone back to for a while.

A place that was given up, or left for its quality, is not gone back to for `PENALTY`, and for
twice as long each time that it happens again: a link at the edge of its coverage shall not
bounce. Nor is one that comes and goes, before it is steady (`core.flaps`). A place that behaved
for `FORGIVEN`, is none any more, or is wanted by the operator, has a clean record.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from orchestrator.core.flaps import Flaps
from orchestrator.core.places import Place
from orchestrator.core.quantities import Instant, Seconds

PENALTY: Final = Seconds(5.0)
"""After a place was given up for the first time."""
MOST_DOUBLINGS: Final = 4
FORGIVEN: Final = Seconds(600.0)
"""A place that was not given up for so long has a clean record."""


@dataclass(slots=True)
class _Record:
    times: int
    last: Instant


class Penalties:
    """Of one endpoint."""

    def __init__(self, flaps: Flaps) -> None:
        self._flaps = flaps
        self._records: dict[Place, _Record] = {}

    def forgive(self, place: Place) -> None:
        """It has a clean record: the operator wants it."""
        self._records.pop(place, None)
        self._flaps.forgive(place)

    def forgive_all(self) -> None:
        self._records.clear()
        self._flaps.forgive_all()

    def given_up(self, place: Place, now: Instant) -> None:
        before = self._records.get(place)
        fresh = before is None or now - before.last > FORGIVEN
        times = 1 if before is None or fresh else before.times + 1
        self._records[place] = _Record(times, now)

    def over(self, place: Place, now: Instant) -> bool:
        """Whether one may go back there."""
        if now < self._flaps.steady_at(place):
            return False
        record = self._records.get(place)
        if record is None:
            return True
        doublings = min(record.times - 1, MOST_DOUBLINGS)
        return bool(now - record.last >= PENALTY * 2**doublings)

    def keep(self, places: Iterable[Place]) -> None:
        """Forgets every place but these."""
        live = frozenset(places)
        self._records = {p: r for p, r in self._records.items() if p in live}
