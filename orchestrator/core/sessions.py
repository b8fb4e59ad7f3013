"""The mobility server's deciding machine: one session for each endpoint that was admitted.

What it decides about has rules of its own: one session (`core.session`), all there are
(`core.register`), how long one lasts without its endpoint (`core.absence`). Three decide beside
this module, in the order in which they use each other: what becomes of a session's packets
(`core.attachment`), of an endpoint that moved (`core.following`), of a probe
(`core.session_probes`). The rules, each with the method that keeps it:

1. A session belongs to an identity and its VIPs, and outlives every tunnel (`_admitted`).
2. A tunnel waits until the endpoint activates it: we hear of it before the endpoint has its
   SAs, and what is sent or released too early is lost. Only one from before this daemon
   carries a detached session's traffic at once (`_admitted`).
3. The endpoint activates by a probe inside the tunnel: the newest flip wins, and names the
   tunnel by its SPI; so does any flip out of a tunnel that came after that one
   (`SessionProbes._activate`, `Session.is_fresh`).
4. An endpoint that moved its SAs is followed when the kernel says so: hold from the MAPPING
   message, which only an authenticated packet causes, until charon has rewritten the SA
   (`Following.mapping`, `state_moved`); otherwise packets would meet a policy without an SA.
   Where charon does not follow, the next packets from there hold nothing (`Following.give_up`).
5. Two tunnels to the same address and port: the older one was superseded by a move, or its
   endpoint lost it in a crash, and is deleted when the younger is activated, or asked about
   (`SessionProbes._supersede`), unless it is the active one. Until then the policy names the
   SA of the active one (`Session.may_be_joined`).
6. An endpoint unheard for `detach_after`, or whose active tunnel ended, is away: its packets
   are held until it activates another, its flows stay (`_look`, `_tunnel_down`,
   `_charon_gone`).
7. One that says that it goes to sleep is asleep at once; one that stays away gets there in
   time, and its session may end (`core.absence`; `SessionProbes._falls_asleep`, `_look`,
   `Attachment.end`).
8. Whether an idle tunnel works is answered through that very tunnel; the question is a sign of
   life, and changes nothing else but rules 5 and 13 (`SessionProbes._heard_warm`).
9. Of an endpoint that is here, idle tunnels that it does not ask for any more are deleted:
   where a link is lost nobody says good-bye (`_look`).
10. No packet is sent to an endpoint that is larger than it says its path carries
    (`SessionProbes._heed_limit`). Whether more is carried is answered past that
    (`SessionProbes._heard_warm`).
11. There are no more sessions than may be: a further endpoint is refused, or takes the place
    of the one that has been away longest, never of an attached one (`_makes_room`).
12. An endpoint says how soon it will be heard again, up to `LONGEST_SILENCE`; `detach_after` is
    meant for one that asks every `USUAL` seconds, and who asks more rarely is given the
    difference (`SessionProbes._is_to_be_heard`, `core.absence`).
13. Where the endpoint says so, flows that come out of an idle tunnel go back into it
    (`SessionProbes._heard_warm`), until a higher flip without that being said again
    (`SessionProbes._activate`), the tunnel is the active one or may lead elsewhere
    (`Attachment.attach`, `Following.mapping`), or the endpoint is away (`Attachment.leave`).
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import assert_never

from orchestrator.core.absence import SessionPolicy, SessionState
from orchestrator.core.attachment import Attachment
from orchestrator.core.following import Following
from orchestrator.core.ike import (
    CharonGone,
    CharonUp,
    IkeDown,
    IkeMoved,
    IkeRekeyed,
    TunnelDown,
    TunnelRekeyed,
    TunnelUp,
)
from orchestrator.core.quantities import Instant, IPAddress, UniqueId
from orchestrator.core.register import Register
from orchestrator.core.session import MAX_TUNNELS, Session
from orchestrator.core.session_events import (
    Admitted,
    Effect,
    Event,
    Heard,
    HeardWarm,
    MappingChanged,
    PolicyChanged,
    Remembered,
    SessionReason,
    StateMoved,
    Terminate,
    Tick,
)
from orchestrator.core.session_probes import SessionProbes


class Sessions:
    """All sessions of one server: `handle` and `deadline` act, the rest is for reading."""

    def __init__(self, policy: SessionPolicy) -> None:
        self._register = Register(policy)
        self._effects: list[Effect] = []
        """Of the news that is taken now."""
        self._attachment = Attachment(self._register, self._effects)
        self._following = Following(self._register, self._attachment, self._effects)
        self._probes = SessionProbes(self._register, self._attachment, self._effects)

    def handle(  # noqa: C901 - one row per event: the table is the point
        self, event: Event, now: Instant
    ) -> tuple[Effect, ...]:
        """Takes one piece of news; returns what to do, in order."""
        self._effects.clear()
        match event:
            case Admitted():
                self._admitted(event, now)
            case Remembered(identity, vips):
                self._attachment.apply(self._session(identity, vips, now))
            case Heard() | HeardWarm():
                self._probes.heard(event, now)
            case MappingChanged(spi):
                self._following.mapping(spi, now)
            case StateMoved():
                self._following.state_moved(event, now)
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
                self._following.ike_moved(event)
            case TunnelUp() | CharonUp():
                pass  # they come as Admitted, once the lease has been looked up
            case _:
                assert_never(event)
        return tuple(self._effects)

    def deadline(self) -> Instant | None:
        times = self._register.agenda.next(), self._probes.doomed.next()
        return min((at for at in times if at is not None), default=None)

    # For reading

    @property
    def by_identity(self) -> Mapping[str, Session]:
        return self._register.by_identity

    def session_of_vip(self, vip: IPAddress) -> Session | None:
        return self._register.of_vip(vip)

    def vips(self) -> Collection[IPAddress]:
        """Every virtual address that a session has."""
        return self._register.vips()

    def has_room(self, identity: str) -> bool:
        """Whether this identity has a session, or would be given one."""
        return self._register.has_room(identity) or self._register.evictable() is not None

    # Admitting

    def _admitted(self, event: Admitted, now: Instant) -> None:
        """Rules 1 and 2."""
        tunnel = event.tunnel
        if not self._makes_room(event.identity):
            self._effects.append(Terminate(tunnel, SessionReason.TOO_MANY_SESSIONS))
            return
        session = self._session(event.identity, event.vips, now)
        if session.state is not SessionState.ATTACHED:
            self._register.leaves(session, now)  # as good as back
        known = next((t for t in session.tunnels if t.child == tunnel.child), None)
        if known is None:
            session.add(tunnel, now)
            self._register.index.add(session, tunnel)
        else:
            self._register.replace(session, known, tunnel)
        if len(session.tunnels) > MAX_TUNNELS:
            oldest = next(t for t in session.tunnels if t != session.active)
            self._effects.append(Terminate(oldest, SessionReason.TOO_MANY))
        if event.adopted and session.state is not SessionState.ATTACHED:
            self._attachment.attach(session, tunnel, SessionReason.ADOPTED, now)
        else:
            self._attachment.apply(session)

    def _session(self, identity: str, vips: tuple[IPAddress, ...], now: Instant) -> Session:
        """The session of this identity, with these addresses, which nobody else has then."""
        session = self._register.open(identity, now)
        self._register.take_back(session)
        session.vips = vips
        for vip in vips:
            former = self._register.give(vip, session)
            if former is not None:
                self._attachment.apply(former)
        return session

    def _makes_room(self, identity: str) -> bool:
        """Rule 11: whether there may be a session for this identity, now at the latest."""
        if self._register.has_room(identity):
            return True
        evicted = self._register.evictable()
        if evicted is not None:
            self._attachment.end(evicted, "evicted", SessionReason.MADE_ROOM)
        return evicted is not None

    # What charon tells

    def _tunnel_rekeyed(self, event: TunnelRekeyed) -> None:
        """Where both sides rekey at once charon may name two successors; the last counts."""
        old, tunnel = event.old, event.tunnel
        session = self._register.index.by_ike.get(tunnel.ike)
        if session is None:
            return
        for known in tuple(session.tunnels):
            if known.ike == tunnel.ike and session.is_or_was(known, old):
                session.rekeyed(known, tunnel, old=old, unsent=event.unsent)
                self._register.index.remove(session, known)
                session.moved &= session.active != tunnel
                if session.active == tunnel or session.slot_of(tunnel) is not None:
                    self._attachment.apply(session)

    def _ike_rekeyed(self, old: UniqueId, new: UniqueId) -> None:
        session = self._register.index.by_ike.get(old)
        if session is None:
            return
        for tunnel in tuple(session.tunnels):
            if tunnel.ike == old:
                self._register.replace(session, tunnel, replace(tunnel, ike=new))

    def _tunnel_down(self, ike: UniqueId, child: UniqueId | None, now: Instant) -> None:
        """Rule 6."""
        session = self._register.index.by_ike.get(ike)
        if session is None:
            return
        gone = [t for t in session.tunnels if t.ike == ike and child in (None, t.child)]
        for tunnel in gone:
            session.forget(tunnel)
            self._register.index.remove(session, tunnel)
        if not session.tunnels:
            session.flip = None  # no probe of before can come: it may count anew
        if session.active in gone:
            left = SessionReason.TUNNEL_ENDED if session.tunnels else SessionReason.NO_TUNNEL
            self._attachment.leave(session, SessionState.AWAY, left, now)
        elif gone:
            self._attachment.apply(session)

    def _charon_gone(self, now: Instant) -> None:
        """Rule 6, for all: whatever SAs are left, nobody would renew or delete them."""
        self._register.index.clear()
        self._probes.doomed.clear()  # the next charon counts from 1 again
        away, absent = SessionState.AWAY, SessionReason.CHARON_ABSENT
        for session in self.by_identity.values():
            if not session.tunnels:
                continue
            session.forget_all()
            session.flip = None
            if session.state is SessionState.ATTACHED:
                self._attachment.leave(session, away, absent, now)
            else:
                self._attachment.apply(session)

    # Time

    def _policy_changed(self, policy: SessionPolicy) -> None:
        """Nobody is sent away because there are fewer places than before."""
        self._register.policy = policy
        for session in self.by_identity.values():
            self._register.look_later(session)

    def _tick(self, now: Instant) -> None:
        for identity in self._register.agenda.due(now):
            self._look(self.by_identity[identity], now)
        self._probes.end_the_superseded(now)

    def _look(self, session: Session, now: Instant) -> None:
        """Rules 6, 7 and 9."""
        if session.following is not None and session.following <= now:
            self._following.give_up(session)
        following = session.next_state(self._register.policy)
        if following is None:
            return
        state, at = following
        if at > now:
            for tunnel in session.unasked(now):
                self._effects.append(Terminate(tunnel, SessionReason.UNASKED))
            self._register.look_later(session)
            if session.following is not None:
                self._register.agenda.add(session.identity, session.following)
        elif state is SessionState.EXPIRED:
            self._attachment.end(session, state, SessionReason.LONG_AWAY)
        elif state is SessionState.ASLEEP:
            self._attachment.leave(session, state, SessionReason.LONG_AWAY, now)
            self._register.look_later(session)
        else:
            self._attachment.leave(session, state, SessionReason.UNHEARD, now)
