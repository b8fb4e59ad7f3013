"""Negotiations: those under way, and how each place treated those before them.

The rules, each with the method that keeps it:

1. At a place there is one negotiation at a time, under a connection name that no other ever
   had: a name is how it is abandoned, so that it must never mean an older tunnel as well
   (`begin`). How many there are in all is for `core.race` to say.
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
7. One that nobody wants any more is abandoned if the server never answered it. If it did, the
   server may have its tunnel already, and charon would forget it without a word there: it is
   let end, and its tunnel is ended as one that comes too late is (`withdraw`).
"""

from collections.abc import Callable, Iterable
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
    answered: bool = False
    """The server has said something."""


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
        self._under_way: dict[str, Attempt] = {}
        """By connection, in the order of their beginning."""
        self._patience = patience
        self._fixed_vips = fixed_vips
        self._names = f"{CONNECTION_PREFIX}{first_flip}-"
        self._begun = 0
        self._ask = Ask.LEASED
        self._failures: dict[Place, _Failures] = {}

    # Those under way

    @property
    def under_way(self) -> tuple[Attempt, ...]:
        """The oldest first."""
        return tuple(self._under_way.values())

    @property
    def requesting(self) -> bool:
        """Whether the next one requests a virtual address (rule 3)."""
        return self._ask is Ask.ASSIGN

    def at(self, path: Path) -> Attempt | None:
        """The one at the place of this path."""
        place = place_of(path)
        return next((a for a in self.under_way if place_of(a.path) == place), None)

    def begin(self, path: Path, reasons: frozenset[AnyReason], now: Instant) -> Negotiate:
        """Begins on this path; only while none is under way at its place."""
        self._begun += 1
        name, limit = f"{self._names}{self._begun}", self._patience.limit
        overdue = Instant(now + limit + OVERTIME)
        self._under_way[name] = Attempt(name, path, reasons, overdue)
        ask = Ask.FIXED if self._fixed_vips else self._ask
        return Negotiate(name, path, ask, self._fixed_vips, limit)

    def answered(self, connection: str) -> bool:
        """The server has said something. False: it is not under way, or not any more."""
        attempt = self._under_way.get(connection)
        if attempt is not None:
            self._under_way[connection] = replace(attempt, answered=True)
        return attempt is not None

    def won(self, connection: str) -> Attempt | None:
        """It ended in a tunnel. None: it is not under way, or not any more."""
        attempt = self._under_way.pop(connection, None)
        if attempt is not None:
            self._ask = Ask.LEASED
        return attempt

    def lost(self, connection: str, why: IkeFailure) -> Attempt | None:
        """It ended without: it has failed, unless the next one is `requesting` now (rule 3).
        None: it is not under way, or not any more."""
        attempt = self._under_way.pop(connection, None)
        if attempt is not None:
            again = why is IkeFailure.MUST_ASK and not self.requesting
            self._ask = Ask.ASSIGN if again else Ask.LEASED
        return attempt

    def withdraw(self, unwanted: Callable[[Path], bool]) -> tuple[Abandon, ...]:
        """Rule 7, for those on paths that are not wanted."""
        gone = [attempt for attempt in self.under_way if unwanted(attempt.path)]
        for attempt in gone:
            del self._under_way[attempt.connection]
        return tuple(Abandon(attempt.connection) for attempt in gone if not attempt.answered)

    def give_up(self, attempt: Attempt) -> Abandon:
        """Whatever the server may have: nothing was heard of it for too long, or there is no
        way to hear from it."""
        del self._under_way[attempt.connection]
        return Abandon(attempt.connection)

    def drop(self) -> None:
        """charon is gone, or new: it would not know what to abandon."""
        self._under_way.clear()

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
