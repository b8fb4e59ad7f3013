"""Tunnels come and go: negotiations begin and end, and charon tells what becomes of theirs.

The numbers of the rules are those of `core.mobility`.
"""

from collections.abc import Sequence
from typing import Final

from orchestrator.core.attempts import CONNECTION_PREFIX
from orchestrator.core.ike import IkeFailure, Tunnel
from orchestrator.core.knowledge import Knowledge
from orchestrator.core.mobility_events import (
    AttemptFailed,
    Effect,
    MoveEnded,
    Reason,
    RememberVips,
    Tell,
    Terminate,
)
from orchestrator.core.paths import Path
from orchestrator.core.places import place_of
from orchestrator.core.quantities import Instant, IPAddress, Seconds, UniqueId
from orchestrator.core.steering import Steering
from orchestrator.core.trust import deafness
from orchestrator.core.tunnels import Held

REFUSAL_WINDOW: Final = Seconds(5.0)
"""An IKE_SA that the server deletes this soon, unproven, was refused after authentication."""


class Negotiation:
    """Of one endpoint's tunnels. `effects` is where the acts are added, in their order."""

    def __init__(self, known: Knowledge, steering: Steering, effects: list[Effect]) -> None:
        self._known = known
        self._steering = steering
        self._effects = effects

    # Negotiations

    def begin_if_needed(self, now: Instant) -> None:
        """Rule 8."""
        known = self._known
        if known.can_negotiate:
            because, attached = known.record.reasons, known.record.attached
            self._effects += known.race.next(known.active, because, now, attached=attached)

    def attempt_failed(self, event: AttemptFailed, now: Instant) -> None:
        attempt = self._known.race.lost(event.connection, event.why, now)
        if attempt is not None and self._known.attempts.requesting:
            self._effects += self._known.race.again(attempt, now)
        elif attempt is not None:
            self.fail(attempt.path, event.why, event.detail, now)

    def give_up_the_overdue(self, now: Instant) -> None:
        """Of which nothing at all was heard."""
        for attempt in self._known.attempts.under_way:
            if now >= attempt.overdue:
                self._effects.append(self._known.attempts.give_up(attempt))
                self.fail(attempt.path, IkeFailure.SILENT, "no outcome", now)

    def give_up_the_pathless(self) -> None:
        """Whose place is gone."""
        for attempt in self._known.attempts.under_way:
            if self._known.places.at(attempt.path) is None:
                self._effects.append(self._known.attempts.give_up(attempt))

    def fail(self, path: Path, why: IkeFailure, detail: str, now: Instant) -> None:
        """Rule 8: a pause on this path."""
        pause = self._known.attempts.failed(path, why, detail, now)
        fields: dict[str, str | float] = {"detail": detail, "retry_s": round(pause, 1)}
        self._effects.append(Tell("failed", frozenset({why}), path, fields))
        if self._known.active is None:
            self._known.record.reasons = frozenset({why})

    # Tunnels

    def tunnel_up(self, tunnel: Tunnel, now: Instant) -> None:
        """Rules 3 and 16."""
        known = self._known
        if not tunnel.connection.startswith(CONNECTION_PREFIX):
            return
        attempt = known.race.won(tunnel.connection, now)
        if attempt is None:
            if not known.tunnels.of(tunnel.ike, None):
                self._effects.append(Terminate(tunnel))  # an answer that came too late
            return
        path = known.places.at(attempt.path)
        if path is None:
            self._effects.append(Terminate(tunnel))
            return
        outer = {path.pop for path in known.places.paths} & set(tunnel.given)
        if outer:
            self._effects.append(Terminate(tunnel))
            detail = f"the server gave us {min(map(str, outer))}, an address we have outside"
            self.fail(path, IkeFailure.OTHER, detail, now)
            return
        self._take_vips(tunnel.given)
        racing = known.wishes.races(known.active) and known.tunnel_of(path) is None
        held = known.tunnels.take(tunnel, path, now, known.unproven(now))
        if known.active is None or (
            not racing
            and known.wishes.why_flip(path, known.active)
            and self._may_return(path, now)
        ):
            self._steering.activate(held, {*attempt.reasons, Reason.NEGOTIATED}, now)

    def _may_return(self, path: Path, now: Instant) -> bool:
        """Whether a tunnel here need not wait, warm, for its place's penalty to be over."""
        place = place_of(path)
        known = self._known
        return place not in known.warmth.places or known.choice.penalties.over(place, now)

    def _take_vips(self, given: tuple[IPAddress, ...]) -> None:
        record = self._known.record
        if not given or set(given) == set(record.vips):
            return
        if record.vips:
            before = {"before": str(record.vips[0])}
            why = frozenset({Reason.VIP_CHANGED})
            self._effects.append(Tell("vip-changed", why, None, before))
        record.vips = given
        self._effects.append(RememberVips(given))

    def move_ended(self, event: MoveEnded, now: Instant) -> None:
        """Rule 2: what was moved takes the traffic, though the server may be deaf to it."""
        held_ones = self._known.tunnels.held
        held = next((held for held in held_ones if held.tunnel == event.tunnel), None)
        if held is None:
            return
        if not event.moved:
            # Half of its SAs may be gone: it is of no use to anybody.
            self.discard(held)
            self._known.race.goes_on()
            why = frozenset({Reason.MOVE_REFUSED})
            self._effects.append(Tell("failed", why, event.path, {"detail": event.detail}))
            return
        held.move(event.path)
        deaf = deafness(self._known.record.lost_at, now)
        self._steering.activate(held, {Reason.TUNNEL_MOVED}, now, deaf)

    def tunnel_down(self, ike: UniqueId, child: UniqueId | None, now: Instant) -> None:
        """charon has ended it, or all of this IKE_SA."""
        for held in self._known.tunnels.of(ike, child):
            was_active = held is self._known.active
            buried = self._known.tunnels.ended(held)
            if was_active:
                self._steering.lose(frozenset({Reason.TUNNEL_DELETED}), now)
            self._effects += buried
            refused = held.unproven and now - held.since < REFUSAL_WINDOW
            if refused and held.retire_at is None:
                self.fail(held.path, IkeFailure.REFUSED, "the server ended the IKE_SA", now)
            if was_active:
                self._steering.recover(frozenset({Reason.TUNNEL_DELETED}), now)

    def discard(self, held: Held) -> None:
        """It is of no use any more."""
        self._known.tunnels.held.remove(held)
        self._effects.append(Terminate(held.tunnel))

    # charon

    def charon_up(self, version: str, tunnels: Sequence[Tunnel], now: Instant) -> None:
        """Rule 7: what charon knows is matched by SPI; what it does not know is renewed."""
        known, record = self._known, self._known.record
        record.charon = version
        known.attempts.drop()
        known.attempts.end_pauses(now)
        for stranger in known.tunnels.compare(tunnels):
            if stranger.connection.startswith(CONNECTION_PREFIX):
                self._effects.append(Terminate(stranger))
        why = frozenset({Reason.STARTED})
        self._effects.append(Tell("charon", why, None, {"version": version}))
        if known.active is None:
            if Reason.CHARON_ABSENT in record.reasons:
                record.reasons = frozenset({Reason.CHARON_RESTARTED, *known.places.why_none()})
            self._steering.recover(frozenset({Reason.STARTED}), now)

    def charon_gone(self) -> None:
        """Rule 7: that alone is no reason to leave a path."""
        known, record = self._known, self._known.record
        if record.charon is not None:
            why = frozenset({Reason.CHARON_ABSENT})
            self._effects.append(Tell("charon", why, None, {}))
        record.charon = None
        known.attempts.drop()
        if known.active is None:
            record.reasons = frozenset({Reason.CHARON_ABSENT, *known.places.why_none()})
