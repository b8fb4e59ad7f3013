"""Which tunnel the traffic takes, and when it is held: losing the path, and the way back.

The numbers of the rules are those of `core.mobility`.

The order of the acts matters. When the path is lost nothing but the journal comes before the
kernel, so that nothing is sent into the void. When another tunnel takes the traffic the kernel
is told before the probe is sent, which has to go that way, and what was held follows behind it.
"""

from collections.abc import Iterable

from orchestrator.core.knowledge import Knowledge
from orchestrator.core.mobility_events import (
    AnyReason,
    Apply,
    Effect,
    MoveTunnel,
    Reason,
    Release,
    State,
)
from orchestrator.core.places import place_of
from orchestrator.core.quantities import Instant, Seconds
from orchestrator.core.tunnels import Held


class Steering:
    """Of one endpoint's traffic. `effects` is where the acts are added, in their order."""

    def __init__(self, known: Knowledge, effects: list[Effect]) -> None:
        self._known = known
        self._effects = effects
        self._ordered = known.kernel()
        """What the latest Apply ordered."""

    def lose(self, reasons: frozenset[AnyReason], now: Instant) -> None:
        """Rule 1. The tunnel stays with us: it may be moved, or its place may return."""
        known, record = self._known, self._known.record
        known.active = None
        known.trust.deaf_until = None
        known.vigil.end()
        known.echoes.lost(now)
        record.loses(now)
        if record.charon is None:
            reasons |= {Reason.CHARON_ABSENT}
        self.become(State.DETACHED, reasons, now)
        self.apply()

    def recover(self, reasons: frozenset[AnyReason], now: Instant) -> None:
        """Rules 2 and 11."""
        known = self._known
        for held in known.warmth.proven(now):
            self.activate(held, {*reasons, Reason.WARM}, now)
            return
        for held in known.tunnels.latest():
            path = known.places.at(held.path)
            if path is not None and not known.attempts.silent(path):
                held.path = path
                self.activate(held, {*reasons, Reason.PATH_RETURNED}, now)
                return
        for path in known.places.paths:
            movable = known.tunnels.movable(path, now)
            if movable is not None:
                self._effects.append(MoveTunnel(movable.tunnel, path))
                known.race.rest(now)
                return

    def activate(
        self,
        held: Held,
        reasons: Iterable[AnyReason],
        now: Instant,
        deaf: Seconds | None = None,
    ) -> None:
        """Sends the traffic into this tunnel; at once, unless the server is deaf to it."""
        known = self._known
        figures = known.choice.goes(known.active, held, reasons, now)
        known.active = held
        known.trust.begin(deaf, now)
        held.retire_at = None
        self.retire(now, proven=False)
        known.record.flips()
        known.record.goes(place_of(held.path))
        known.vigil.begin(held, now)
        known.mtus.begin(held, now)
        self.become(State.MOVING, reasons, now, **figures)
        self.apply()
        self.probe(now)
        if not known.trust.waits:
            self._effects.append(Release())

    def retire(self, now: Instant, *, proven: bool) -> None:
        """Rule 4: what lost the traffic has a while left, unless we may want to go back."""
        known = self._known
        for held in known.tunnels.latest():
            if held is known.active or (known.wishes.works(held) and not proven):
                continue
            if not known.warmth.keeps(held, known.active):
                held.retire_at = Instant(now + known.policy.drain)

    # Not yet

    def doubt(self, reason: Reason, now: Instant) -> None:
        """Rule 9: the next answer, or its absence, decides; until then only probes are sent."""
        known = self._known
        known.trust.doubted = True
        self._effects += known.attempts.withdraw(lambda _: True)
        if known.active is not None:
            known.active.liveness = known.unproven(now)
            self.become(State.MOVING, {reason}, now)
            self.apply()
            self.probe(now)

    def send_what_waited(self) -> None:
        """There is no reason to wait any more."""
        self.apply()
        self._effects.append(Release())

    # What each of them needs

    def probe(self, now: Instant) -> None:
        """Asks the tunnel in use, if there is one."""
        known = self._known
        if known.active is not None:
            flip, asleep = known.record.flip, known.trust.falls_asleep
            probe = known.vigil.ask(known.active, flip, now, active=True, asleep=asleep)
            self._effects.append(known.mtus.told(probe, known.active))

    def become(
        self, state: State, reasons: Iterable[AnyReason], now: Instant, **fields: str | float
    ) -> None:
        path = self._known.active_path
        self._effects.append(self._known.record.becomes(state, reasons, path, now, **fields))

    def apply(self) -> None:
        self._ordered = self._known.kernel()
        self._effects.append(Apply(self._ordered))

    def apply_what_changed(self) -> None:
        """A table, or where the active tunnel leads."""
        if self._known.kernel() != self._ordered:
            self.apply()
