"""What an answer to a probe decides, and what its absence does.

The numbers of the rules are those of `core.mobility`.
"""

from typing import Final

from orchestrator.core.ike import IkeFailure
from orchestrator.core.knowledge import Knowledge
from orchestrator.core.liveness import PathHealth
from orchestrator.core.mobility_events import (
    Effect,
    MaySleep,
    ProbeAnswered,
    Reason,
    RestartSenders,
    State,
)
from orchestrator.core.negotiation import Negotiation
from orchestrator.core.places import place_of
from orchestrator.core.quantities import Instant, Seconds
from orchestrator.core.steering import Steering
from orchestrator.core.tunnels import Held

SILENCE: Final = Seconds(0.5)
"""Unanswered probes for so long are more than one that was lost."""


class Answers:
    """To one endpoint. `effects` is where the acts are added, in their order."""

    def __init__(
        self,
        known: Knowledge,
        steering: Steering,
        negotiation: Negotiation,
        effects: list[Effect],
    ) -> None:
        self._known = known
        self._steering = steering
        self._negotiation = negotiation
        self._effects = effects

    def heard(self, event: ProbeAnswered, now: Instant) -> None:
        """One came: whose it is decides what it means."""
        known, active = self._known, self._known.active
        if known.mtus.answered(event.sequence, now):
            return
        known.choice.meters.answered(event.sequence, now)
        asked = active.liveness.waiting_since if active else None
        returns = known.record.state is State.MOVING
        rtt = known.vigil.answered(active, event, now) if active else None
        if active is None or rtt is None:
            self._of_a_warm_one(event.sequence, now)
        else:
            self._of_the_active_one(active, rtt, now)
            silent = asked is not None and now - asked >= SILENCE
            if known.record.attached and (returns or silent):
                # The path had gone before we knew: what was sent meanwhile was lost.
                self._effects.append(RestartSenders())

    def _of_the_active_one(self, active: Held, rtt: Seconds, now: Instant) -> None:
        """Rules 5, 9 and 12."""
        known, trust = self._known, self._known.trust
        active.heard = now
        active.answered = True
        known.mtus.heard(active, rtt, now)
        if trust.asleep_until is not None:
            active.liveness.due = trust.asleep_until  # all is said
            self._effects.append(MaySleep())
            return
        if trust.waits:
            trust.answered()
            self._steering.send_what_waited()
        if not known.wishes.why_flip(active.path, active):
            known.attempts.forgive(active.path)
        if known.record.state is State.MOVING:
            self._steering.retire(now, proven=True)
            known.echoes.answered(now)
            elapsed = known.record.returns(now)
            times = {"elapsed_ms": round(elapsed * 1000, 1), "rtt_ms": round(rtt * 1000, 1)}
            reasons = {*known.record.reasons, Reason.ANSWERED}
            self._steering.become(State.ATTACHED, reasons, now, **times)
            self._effects += known.race.settle(active)

    def _of_a_warm_one(self, sequence: int, now: Instant) -> None:
        """Rules 11 and 12: where we would rather be it takes the traffic."""
        known = self._known
        for held in known.warmth.warm:
            rtt = held.liveness.answered(sequence, now)
            if rtt is None:
                continue
            racing = known.wishes.races(known.active)
            known.mtus.heard(held, rtt, now)
            known.carried.answered(held)
            known.warmth.heard(held, known.active, now)
            known.attempts.forgive(held.path)
            if racing:
                self._steering.activate(held, {Reason.NEGOTIATED}, now)
                return
            if known.active is None:
                self._steering.recover(frozenset({Reason.ANSWERED}), now)
                return
            why = known.wishes.why_flip(held.path, known.active)
            may_return = known.choice.penalties.over(place_of(held.path), now)
            if why and known.trust.watches and may_return:
                self._steering.activate(held, {*why, Reason.WARM}, now)
            return

    def choose(self, now: Instant) -> None:
        """Rule 14. While it is not settled where the traffic is, nothing is chosen."""
        known = self._known
        settled = known.record.attached and known.trust.watches
        active = known.active if settled else None
        better = known.choice.look(active, known.warmth.proven(now), now)
        if better is not None:
            self._steering.activate(better.held, {*better.reasons, Reason.WARM}, now)

    # Their absence

    def give_up_the_silent(self, now: Instant) -> None:
        """Rule 10, of the warm ones."""
        for held in self._known.warmth.warm:
            if held.liveness.health(now) is PathHealth.DEAD:
                self._negotiation.discard(held)
                self._negotiation.fail(held.path, IkeFailure.SILENT, "probes unanswered", now)

    def give_up_the_active(self, active: Held, now: Instant) -> bool:
        """Rule 6. Returns whether it is dead."""
        known = self._known
        if known.vigil.verdict(active, active, now).health is not PathHealth.DEAD:
            return False
        why = frozenset({Reason.PATH_DEAD})
        self._steering.lose(why, now)
        known.choice.given_up(place_of(active.path), now)
        known.echoes.long_lost(now)
        known.attempts.fell_silent(active.path, "probes unanswered")
        if active.unproven:
            # Negotiated, and never a sign of data: the same again would end the same.
            self._negotiation.fail(active.path, IkeFailure.SILENT, "probes unanswered", now)
        if not all(map(known.attempts.silent, known.places.paths)):
            self._effects += known.attempts.withdraw(known.attempts.silent)
        self._steering.recover(why, now)
        return True
