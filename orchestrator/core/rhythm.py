"""How rarely the active path is asked.

1. At the operator's usual interval after whatever happened to it, and while there is traffic
   or doubt (`hurry`). Each answer in between doubles the interval, up to the longest one that
   the operator allows (`answered`).
2. A probe announces how soon the next one comes at the latest, provided that it is answered:
   until then our silence tells the server nothing (`announce`). Its answer says how long the
   server agrees to wait; no more than that is taken, and from a server that does not say, no
   more than the usual interval (`answered`).
3. Of several probes that were sent for one answer the shortest announcement counts: nobody
   knows which of them the server has heard last.
"""

from typing import Final

from orchestrator.core.quantities import Seconds

GROWTH: Final = 2
"""2, 4, 8, 12.5 s by default: whoever begins to type again after a moment finds it quick."""


class Rhythm:
    """Of the active path of one endpoint."""

    def __init__(self, usual: Seconds, longest: Seconds) -> None:
        """A `longest` below `usual` is none."""
        self.usual: Final = usual
        self._longest = Seconds(max(usual, longest))
        self.interval = usual
        """Between the latest answer and the next probe."""
        self._next = usual
        self._announced = self._longest
        """Rule 3."""

    def hurry(self) -> None:
        """Rule 1: so soon comes the next probe, and the one after it."""
        self.interval = self._next = self._announced = self.usual

    def announce(self) -> Seconds:
        """What a probe says that is sent now."""
        self._announced = min(self._announced, self._next)
        return self._next

    def answered(self, agreed: Seconds | None) -> Seconds:
        """How long after an answer, which says `agreed`, the next probe is sent."""
        announced, self._announced = self._announced, self._longest
        longest = self.usual if agreed is None else min(announced, agreed)
        self.interval = Seconds(max(self.usual, longest))
        self._next = Seconds(min(GROWTH * self.interval, self._longest))
        return self.interval
