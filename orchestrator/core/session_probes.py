"""What a probe from an endpoint changes: which tunnel carries the traffic, what is known of the
path, and which tunnels are of no use any more.

The numbers of the rules are those of `core.sessions`.
"""

from typing import Final

from orchestrator.core.absence import LONGEST_SILENCE, SessionState
from orchestrator.core.agenda import Agenda
from orchestrator.core.attachment import Attachment
from orchestrator.core.ike import Tunnel
from orchestrator.core.kernel import MARK_SIZED
from orchestrator.core.mtu import FLOOR
from orchestrator.core.quantities import Instant, Seconds, UniqueId, follows
from orchestrator.core.register import Register
from orchestrator.core.server_state import probe_mark
from orchestrator.core.session import Session
from orchestrator.core.session_events import (
    AnswerProbe,
    Effect,
    Heard,
    HeardWarm,
    Release,
    SessionReason,
    Terminate,
)

DRAIN: Final = Seconds(1.0)
"""A superseded tunnel still receives this long."""


class SessionProbes:
    """Of one server's endpoints. `effects` is where the acts are added, in their order."""

    def __init__(
        self, register: Register, attachment: Attachment, effects: list[Effect]
    ) -> None:
        self._register = register
        self._attachment = attachment
        self._effects = effects
        self.doomed: Agenda[tuple[str, UniqueId]] = Agenda()
        """When to delete which CHILD_SA of which identity."""

    def heard(self, event: Heard | HeardWarm, now: Instant) -> None:
        """One came."""
        session = self._register.of_vip(event.vip)
        if session is None:
            return
        tunnel = session.named(event.spi, now, event.within)
        match event:
            case HeardWarm():
                self._heard_warm(session, tunnel, event, now)
            case Heard(asleep=True):
                self._falls_asleep(session, event, now)
            case Heard():
                self._activate(session, tunnel, event, now)
                self._attachment.answer(session, event)

    def _activate(
        self, session: Session, tunnel: Tunnel | None, event: Heard, now: Instant
    ) -> None:
        """Rules 3 and 5."""
        session.heard = now
        newer = session.flip is None or follows(event.flip, session.flip)
        newer |= tunnel is not None and session.is_fresh(tunnel)
        if newer or follows(event.sequence, session.sequence):
            session.sequence = event.sequence
            self._is_to_be_heard(session, event.within)
            self._heed_limit(session, event.limit, again=not newer)
        if tunnel is None or not (newer or session.state is not SessionState.ATTACHED):
            return
        if tunnel != session.active and not session.is_settled(tunnel, now):
            # Where it leads is not known yet: what is released now would be lost.
            session.awaited = event
            return
        # Of a session without a path any flip is the latest: the endpoint may have lost count.
        session.flip, session.flipped = event.flip, now
        session.awaited = None
        revoked = session.carry_no_more(event.flip)
        if tunnel != session.active:
            self._attachment.attach(session, tunnel, SessionReason.ACTIVATED, now)
        else:
            if revoked:
                self._attachment.apply(session)
            if newer and session.following is None:
                # It was away for less time than we would have noticed.
                self._effects.append(Release(session.vips))
        self._supersede(session, tunnel, now)

    def _is_to_be_heard(self, session: Session, within: Seconds | None) -> None:
        """Rule 12."""
        before = session.within
        session.within = None if within is None else min(within, LONGEST_SILENCE)
        if session.within != before:
            self._register.look_later(session)

    def _heed_limit(self, session: Session, told: int, *, again: bool) -> None:
        """Rule 10. `again`: of the path that is in use already."""
        limit = max(told, FLOOR) if told else None
        if limit == session.limit:
            return
        session.limit = limit
        self._attachment.apply(session)
        if again and session.active is not None and session.following is None:
            # Senders that wait for what was too large begin anew.
            self._effects.append(Release(session.vips))

    def _falls_asleep(self, session: Session, event: Heard, now: Instant) -> None:
        """Rule 7. One that was overtaken by a later probe says what is true no longer."""
        if not session.is_latest(event.flip, event.sequence):
            return
        session.flip, session.flipped = event.flip, now
        session.sequence, session.heard = event.sequence, now
        session.awaited = None
        self._attachment.answer(session, event)
        if session.state is not SessionState.ASLEEP:
            asleep, why = SessionState.ASLEEP, SessionReason.SAID_ASLEEP
            self._attachment.leave(session, asleep, why, now)

    def _heard_warm(
        self, session: Session, tunnel: Tunnel | None, event: HeardWarm, now: Instant
    ) -> None:
        """Rule 8. While charon rewrites its SAs an answer would prove the way of before."""
        session.heard = now
        if event.padding and tunnel is not None and tunnel == session.active:
            # It goes where the answer to a request does, if need be into the hold and out.
            self._effects.append(AnswerProbe(event, MARK_SIZED))
            return
        if tunnel is None or not session.is_settled(tunnel, now):
            return
        slot = session.slot_of(tunnel)
        if slot is None:
            slot = session.give_slot(tunnel)
            if slot is None:
                return
            self._attachment.apply(session)
            self._supersede(session, tunnel, now)
        attached = session.state is SessionState.ATTACHED and tunnel != session.active
        says = event.carries and attached
        if not event.padding and session.carries(tunnel, event.flip, carries=says):
            self._attachment.apply(session)
        self._effects.append(AnswerProbe(event, probe_mark(slot)))

    # Rule 5

    def _supersede(self, session: Session, tunnel: Tunnel, now: Instant) -> None:
        for other in session.superseded_by(tunnel):
            self.doomed.add((session.identity, other.child), Instant(now + DRAIN))

    def end_the_superseded(self, now: Instant) -> None:
        """Those whose time is over, unless they are in use again."""
        for identity, child in self.doomed.due(now):
            session = self._register.by_identity.get(identity)
            if session is None:
                continue
            for tunnel in session.tunnels:
                if session.is_or_was(tunnel, child) and tunnel != session.active:
                    self._effects.append(Terminate(tunnel, SessionReason.SUPERSEDED))
