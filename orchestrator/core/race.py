"""How many negotiations run at the same time, and which begins next: happy eyeballs for IKE.

In the spirit of RFC 8305, over links and addresses of the server. The rules, each with the
method that keeps it:

1. While a tunnel works, one negotiation at a time. While none does, as many as the operator
   allows: a place that is dead without a sign costs a moment then, not its limit
   (`_may_begin`).
2. A virtual address is requested by one negotiation at a time: two would be given two
   (`_may_begin`, `again`).
3. The next one begins a while after the latest, and at once when one fails. Where one was
   answered the while is longer, counted from the answer: that one will soon be through
   (`_earliest`).
4. On the link that has the fewest under way, then in the family that has, comes the next.
   Otherwise the order is that of the wishes (`next`).
5. The first tunnel that is answered wins (`core.mobility`, rule 12). Of the others those go on
   that are wanted all the same (`settle`).
6. While a tunnel works nothing is begun at a place that comes and goes (`_ready_at`).
7. A tunnel that was moved has the processors to itself until it is answered, or should have
   been (`rest`): a key exchange costs each end more of them than the move does.
"""

from collections.abc import Sequence
from typing import Final

from orchestrator.core.attempts import Attempt, Attempts
from orchestrator.core.flaps import Flaps
from orchestrator.core.ike import IkeFailure
from orchestrator.core.mobility_events import Abandon, AnyReason, Effect, Tell
from orchestrator.core.paths import Path
from orchestrator.core.places import place_of
from orchestrator.core.quantities import Instant, Seconds
from orchestrator.core.tunnels import Held
from orchestrator.core.wishes import Wishes

WIDTH: Final = 4
"""Negotiations at the same time, unless the operator says otherwise: on two links, in both
families. Each keeps one of charon's 16 threads waiting."""
STAGGER: Final = Seconds(0.25)
"""From one beginning to the next (RFC 8305, 5: "Connection Attempt Delay"). The first answer
comes within a round trip: on most networks nothing needless is begun."""
ANSWERED_STAGGER: Final = Seconds(0.5)
"""From an answer to the next beginning: a round trip for IKE_AUTH and one for the probe, on a
slow network."""
REST: Final = Seconds(0.1)
"""Behind a move. Most round trips are shorter; and if the server does not follow, so much is
lost."""

Target = tuple[Path, frozenset[AnyReason]]


class Race:
    """Of one endpoint. `active` is the tunnel in use; `attached`: it has proved itself."""

    def __init__(self, attempts: Attempts, wishes: Wishes, flaps: Flaps, most: int) -> None:
        """`most` negotiations at the same time; 1: one after the other."""
        self._attempts = attempts
        self._wishes = wishes
        self._flaps = flaps
        self._most = most
        self._due = Instant(0.0)
        """When the next may begin, while others run."""
        self._rests_until = Instant(0.0)

    def next(
        self,
        active: Held | None,
        because: frozenset[AnyReason],
        now: Instant,
        *,
        attached: bool,
    ) -> tuple[Effect, ...]:
        """Rule 4: begins the one whose turn it is; `because` while nothing works."""
        under_way = [attempt.path for attempt in self._attempts.under_way]
        if not self._may_begin(active) or now < self._earliest(active):
            return ()

        def same(target: Target) -> tuple[int, int]:
            path, _ = target
            links = sum(other.link == path.link for other in under_way)
            families = sum(other.pop.version == path.pop.version for other in under_way)
            return links, families

        waiting = self._waiting(active, attached=attached)
        ready = (each for each in waiting if self._ready_at(each[0], active) <= now)
        chosen = min(ready, key=same, default=None)
        return () if chosen is None else self._begin(chosen[0], chosen[1] or because, now)

    def again(self, attempt: Attempt, now: Instant) -> tuple[Effect, ...]:
        """Rule 2: at the same place, which answers, and nowhere else."""
        others = self._attempts.withdraw(lambda _: True)
        return *others, *self._begin(attempt.path, attempt.reasons, now)

    def _begin(
        self, path: Path, reasons: frozenset[AnyReason], now: Instant
    ) -> tuple[Effect, ...]:
        self._due = Instant(now + STAGGER)
        told = Tell("negotiating", reasons, path, {})
        return self._attempts.begin(path, reasons, now), told

    def deadlines(self, active: Held | None, *, attached: bool) -> list[Instant]:
        """When `next` may have one that it does not have now."""
        if not self._may_begin(active):
            return []
        due = self._earliest(active)
        waiting = self._waiting(active, attached=attached)
        return [max(due, self._ready_at(path, active)) for path, _ in waiting]

    def answered(self, connection: str, now: Instant) -> None:
        if self._attempts.answered(connection):
            self._due = Instant(now + ANSWERED_STAGGER)

    def won(self, connection: str, now: Instant) -> Attempt | None:
        """As `Attempts.won`: now its tunnel has to prove itself."""
        attempt = self._attempts.won(connection)
        if attempt is not None:
            self._due = Instant(now + ANSWERED_STAGGER)
        return attempt

    def lost(self, connection: str, why: IkeFailure, now: Instant) -> Attempt | None:
        """As `Attempts.lost`."""
        attempt = self._attempts.lost(connection, why)
        if attempt is not None:
            self._due = now
        return attempt

    def rest(self, now: Instant) -> None:
        """Rule 7: a tunnel is moved. What ran before that is no matter any more."""
        self._rests_until, self._due = Instant(now + REST), now

    def goes_on(self) -> None:
        """Rule 7: that is over."""
        self._rests_until = Instant(0.0)

    def settle(self, active: Held) -> tuple[Abandon, ...]:
        """Rules 5 and 7: this one works."""
        self.goes_on()
        wanted = {place_of(path) for path, _ in self._wishes.targets(active, attached=True)}
        return self._attempts.withdraw(lambda path: place_of(path) not in wanted)

    def _earliest(self, active: Held | None) -> Instant:
        """Rules 3 and 7. A fresh tunnel that was not answered yet runs, too."""
        runs = self._attempts.under_way or self._wishes.races(active)
        return max(self._rests_until, self._due if runs else Instant(0.0))

    def _ready_at(self, path: Path, active: Held | None) -> Instant:
        retry_at = self._attempts.retry_at(path)
        if self._wishes.nothing_works(active):
            return retry_at
        return max(retry_at, self._flaps.steady_at(place_of(path)))

    def _may_begin(self, active: Held | None) -> bool:
        """Rules 1 and 2: whether there may be one more."""
        several = self._wishes.nothing_works(active) and not self._attempts.requesting
        width = self._most if several else 1
        return len(self._attempts.under_way) < width

    def _waiting(self, active: Held | None, *, attached: bool) -> Sequence[Target]:
        """Where a negotiation would help and none is under way."""
        targets = self._wishes.targets(active, attached=attached)
        return [each for each in targets if self._attempts.at(each[0]) is None]
