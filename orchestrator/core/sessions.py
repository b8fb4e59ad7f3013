"""The mobility server's deciding machine: one session for each endpoint that was admitted.

The rules, each with the method that keeps it:

1. A session belongs to an identity and its VIPs, and outlives every tunnel (`_admitted`).
2. A tunnel waits until the endpoint activates it: we hear of it before the endpoint has its
   SAs, and what is sent or released too early is lost. Only one from before this daemon
   carries a detached session's traffic at once (`_admitted`).
3. The endpoint activates by a probe inside the tunnel: the newest flip wins, and names the
   tunnel by its SPI (`_activate`).
4. An endpoint that moved its SAs is followed when the kernel says so: hold from the MAPPING
   message, which only an authenticated packet causes, until charon has rewritten the SA
   (`_mapping`, `_state_moved`); otherwise packets would meet a policy without an SA. Where
   charon does not follow, the next packets from there hold nothing (`_look`).
5. Two tunnels to the same address and port: the older one was superseded by a move, or its
   endpoint lost it in a crash, and is deleted when the younger is activated, or asked about
   (`_supersede`), unless it is the active one. Until then the policy names the SA of the active
   one (`Session.may_be_joined`).
6. An endpoint unheard for `detach_after`, or whose active tunnel ended, is away: its packets
   are held until it activates another, its flows stay (`_look`, `_tunnel_down`,
   `_charon_gone`).
7. One that says that it goes to sleep is asleep at once; one that stays away gets there in
   time, and its session may end (`core.absence`; `_falls_asleep`, `_look`, `_end`).
8. Whether an idle tunnel works is answered through that very tunnel; the question is a sign of
   life, and changes nothing else but rules 5 and 12 (`_heard_warm`).
9. Of an endpoint that is here, idle tunnels that it does not ask for any more are deleted:
   where a link is lost nobody says good-bye (`_look`).
10. No packet is sent to an endpoint that is larger than it says its path carries
   (`_heed_limit`). Whether more is carried is answered past that (`_heard_warm`).
11. There are no more sessions than may be: a further endpoint is refused, or takes the place
   of the one that has been away longest, never of an attached one (`_makes_room`).
12. An endpoint says how soon it will be heard again, up to `LONGEST_SILENCE`; `detach_after` is
   meant for one that asks every `USUAL` seconds, and who asks more rarely is given the
   difference (`_is_to_be_heard`, `core.absence`).
12. Where the endpoint says so, flows that come out of an idle tunnel go back into it
   (`_heard_warm`), until a higher flip without that being said again (`_activate`), the tunnel
   is the active one or may lead elsewhere (`_attach`, `_mapping`), or the endpoint is away.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final, assert_never

from orchestrator.core.absence import (
    FORGOTTEN,
    LONGEST_SILENCE,
    Absent,
    SessionPolicy,
    SessionState,
)
from orchestrator.core.agenda import Agenda
from orchestrator.core.ike import (
    CharonGone,
    CharonUp,
    IkeDown,
    IkeMoved,
    IkeRekeyed,
    Tunnel,
    TunnelDown,
    TunnelRekeyed,
    TunnelUp,
)
from orchestrator.core.kernel import MARK_SIZED
from orchestrator.core.mtu import FLOOR
from orchestrator.core.quantities import (
    Instant,
    IPAddress,
    Seconds,
    Spi,
    UniqueId,
    follows,
)
from orchestrator.core.server_state import probe_mark
from orchestrator.core.session import MAX_TUNNELS, Session
from orchestrator.core.session_events import (
    Admitted,
    AnswerProbe,
    ApplySession,
    Carry,
    Effect,
    EndFlows,
    Event,
    Heard,
    HeardWarm,
    MappingChanged,
    PolicyChanged,
    Release,
    Remembered,
    SessionReason,
    Shed,
    StateMoved,
    Tell,
    Terminate,
    Tick,
)
from orchestrator.core.tunnel_index import TunnelIndex

FOLLOW_LIMIT: Final = Seconds(0.25)
"""charon rewrites an SA some 5 ms after MAPPING; later than this it is not going to."""
DRAIN: Final = Seconds(1.0)
"""A superseded tunnel still receives this long."""


class Sessions:
    """All sessions of one server: `handle` and `deadline` act, the rest is for reading."""

    def __init__(self, policy: SessionPolicy) -> None:
        self._policy = policy
        self.by_identity: dict[str, Session] = {}
        self._by_vip: dict[IPAddress, Session] = {}
        self._index = TunnelIndex()
        self._absent = Absent()
        self._agenda: Agenda[str] = Agenda()
        self._doomed: Agenda[tuple[str, UniqueId]] = Agenda()
        """When to delete which CHILD_SA of which identity."""
        self._carrying: dict[str, Mapping[Spi, int]] = {}
        """What the latest Carry of each identity said; none: nothing."""
        self._effects: list[Effect] = []

    def handle(  # noqa: C901 - one row per event: the table is the point
        self, event: Event, now: Instant
    ) -> tuple[Effect, ...]:
        """Takes one piece of news; returns what to do, in order."""
        self._effects = []
        match event:
            case Admitted():
                self._admitted(event, now)
            case Remembered(identity, vips):
                self._apply(self._session(identity, vips, now))
            case Heard() | HeardWarm():
                self._probed(event, now)
            case MappingChanged(spi):
                self._mapping(spi, now)
            case StateMoved():
                self._state_moved(event, now)
            case TunnelRekeyed():
                self._tunnel_rekeyed(event)
            case TunnelDown(ike, child):
                self._tunnel_down(ike, child, now)
            case IkeDown(ike):
                self._tunnel_down(ike, None, now)
            case IkeRekeyed(old_ike, new_ike):
                self._ike_rekeyed(old_ike, new_ike)
            case CharonGone():
                self._charon_gone(now)
            case PolicyChanged(policy):
                self._policy_changed(policy)
            case Tick():
                self._tick(now)
            case IkeMoved():
                self._ike_moved(event)
            case TunnelUp() | CharonUp():
                pass  # they come as Admitted, once the lease has been looked up
            case _:
                assert_never(event)
        return tuple(self._effects)

    def deadline(self) -> Instant | None:
        times = self._agenda.next(), self._doomed.next()
        return min((at for at in times if at is not None), default=None)

    def session_of_vip(self, vip: IPAddress) -> Session | None:
        return self._by_vip.get(vip)

    def vips(self) -> Collection[IPAddress]:
        """Every virtual address that a session has."""
        return self._by_vip.keys()

    def has_room(self, identity: str) -> bool:
        """Whether this identity has a session, or would be given one."""
        return not self._is_one_too_many(identity) or self._evictable() is not None

    # Tunnels

    def _session(self, identity: str, vips: tuple[IPAddress, ...], now: Instant) -> Session:
        session = self.by_identity.get(identity)
        if session is None:
            session = Session(identity, (), now, now)
            self.by_identity[identity] = session
            self._is_absent(session, now)
        for vip in session.vips:
            self._by_vip.pop(vip, None)
        session.vips = vips
        for vip in vips:
            former = self._by_vip.get(vip)
            self._by_vip[vip] = session
            if former is not None:
                former.vips = tuple(other for other in former.vips if other != vip)
                self._apply(former)
        return session

    def _admitted(self, event: Admitted, now: Instant) -> None:
        """Rules 1 and 2."""
        tunnel = event.tunnel
        if not self._makes_room(event.identity):
            self._effects.append(Terminate(tunnel, SessionReason.TOO_MANY_SESSIONS))
            return
        session = self._session(event.identity, event.vips, now)
        if session.state is not SessionState.ATTACHED:
            self._is_absent(session, now)  # as good as back
        known = next((t for t in session.tunnels if t.child == tunnel.child), None)
        if known is None:
            session.add(tunnel, now)
            self._index.add(session, tunnel)
        else:
            self._replace(session, known, tunnel)
        if len(session.tunnels) > MAX_TUNNELS:
            oldest = next(t for t in session.tunnels if t != session.active)
            self._effects.append(Terminate(oldest, SessionReason.TOO_MANY))
        if event.adopted and session.state is not SessionState.ATTACHED:
            self._attach(session, tunnel, SessionReason.ADOPTED, now)
        else:
            self._apply(session)

    def _probed(self, event: Heard | HeardWarm, now: Instant) -> None:
        session = self._by_vip.get(event.vip)
        if session is None:
            return
        tunnel = session.named(event.spi, now)
        match event:
            case HeardWarm():
                self._heard_warm(session, tunnel, event, now)
            case Heard(asleep=True):
                self._falls_asleep(session, event, now)
            case Heard():
                self._activate(session, tunnel, event, now)
                self._answer(session, event)

    def _answer(self, session: Session, event: Heard) -> None:
        """Not over another way than it came: to the endpoint an answer is proof."""
        if session.active is not None and session.active.spi_out == event.spi:
            self._effects.append(AnswerProbe(event, agreed=session.within))

    def _activate(
        self, session: Session, tunnel: Tunnel | None, event: Heard, now: Instant
    ) -> None:
        """Rules 3 and 5."""
        session.heard = now
        newer = session.flip is None or follows(event.flip, session.flip)
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
        session.flip = event.flip
        session.awaited = None
        revoked = session.carry_no_more(event.flip)
        if tunnel != session.active:
            self._attach(session, tunnel, SessionReason.ACTIVATED, now)
        else:
            if revoked:
                self._apply(session)
            if newer and session.following is None:
                # It was away for less time than we would have noticed.
                self._effects.append(Release(session.vips))
        self._supersede(session, tunnel, now)

    def _is_to_be_heard(self, session: Session, within: Seconds | None) -> None:
        """Rule 12."""
        before = session.within
        session.within = None if within is None else min(within, LONGEST_SILENCE)
        if session.within != before:
            self._look_later(session)

    def _heed_limit(self, session: Session, told: int, *, again: bool) -> None:
        """Rule 10. `again`: of the path that is in use already."""
        limit = max(told, FLOOR) if told else None
        if limit == session.limit:
            return
        session.limit = limit
        self._apply(session)
        if again and session.active is not None and session.following is None:
            # Senders that wait for what was too large begin anew.
            self._effects.append(Release(session.vips))

    def _supersede(self, session: Session, tunnel: Tunnel, now: Instant) -> None:
        """Rule 5."""
        for other in session.superseded_by(tunnel):
            self._doomed.add((session.identity, other.child), Instant(now + DRAIN))

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
            self._apply(session)
            self._supersede(session, tunnel, now)
        attached = session.state is SessionState.ATTACHED and tunnel != session.active
        says = event.carries and attached
        if not event.padding and session.carries(tunnel, event.flip, carries=says):
            self._apply(session)
        self._effects.append(AnswerProbe(event, probe_mark(slot)))

    def _attach(
        self, session: Session, tunnel: Tunnel, reason: SessionReason, now: Instant
    ) -> None:
        session.roams += session.active != tunnel
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
        self._absent.returned(session.identity)
        self._look_later(session)
        self._apply(session)
        self._effects.append(Release(session.vips))
        fields: dict[str, str | float] = {"pop": str(tunnel.remote)}
        if session.departed is not None:
            fields["elapsed_ms"] = round((now - session.departed) * 1000, 1)
            session.departed = None
        self._tell("attached", session, reason, **fields)

    def _leave(
        self, session: Session, state: SessionState, reason: SessionReason, now: Instant
    ) -> None:
        """It is away or asleep from now on."""
        was_attached = session.state is SessionState.ATTACHED
        session.state = state
        if was_attached:
            session.departed = now
            self._is_absent(session, now)
        session.active = session.following = None
        session.carry_no_more()
        session.reason = reason
        session.since = now
        self._apply(session)
        if state is SessionState.ASLEEP:
            self._effects.append(Shed(session.vips))
        self._tell(state, session, reason)

    def _tunnel_rekeyed(self, event: TunnelRekeyed) -> None:
        """Where both sides rekey at once charon may name two successors; the last counts."""
        old, tunnel = event.old, event.tunnel
        session = self._index.by_ike.get(tunnel.ike)
        if session is None:
            return
        for known in tuple(session.tunnels):
            if known.ike == tunnel.ike and session.is_or_was(known, old):
                session.rekeyed(known, tunnel, old=old, unsent=event.unsent)
                self._index.remove(session, known)
                session.moved &= session.active != tunnel
                if session.active == tunnel or session.slot_of(tunnel) is not None:
                    self._apply(session)

    def _tunnel_down(self, ike: UniqueId, child: UniqueId | None, now: Instant) -> None:
        """Rule 6."""
        session = self._index.by_ike.get(ike)
        if session is None:
            return
        gone = [t for t in session.tunnels if t.ike == ike and child in (None, t.child)]
        for tunnel in gone:
            session.forget(tunnel)
            self._index.remove(session, tunnel)
        if not session.tunnels:
            session.flip = None  # no probe of before can come: it may count anew
        if session.active in gone:
            left = SessionReason.TUNNEL_ENDED if session.tunnels else SessionReason.NO_TUNNEL
            self._leave(session, SessionState.AWAY, left, now)
        elif gone:
            self._apply(session)

    def _charon_gone(self, now: Instant) -> None:
        """Rule 6, for all: whatever SAs are left, nobody would renew or delete them."""
        self._index.clear()
        self._doomed.clear()  # the next charon counts from 1 again
        for session in self.by_identity.values():
            if not session.tunnels:
                continue
            session.forget_all()
            session.flip = None
            if session.state is SessionState.ATTACHED:
                self._leave(session, SessionState.AWAY, SessionReason.CHARON_ABSENT, now)
            else:
                self._apply(session)

    def _ike_rekeyed(self, old: UniqueId, new: UniqueId) -> None:
        session = self._index.by_ike.get(old)
        if session is None:
            return
        for tunnel in tuple(session.tunnels):
            if tunnel.ike == old:
                self._replace(session, tunnel, replace(tunnel, ike=new))

    def _ike_moved(self, event: IkeMoved) -> None:
        """The port only: the address changes when the SA does (`_state_moved`)."""
        session = self._index.by_ike.get(event.ike)
        if session is None:
            return
        for tunnel in tuple(session.tunnels):
            if tunnel.ike == event.ike:
                self._replace(session, tunnel, replace(tunnel, remote_port=event.remote_port))

    def _replace(self, session: Session, known: Tunnel, tunnel: Tunnel) -> None:
        session.replace(known, tunnel)
        self._index.remove(session, known)

    # Following a moved endpoint

    def _mapping(self, spi: Spi, now: Instant) -> None:
        """Rule 4, first half. The kernel says so for each packet until the SA is rewritten."""
        session = self._index.inbound.get(spi)
        if session is None:
            return
        if session.active is None or session.active.spi_in != spi:
            session.unsettle(spi, Instant(now + FOLLOW_LIMIT))
            if spi in session.carrying:
                session.carry_no_more()
                self._apply(session)
            return
        if session.following is not None or session.unfollowed == spi:
            return
        session.following = Instant(now + FOLLOW_LIMIT)
        self._agenda.add(session.identity, session.following)
        self._apply(session)

    def _state_moved(self, event: StateMoved, now: Instant) -> None:
        """Rule 4, second half. To the same address again: another port of its NAT."""
        session = self._index.outbound.get((event.reqid, event.spi))
        if session is None:
            return
        for tunnel in tuple(session.tunnels):
            if (tunnel.reqid, tunnel.spi_out) != (event.reqid, event.spi):
                continue
            moved = replace(tunnel, local=event.source, remote=event.destination)
            followed = moved != tunnel or session.following is not None
            asked = session.awaited
            activates = asked is not None and asked.spi == event.spi
            active = session.active == tunnel or activates
            session.unsettled.pop(event.spi, None)
            followed = followed or activates
            joined = session.may_be_joined
            named = session.unsent.pop(tunnel.child, None) is not None and joined
            self._replace(session, tunnel, moved)
            if active and followed:
                session.roams += moved != tunnel
                self._attach(session, moved, SessionReason.FOLLOWED, now)
                if asked is not None and activates:
                    session.flip = asked.flip
                    self._answer(session, asked)
            elif (
                named
                or session.may_be_joined is not joined
                or session.slot_of(moved) is not None
            ):
                self._apply(session)

    # Absence

    def _is_absent(self, session: Session, now: Instant) -> None:
        session.left = now
        self._absent.left(session.identity)
        self._look_later(session)

    def _look_later(self, session: Session) -> None:
        following = session.next_state(self._policy)
        if following is not None:
            self._agenda.add(session.identity, following[1])

    def _falls_asleep(self, session: Session, event: Heard, now: Instant) -> None:
        """Rule 7. One that was overtaken by a later probe says what is true no longer."""
        if not session.is_latest(event.flip, event.sequence):
            return
        session.flip, session.sequence, session.heard = event.flip, event.sequence, now
        session.awaited = None
        self._answer(session, event)
        if session.state is not SessionState.ASLEEP:
            self._leave(session, SessionState.ASLEEP, SessionReason.SAID_ASLEEP, now)

    def _makes_room(self, identity: str) -> bool:
        """Rule 11: whether there may be a session for this identity, now at the latest."""
        if not self._is_one_too_many(identity):
            return True
        evicted = self._evictable()
        if evicted is not None:
            self._end(self.by_identity[evicted], "evicted", SessionReason.MADE_ROOM)
        return evicted is not None

    def _is_one_too_many(self, identity: str) -> bool:
        full = len(self.by_identity) >= self._policy.most
        return full and identity not in self.by_identity

    def _evictable(self) -> str | None:
        return self._absent.longest() if self._policy.evict else None

    def _end(self, session: Session, what: str, reason: SessionReason) -> None:
        """The session is no more. Its lease stays."""
        tunnels, session.tunnels = session.tunnels, []
        for tunnel in tunnels:
            self._index.remove(session, tunnel)
            self._effects.append(Terminate(tunnel, reason))
        del self.by_identity[session.identity]
        for vip in session.vips:
            del self._by_vip[vip]
        self._absent.returned(session.identity)
        self._agenda.drop(session.identity)
        self._effects.append(ApplySession(session.identity, ()))
        self._carry(session.identity, {})
        self._effects.append(EndFlows(session.vips))
        self._tell(what, session, reason)

    # Time

    def _policy_changed(self, policy: SessionPolicy) -> None:
        """Nobody is sent away because there are fewer places than before."""
        self._policy = policy
        for session in self.by_identity.values():
            self._look_later(session)

    def _tick(self, now: Instant) -> None:
        for identity in self._agenda.due(now):
            self._look(self.by_identity[identity], now)
        for identity, child in self._doomed.due(now):
            session = self.by_identity.get(identity)
            if session is None:
                continue
            for tunnel in session.tunnels:
                if session.is_or_was(tunnel, child) and tunnel != session.active:
                    self._effects.append(Terminate(tunnel, SessionReason.SUPERSEDED))

    def _look(self, session: Session, now: Instant) -> None:
        if session.following is not None and session.following <= now:
            self._unfollowed(session)
        following = session.next_state(self._policy)
        if following is None:
            return
        state, at = following
        if at > now:
            for tunnel in session.unasked(now):
                self._effects.append(Terminate(tunnel, SessionReason.UNASKED))
            self._look_later(session)
            if session.following is not None:
                self._agenda.add(session.identity, session.following)
        elif state is SessionState.EXPIRED:
            self._end(session, state, SessionReason.LONG_AWAY)
        elif state is SessionState.ASLEEP:
            self._leave(session, state, SessionReason.LONG_AWAY, now)
            self._look_later(session)
        else:
            self._leave(session, state, SessionReason.UNHEARD, now)

    def _unfollowed(self, session: Session) -> None:
        """Rule 4: charon does not do it."""
        session.following = None
        session.unfollowed = session.active.spi_in if session.active is not None else None
        self._apply(session)
        self._effects.append(Release(session.vips))
        self._tell("unmoved", session, SessionReason.NEVER_MOVED)

    # Small things

    def _apply(self, session: Session) -> None:
        self._effects.append(ApplySession(session.identity, session.objects()))
        self._carry(session.identity, session.carrying)

    def _carry(self, identity: str, slots: Mapping[Spi, int]) -> None:
        """Rule 10, for the firewall; the policies are there by now."""
        if self._carrying.get(identity, {}) == slots:
            return
        self._carrying.pop(identity, None)
        if slots:
            self._carrying[identity] = slots
        self._effects.append(Carry(identity, slots))

    def _tell(
        self, what: str, session: Session, *reasons: SessionReason, **fields: str | float
    ) -> None:
        self._effects.append(Tell(what, frozenset(reasons), session.identity, fields))
