"""A session is attached to a tunnel, away, asleep or over: what that means for its packets.

The numbers of the rules are those of `core.sessions`.

The order of the acts matters: what is held is released when the policy leads somewhere, and
the firewall is told of a slot when the policy of that slot is there.
"""

from collections.abc import Mapping

from orchestrator.core.absence import FORGOTTEN, SessionState
from orchestrator.core.ike import Tunnel
from orchestrator.core.quantities import Instant, Spi
from orchestrator.core.register import Register
from orchestrator.core.session import Session
from orchestrator.core.session_events import (
    AnswerProbe,
    ApplySession,
    Carry,
    Effect,
    EndFlows,
    Heard,
    Release,
    SessionReason,
    Shed,
    Tell,
    Terminate,
)


class Attachment:
    """Of one server's sessions. `effects` is where the acts are added, in their order."""

    def __init__(self, register: Register, effects: list[Effect]) -> None:
        self._register = register
        self._effects = effects
        self._carrying: dict[str, Mapping[Spi, int]] = {}
        """What the latest Carry of each identity said; none: nothing."""

    def attach(
        self, session: Session, tunnel: Tunnel, reason: SessionReason, now: Instant
    ) -> None:
        """Its packets go into this tunnel."""
        place = tunnel.local, tunnel.remote
        session.roams += session.place not in (None, place)
        session.place = place
        session.active = tunnel
        session.moved = reason is SessionReason.FOLLOWED
        session.following = session.unfollowed = session.awaited = None
        session.heard = now
        session.known[tunnel.child].carries = None
        if session.state is not SessionState.ATTACHED:
            session.since = now
        session.state = SessionState.ATTACHED
        if reason is SessionReason.ADOPTED:
            session.within = FORGOTTEN
        session.reason = reason
        self._register.returns(session)
        self.apply(session)
        self._effects.append(Release(session.vips))
        fields: dict[str, str | float] = {"pop": str(tunnel.remote)}
        if session.departed is not None:
            fields["elapsed_ms"] = round((now - session.departed) * 1000, 1)
            session.departed = None
        self.tell("attached", session, reason, **fields)

    def leave(
        self, session: Session, state: SessionState, reason: SessionReason, now: Instant
    ) -> None:
        """It is away or asleep from now on."""
        was_attached = session.state is SessionState.ATTACHED
        session.state = state
        if was_attached:
            session.departed = now
            self._register.leaves(session, now)
        session.active = session.following = session.awaited = None
        session.carry_no_more()
        session.reason = reason
        session.since = now
        self.apply(session)
        if state is SessionState.ASLEEP:
            self._effects.append(Shed(session.vips))
        self.tell(state, session, reason)

    def end(self, session: Session, what: str, reason: SessionReason) -> None:
        """It is no more. Its lease stays."""
        self._effects += [Terminate(tunnel, reason) for tunnel in session.tunnels]
        self._register.close(session)
        self._effects.append(ApplySession(session.identity, ()))
        self._carry(session.identity, {})
        self._effects.append(EndFlows(session.vips))
        self.tell(what, session, reason)

    def apply(self, session: Session) -> None:
        """Has the kernel look as the session is now."""
        self._effects.append(ApplySession(session.identity, session.objects()))
        self._carry(session.identity, session.carrying)

    def answer(self, session: Session, event: Heard) -> None:
        """Not over another way than it came: to the endpoint an answer is proof."""
        if session.active is not None and session.active.spi_out == event.spi:
            self._effects.append(AnswerProbe(event, agreed=session.within))

    def tell(
        self, what: str, session: Session, *reasons: SessionReason, **fields: str | float
    ) -> None:
        self._effects.append(Tell(what, frozenset(reasons), session.identity, fields))

    def _carry(self, identity: str, slots: Mapping[Spi, int]) -> None:
        """Rule 13, for the firewall."""
        if self._carrying.get(identity, {}) == slots:
            return
        self._carrying.pop(identity, None)
        if slots:
            self._carrying[identity] = slots
        self._effects.append(Carry(identity, slots))
