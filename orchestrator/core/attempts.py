"""Negotiations: the one under way, and how each place treated those before it.

The rules, each with the method that keeps it:

1. One negotiation at a time, under a connection name that no other ever had: a name is how it
   is abandoned, so that it must never mean an older tunnel as well (`begin`).
2. A place where one failed has to wait before the next, twice as long after each failure, up to
   a bound. Other places need not wait for it (`failed`, `retry_at`).
3. That a virtual address must be requested is an answer, not a failure: the next negotiation
   requests one, at once. Whatever comes of that, the one after it does not (`lost`, `won`).
4. A place is silent when a negotiation there, or the probes through its tunnel, stayed
   unanswered (`failed`, `fell_silent`).
5. All of that is forgotten of a place that was left, or that has proved to work (`keep`,
   `forgive`).
6. A negotiation of which nothing at all is heard is overdue some time after its limit, and
   taken for failed then (`Attempt.overdue`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from orchestrator.core.ike import IkeFailure
from orchestrator.core.mobility_events import Abandon, AnyReason, Ask, Negotiate
from orchestrator.core.paths import Path
from orchestrator.core.places import Place, place_of
from orchestrator.core.quantities import Instant, IPAddress, Seconds

OVERTIME: Final = Seconds(5.0)
"""charon says how a negotiation ended within moments of its limit, unless it hangs."""
DOUBLINGS: Final = 16
"""Of the pause between two negotiations; by then it is as long as anybody configures."""
CONNECTION_PREFIX: Final = "orchestrator-"
"""Of the connections we negotiate. The first flip follows, which no two runs of the daemon have
in common, and a number."""


@dataclass(frozen=True, slots=True)
class Patience:
    """What the operator configured, as far as negotiations are concerned."""

    limit: Seconds
    """For one negotiation."""
    backoff_min: Seconds
    """The pause after the first failure."""
    backoff_max: Seconds
    """The longest pause."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A negotiation under way."""

    connection: str
    path: Path
    reasons: frozenset[AnyReason]
    overdue: Instant


@dataclass(frozen=True, slots=True)
class _Failures:
    """How a place treated our negotiations."""

    count: int = 0
    retry_at: Instant = Instant(0.0)
    last: IkeFailure | None = None
    detail: str = ""


_NONE: Final = _Failures()


class Attempts:
    """Those of one run of the daemon, which `first_flip` tells from every other."""

    def __init__(
        self, patience: Patience, fixed_vips: tuple[IPAddress, ...], first_flip: int
    ) -> None:
        self.current: Attempt | None = None
        self._patience = patience
        self._fixed_vips = fixed_vips
        self._names = f"{CONNECTION_PREFIX}{first_flip}-"
        self._begun = 0
        self._ask = Ask.LEASED
        self._failures: dict[Place, _Failures] = {}

    # The one under way

    def begin(self, path: Path, reasons: frozenset[AnyReason], now: Instant) -> Negotiate:
        """Begins on this path; only while none is under way."""
        self._begun += 1
        name, limit = f"{self._names}{self._begun}", self._patience.limit
        self.current = Attempt(name, path, reasons, Instant(now + limit + OVERTIME))
        ask = Ask.FIXED if self._fixed_vips else self._ask
        return Negotiate(name, path, ask, self._fixed_vips, limit)

    def won(self, connection: str) -> Attempt | None:
        """It ended in a tunnel. None: it is not the one under way, or not any more."""
        attempt = self._end(connection)
        if attempt is not None:
            self._ask = Ask.LEASED
        return attempt

    def lost(self, connection: str, why: IkeFailure) -> Attempt | None:
        """It ended without. None: nothing failed, for one of two reasons: it is not the one
        under way, or it had an answer (rule 3)."""
        attempt = self._end(connection)
        if attempt is None:
            return None
        if why is IkeFailure.MUST_ASK and self._ask is Ask.LEASED:
            self._ask = Ask.ASSIGN
            return None
        self._ask = Ask.LEASED
        return attempt

    def abandon(self) -> tuple[Abandon, ...]:
        """Gives up what is under way, if anything is."""
        attempt, self.current = self.current, None
        return () if attempt is None else (Abandon(attempt.connection),)

    def drop(self) -> None:
        """charon is gone, or new: it would not know what to abandon."""
        self.current = None

    def _end(self, connection: str) -> Attempt | None:
        attempt = self.current
        if attempt is None or attempt.connection != connection:
            return None
        self.current = None
        return attempt

    # The places

    def failed(self, path: Path, why: IkeFailure, detail: str, now: Instant) -> Seconds:
        """Here, and for this reason; returns the pause until the next attempt here."""
        before = self._of(path)
        doubled = self._patience.backoff_min * 2 ** min(before.count, DOUBLINGS)
        pause = Seconds(min(doubled, self._patience.backoff_max))
        self._failures[place_of(path)] = _Failures(
            before.count + 1, Instant(now + pause), why, detail
        )
        return pause

    def fell_silent(self, path: Path, detail: str) -> None:
        """What worked here does not any more; that alone is no reason to wait."""
        self._failures[place_of(path)] = replace(
            self._of(path), last=IkeFailure.SILENT, detail=detail
        )

    def silent(self, path: Path) -> bool:
        return self._of(path).last is IkeFailure.SILENT

    def retry_at(self, path: Path) -> Instant:
        """From when on a negotiation may begin here."""
        return self._of(path).retry_at

    def failure_of(self, path: Path) -> tuple[IkeFailure, str] | None:
        """The latest here, with its detail."""
        failures = self._of(path)
        return None if failures.last is None else (failures.last, failures.detail)

    def end_pauses(self, now: Instant) -> None:
        """Every place may be tried at once, and pauses begin short again."""
        self._failures = {
            place: replace(failures, count=0, retry_at=now)
            for place, failures in self._failures.items()
        }

    def forgive(self, path: Path) -> None:
        """Nothing is known against this place any more."""
        self._failures.pop(place_of(path), None)

    def forgive_all(self) -> None:
        self._failures.clear()

    def keep(self, paths: Iterable[Path]) -> None:
        """Forgets every place but those of these paths."""
        live = {place_of(path) for path in paths}
        self._failures = {p: f for p, f in self._failures.items() if p in live}

    def _of(self, path: Path) -> _Failures:
        return self._failures.get(place_of(path), _NONE)
