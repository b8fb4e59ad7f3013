"""An endpoint moved its SAs: holds its packets until charon has rewritten ours.

It is rule 4 of `core.sessions`, in three steps:

1. The kernel says that an authenticated packet came from elsewhere. The session's packets are
   held; of an idle tunnel it is not known where it leads (`mapping`).
2. The kernel says that the outbound SA leads elsewhere. The session is attached there; one that
   waited for that, because a probe had activated an idle tunnel, is answered (`state_moved`).
3. If that does not come, charon is not going to: what is held goes where it went before, and
   the next packets from there hold nothing (`give_up`).
"""

from dataclasses import replace
from typing import Final

from orchestrator.core.attachment import Attachment
from orchestrator.core.ike import IkeMoved, Tunnel
from orchestrator.core.quantities import Instant, Seconds, Spi
from orchestrator.core.register import Register
from orchestrator.core.session import Session
from orchestrator.core.session_events import Effect, Release, SessionReason, StateMoved

FOLLOW_LIMIT: Final = Seconds(0.25)
"""charon rewrites an SA some 5 ms after MAPPING; later than this it is not going to."""


class Following:
    """By one server. `effects` is where the acts are added, in their order."""

    def __init__(
        self, register: Register, attachment: Attachment, effects: list[Effect]
    ) -> None:
        self._register = register
        self._attachment = attachment
        self._effects = effects

    def mapping(self, spi: Spi, now: Instant) -> None:
        """Step 1. The kernel says so for each packet until the SA is rewritten."""
        session = self._register.index.inbound.get(spi)
        if session is None:
            return
        if session.active is None or session.active.spi_in != spi:
            session.unsettle(spi, Instant(now + FOLLOW_LIMIT))
            if spi in session.carrying:
                session.carry_no_more()
                self._attachment.apply(session)
            return
        if session.following is not None or session.unfollowed == spi:
            return
        session.following = Instant(now + FOLLOW_LIMIT)
        self._register.agenda.add(session.identity, session.following)
        self._attachment.apply(session)

    def ike_moved(self, event: IkeMoved) -> None:
        """The port only: the address changes when the SA does (`state_moved`)."""
        session = self._register.index.by_ike.get(event.ike)
        if session is None:
            return
        for tunnel in tuple(session.tunnels):
            if tunnel.ike == event.ike:
                moved = replace(tunnel, remote_port=event.remote_port)
                self._register.replace(session, tunnel, moved)

    def state_moved(self, event: StateMoved, now: Instant) -> None:
        """Step 2."""
        session = self._register.index.outbound.get((event.reqid, event.spi))
        if session is None:
            return
        for tunnel in tuple(session.tunnels):
            if (tunnel.reqid, tunnel.spi_out) == (event.reqid, event.spi):
                self._moved(session, tunnel, event, now)

    def _moved(self, session: Session, tunnel: Tunnel, event: StateMoved, now: Instant) -> None:
        """To the same address again: another port of its NAT."""
        moved = replace(tunnel, local=event.source, remote=event.destination)
        asked = session.awaited
        if asked is not None and asked.spi != event.spi:
            asked = None
        turns = moved != tunnel or session.following is not None
        follows = asked is not None or (session.active == tunnel and turns)
        session.unsettled.pop(event.spi, None)
        joined = session.may_be_joined
        named = session.unsent.pop(tunnel.child, None) is not None and joined
        self._register.replace(session, tunnel, moved)
        if follows:
            self._attachment.attach(session, moved, SessionReason.FOLLOWED, now)
            if asked is not None:
                self._attachment.answer(session, asked)
        elif named or session.may_be_joined is not joined or session.slot_of(moved) is not None:
            self._attachment.apply(session)

    def give_up(self, session: Session) -> None:
        """Step 3."""
        session.following = None
        session.unfollowed = session.active.spi_in if session.active is not None else None
        self._attachment.apply(session)
        self._effects.append(Release(session.vips))
        self._attachment.tell("unmoved", session, SessionReason.NEVER_MOVED)
