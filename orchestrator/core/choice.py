"""Which of the usable paths shall carry the traffic, by what was measured of them, and why.

1. The operator's classes come first: quality chooses among links that are equal to the operator
   (`look`). The one exception is a path that loses so much that nothing works there: it comes
   after all others, until it is well again (`_judge`).
2. Better is what has `MARGIN` times less burden (`core.quality`), for `DWELL`, a clock that
   begins anew with every change of path. It is asked often in that time, so that nobody goes to
   a path that only looked well; it has to answer all along (`contends`, `look`).
3. What was left for its quality is not gone back to for a while, and for twice as long each
   time (`goes`; `core.penalties`).
4. Where traffic has to go anyway, quality, then rate, puts links that are equal to the operator
   in their order (`order`). A higher rate alone is no reason to go.
5. What is no path any more, and what was given up, has no past (`keep`, `given_up`).
6. Of every path it is known why the traffic is not there (`why_not`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf, log
from typing import Final

from orchestrator.core.flaps import Flaps
from orchestrator.core.mobility_events import AnyReason, Reason
from orchestrator.core.paths import Path
from orchestrator.core.penalties import Penalties
from orchestrator.core.places import Place, Places, place_of
from orchestrator.core.quality import MOST_PROBES, Comparison, Meters, Quality, compare
from orchestrator.core.quantities import Instant, Seconds
from orchestrator.core.tunnels import Held

MARGIN: Final = 2.0
"""Times less burden: half the round trip, or a third of the loss (3 % or 1 %)."""
STILL: Final = 1.5
"""So much less it must stay meanwhile: measurements vary."""
DWELL: Final = Seconds(5.0)
"""A door that closes, a train between two masts: such things are over by then."""
CONFIRMED: Final = 5
"""Probes that must have been answered there meanwhile. With 15 % loss both ways, one in five
such paths would pass."""
WELL_AGAIN: Final = 0.5
"""Of the loss at which a path is useless."""
QUALITY: Final = frozenset(
    {Reason.LESS_LOSS, Reason.SHORTER_RTT, Reason.STRONGER_SIGNAL, Reason.LOSSY}
)
"""Reasons to leave a path that are its own fault."""


class Standing(StrEnum):
    """Why a path does not carry the traffic."""

    OTHER_ASKED_FOR = "other-link-asked-for"
    METERED = "metered"
    LESS_PREFERRED = "less-preferred"
    LOSSY = "lossy"
    NO_TUNNEL = "no-tunnel"
    WAS_LEFT = "was-left"
    NOT_MEASURED = "not-measured"
    MORE_LOSS = "more-loss"
    LONGER_RTT = "longer-round-trip"
    WEAKER_SIGNAL = "weaker-signal"
    NOT_BETTER = "not-better"
    NOT_FOR_LONG = "better-not-for-long"


@dataclass(frozen=True, slots=True)
class Better:
    """A tunnel that shall have the traffic."""

    held: Held
    reasons: frozenset[AnyReason]


class Choice:
    """Of one endpoint. `look` is asked whenever a probe was answered."""

    def __init__(self, places: Places, flaps: Flaps, lossy: float | None) -> None:
        """`lossy`: the loss, 0 to 1, at which a path is useless; None: quality is no reason."""
        self.penalties = Penalties(flaps)
        self.meters = Meters()
        self._places = places
        self._lossy = lossy
        self._at: Place | None = None
        self._since: dict[Place, Instant] = {}
        """Since when what contends is better."""
        self._losing: dict[Place, Instant] = {}
        """Since when a path loses too much."""
        self._useless: dict[Place, Instant] = {}
        """Since when it is taken for useless."""

    def look(self, active: Held | None, proven: Sequence[Held], now: Instant) -> Better | None:
        """Where to go, of the tunnels that answer; `active` is None while nobody may choose."""
        if self._lossy is None:
            return None
        self.meters.settle(now)
        at = None if active is None else place_of(active.path)
        if at != self._at:
            self._at, self._since = at, {}
        for path in self._places.paths:
            self._judge(place_of(path), self._lossy, now)
        self._places.useless = frozenset(self._useless)
        if active is None:
            return None
        answering = {place_of(held.path) for held in proven}
        self._since = {p: since for p, since in self._since.items() if p in answering}
        found = [each for held in proven for each in self._contend(held, active, now)]
        _, best = max(found, key=lambda each: each[0], default=(None, None))
        return best

    def contends(self, path: Path) -> bool:
        """Whether this one seems better: now it is asked often."""
        return place_of(path) in self._since

    def order(self, path: Path, now: Instant) -> tuple[float, ...]:
        """Smaller is better."""
        rank = float(self._places.rank(path))
        quality = self.meters.of(place_of(path), now)
        if self._lossy is None:
            return (rank,)
        level = inf if quality.burden is None else round(log(quality.burden, MARGIN))
        return (rank, level, -_rate(quality))

    def goes(
        self, active: Held | None, held: Held, reasons: Iterable[AnyReason], now: Instant
    ) -> Mapping[str, float]:
        """The traffic goes from one tunnel to the other; what is known of both, for people."""
        if active is not None and QUALITY.intersection(reasons):
            self.penalties.given_up(place_of(active.path), now)
        known = _figures(self.meters.of(place_of(held.path), now), "")
        if active is not None:
            known |= _figures(self.meters.of(place_of(active.path), now), "left_")
        return known

    def given_up(self, place: Place, now: Instant) -> None:
        """Nothing answers there any more."""
        self.penalties.given_up(place, now)
        self.meters.forget(place)

    def doubt(self) -> None:
        """The device slept: what was not answered is nobody's fault."""
        self.meters.drop_open()

    def keep(self, places: Iterable[Place]) -> None:
        """Forgets every place but these."""
        live = frozenset(places)
        self.penalties.keep(live)
        self.meters.keep(live)
        for known in (self._since, self._losing, self._useless):
            for place in known.keys() - live:
                del known[place]
        self._places.useless = frozenset(self._useless)

    # For status

    def quality(self, path: Path, now: Instant) -> Quality:
        return self._of(place_of(path), now)

    def why_not(self, path: Path, active: Held | None, now: Instant) -> frozenset[Standing]:
        """Empty of the path in use, and while there is none."""
        place = place_of(path)
        if active is None or place == place_of(active.path):
            return frozenset()
        if self._places.rank(path) > self._places.rank(active.path):
            return self._why_worse(path, active)
        why = {Standing.WAS_LEFT} if not self.penalties.over(place, now) else set()
        if self._places.rank(path) < self._places.rank(active.path):
            return frozenset(why or {Standing.NO_TUNNEL})
        if self._lossy is None:
            return frozenset({Standing.NOT_BETTER})
        return frozenset(why | self._why_no_better(place, active, now))

    def _why_worse(self, path: Path, active: Held) -> frozenset[Standing]:
        places = self._places
        if active.path.link_name == places.pinned:
            return frozenset({Standing.OTHER_ASKED_FOR})
        if place_of(path) in places.useless and place_of(active.path) not in places.useless:
            return frozenset({Standing.LOSSY})
        if places.is_metered(path) and not places.is_metered(active.path):
            return frozenset({Standing.METERED})
        return frozenset({Standing.LESS_PREFERRED})

    def _why_no_better(self, place: Place, active: Held, now: Instant) -> set[Standing]:
        here = self._of(place_of(active.path), now)
        there = self._of(place, now)
        found = compare(here, there)
        if found is None:
            return {Standing.NOT_MEASURED}
        if place in self._since:
            return {Standing.NOT_FOR_LONG}
        if found.ratio < MARGIN:
            return {Standing.NOT_BETTER}
        words = {
            Reason.LESS_LOSS: Standing.MORE_LOSS,
            Reason.SHORTER_RTT: Standing.LONGER_RTT,
            Reason.STRONGER_SIGNAL: Standing.WEAKER_SIGNAL,
        }
        return {words[reason] for reason in found.reasons}

    # Judging

    def _judge(self, place: Place, limit: float, now: Instant) -> None:
        """Rule 1, the exception."""
        quality = self._of(place, now)
        since, loss = self._useless.get(place), quality.felt_loss
        if since is not None:
            well = quality.sure_loss <= limit * WELL_AGAIN
            asked = self.meters.settled_since(place, since)
            if quality.loss is None or (asked >= MOST_PROBES and well):
                del self._useless[place]
                self.meters.forget(place)
            return
        if loss < limit * WELL_AGAIN:
            self._losing.pop(place, None)
        elif loss >= limit:
            self._losing.setdefault(place, now)
        begun = self._losing.get(place)
        if begun is not None and now - begun >= DWELL:
            del self._losing[place]
            self._useless[place] = now

    def _contend(
        self, held: Held, active: Held, now: Instant
    ) -> Iterable[tuple[tuple[float, float], Better]]:
        """Rule 2. Yields how much better it is, then its rate, once it may have the traffic."""
        place = place_of(held.path)
        found = self._compare(held, active, now)
        needed = STILL if place in self._since else MARGIN
        if found is None or found.ratio < needed or not found.reasons:
            self._since.pop(place, None)
            return
        since = self._since.setdefault(place, now)
        confirmed = self.meters.answered_since(place, since) >= CONFIRMED
        if now - since >= DWELL and confirmed:
            rate = _rate(self.meters.of(place, now))
            yield (found.ratio, rate), Better(held, found.reasons)

    def _compare(self, held: Held, active: Held, now: Instant) -> Comparison | None:
        place = place_of(held.path)
        equal = self._places.rank(held.path) == self._places.rank(active.path)
        if not equal or not self.penalties.over(place, now):
            return None
        return compare(self._of(place, now), self._of(place_of(active.path), now))

    def _of(self, place: Place, now: Instant) -> Quality:
        return self.meters.of(place, now, used=place == self._at)


def _rate(quality: Quality) -> float:
    return quality.rate_in + quality.rate_out


def _figures(quality: Quality, prefix: str) -> dict[str, float]:
    figures: dict[str, float] = {}
    if quality.rtt is not None:
        figures[f"{prefix}rtt_ms"] = round(quality.rtt * 1000, 1)
    if quality.signal is not None:
        figures[f"{prefix}signal_dbm"] = quality.signal
    if quality.loss is not None:
        figures[f"{prefix}loss_percent"] = round(quality.loss * 100, 1)
    return figures
