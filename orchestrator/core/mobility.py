"""The endpoint's deciding machine: news in, acts out.

What it decides about has rules of its own: where we are (`core.places`), the tunnels we have
(`core.tunnels`), those that wait (`core.warmth`), which flows take these (`core.classes`),
where one is wanted (`core.wishes`), the negotiations under way, and those that failed
(`core.attempts`, `core.race`), the probes (`core.vigil`, `core.liveness`), what is too old to
be echoed (`core.echoes`), networks that ask for a sign-in (`core.portal`). The rules that join
them, each with the method that keeps it:

1. The active path is gone: hold, before anything else (`_lose`).
2. Then the cheapest way back, in this order (`_recover`): the same point of presence returned:
   use its tunnel again; a tunnel can be moved: move it, send at once, negotiate behind it;
   otherwise negotiate, and flip when the tunnel is up.
3. A fresh tunnel takes the traffic when there is none, when the active one was moved or lost
   its IKE_SA, or when its link is better; otherwise it stays warm (`_tunnel_up`).
4. The tunnel that lost the traffic is kept to go back to until its successor has proved itself;
   then it still receives for a while, and is deleted (`_retire`).
5. Attached means answered: a probe came back through the tunnel (`_answered`).
6. A path whose probes stay unanswered is as gone as one without carrier (`_tick`).
7. charon's absence is no reason to leave a path: probes decide. Its return is checked
   (`_charon_up`).
8. A negotiation that fails is repeated on the next path, and on the same one after a growing
   pause (`_negotiate_if_needed`, `_fail`).
9. Before the device sleeps the server is told, and from then on traffic is held
   (`_falls_asleep`). After a sleep nothing is trusted: it is held until a probe was answered,
   by whichever way (`_woke`, `_answered`).
10. Of the best links, as many as the operator allows, each has a tunnel (`core.warmth`), which
    is asked over itself (`_ask_the_warm`), and given up when it does not answer
    (`_give_up_the_silent`).
11. A warm tunnel takes the traffic when the active path is gone (`_recover`), and when it is
    where we would rather be, and answers (`_warm_answered`).
12. While nothing works several negotiations run (`core.race`). The first that ends in a tunnel
    gets the traffic; of several it is the first that is answered (`_warm_answered`). Then
    those are withdrawn that are of no use any more (`_answered`).
13. How large a packet each path carries is asked over its tunnel (`core.mtu`).
14. Among links that are equal to the operator, what was measured chooses (`core.choice`,
    `core.quality`; `_choose`).
15. Flows of a class take a warm tunnel (`core.classes`); the server follows (`_bind_flows`).
16. Only tunnels negotiated by us are ours: other people's connections in the same charon are
    left alone (`_tunnel_up`, `_charon_up`).
"""

from collections.abc import Iterable, Sequence
from typing import Final, assert_never

from orchestrator.core.attempts import CONNECTION_PREFIX, Attempts, Patience
from orchestrator.core.carried import Carried
from orchestrator.core.choice import Choice, Standing
from orchestrator.core.classes import Classes
from orchestrator.core.echoes import Echoes
from orchestrator.core.endpoint_state import EndpointState
from orchestrator.core.flaps import Flaps
from orchestrator.core.ike import (
    CharonGone,
    CharonUp,
    IkeDown,
    IkeFailure,
    IkeMoved,
    IkeRekeyed,
    Tunnel,
    TunnelDown,
    TunnelRekeyed,
    TunnelUp,
)
from orchestrator.core.kernel import ENDPOINT_REQID, Template
from orchestrator.core.liveness import Liveness, PathHealth
from orchestrator.core.mobility_events import (
    AnyReason,
    Apply,
    AttemptAnswered,
    AttemptFailed,
    Effect,
    Event,
    FallsAsleep,
    HideEchoes,
    MaySleep,
    MoveEnded,
    MoveTunnel,
    NetworkChanged,
    ProbeAnswered,
    ProbeTooLarge,
    Reason,
    Release,
    RememberVips,
    RoamRequested,
    ServersKnown,
    SignalSeen,
    Started,
    State,
    Tell,
    Terminate,
    Tick,
    TrafficSeen,
    TrafficStirs,
    Woke,
)
from orchestrator.core.mobility_policy import MobilityPolicy
from orchestrator.core.mtu import PathMtus
from orchestrator.core.network import Change
from orchestrator.core.paths import Absence, Path
from orchestrator.core.places import Place, Places, place_of
from orchestrator.core.portal import Portals
from orchestrator.core.portal_events import PortalAnswered, WayLeft, WayRequested
from orchestrator.core.quality import Quality
from orchestrator.core.quantities import Instant, IPAddress, Seconds, UniqueId, successor
from orchestrator.core.race import Race
from orchestrator.core.tunnels import Held, Tunnels
from orchestrator.core.verdict import Verdict
from orchestrator.core.vigil import Vigil
from orchestrator.core.warmth import Warmth
from orchestrator.core.wishes import Wishes

REFUSAL_WINDOW: Final = Seconds(5.0)
"""An IKE_SA that the server deletes this soon, unproven, was refused after authentication."""
SLEEP_LIMIT: Final = Seconds(10.0)
"""A device that has announced its sleep and is still awake then does not sleep: logind waits
for 5 s (logind.conf(5), InhibitDelayMaxSec)."""


SERVER_TURNS: Final = Seconds(0.01)
"""So long traffic waits behind the first packet of a tunnel that we moved: charon at the server
deletes the inbound SA and adds it again (kernel_netlink_ipsec.c, update_sa), and what comes
between is lost. Some milliseconds, and one for us to tell who waited."""
ANSWER_LIMIT: Final = Seconds(0.25)
"""Instead of it after an outage: much waits then, and would leave in that moment; a round trip
more is little. The server follows in as much, or not at all (`core.sessions`)."""
OUTAGE: Final = Seconds(1.0)
"""From here on being nowhere was more than a change of network."""


class Mobility:
    """One endpoint. `handle` and `deadline` are the whole interface; the rest is for status."""

    def __init__(self, policy: MobilityPolicy, first_flip: int = 0) -> None:
        self.policy = policy
        self.state = State.DETACHED
        self.reasons: frozenset[AnyReason] = frozenset({Reason.STARTED})
        self.since = Instant(0.0)
        self.vips: tuple[IPAddress, ...] = policy.static_vips
        self.charon: str | None = None
        """charon's version while it answers."""
        self.roams = 0
        """Activations at another place than the one before; the first attachment is none."""
        self.flip = first_flip
        """The number of the latest change of path; the server follows the newest."""
        self._places = Places(policy.servers, policy.choice)
        patience = Patience(policy.attempt_limit, policy.backoff_min, policy.backoff_max)
        self._attempts = Attempts(patience, policy.static_vips, first_flip)
        self._tunnels = Tunnels(self._places)
        self._flaps = Flaps()
        self._choice = Choice(self._places, self._flaps, policy.lossy)
        self._warmth = Warmth(
            self._tunnels, self._places, self._choice, policy.warm_links, policy.flows
        )
        self.classes = Classes(policy.flows, self._places, self._warmth, self._choice.penalties)
        """For status, as all that has no underscore."""
        self._carried = Carried()
        self._wishes = Wishes(self._places, self._attempts, self._tunnels, self._warmth)
        self._race = Race(self._attempts, self._wishes, self._flaps, policy.race)
        self.portals = Portals(policy.portal, self._places, self._tunnels, self._attempts)
        """Which networks ask for a sign-in."""
        usual, longest = policy.probe_interval, policy.probe_idle
        self._vigil = Vigil(
            self._warmth, self._choice.meters, usual, longest, policy.dead_after
        )
        self._mtus = PathMtus(policy.inner.mtu if policy.seeks_mtu else None, self._vigil)
        self._active: Held | None = None
        self._activated_at: Place | None = None
        """Where the latest activation was, whatever became of it since."""
        self._lost_at: Instant | None = None
        self._doubted = False
        """Whether everything but probes waits for the next answer."""
        self._deaf_until: Instant | None = None
        """Everything but probes waits until then, or for the next answer: the server may not
        hear what a moved tunnel brings."""
        self._echoes = Echoes()
        self._asleep_until: Instant | None = None
        """While the device falls asleep: when it must have."""
        self._effects: list[Effect] = []
        self._ordered = self.kernel()
        """What the latest Apply ordered."""

    # The interface

    def handle(  # noqa: C901 - one row per event: the table is the point
        self, event: Event, now: Instant
    ) -> tuple[Effect, ...]:
        """Takes one piece of news; returns what to do, in order."""
        self._effects = []
        match event:
            case Started():
                self._started(event, now)
            case NetworkChanged(snapshot):
                self._network(self._places.look(snapshot, self.vips), now)
            case ServersKnown(servers):
                used = (held.path for held in self._tunnels.held)
                self._network(self._places.know(servers, used), now)
            case TunnelUp(tunnel):
                self._tunnel_up(tunnel, now)
            case TunnelRekeyed(old, tunnel):
                self._effects += self._tunnels.rekeyed(old, tunnel)
            case TunnelDown(ike, child):
                self._tunnel_down(ike, child, now)
            case IkeDown(ike):
                self._tunnel_down(ike, None, now)
            case IkeRekeyed(old, new):
                self._tunnels.ike_rekeyed(old, new)
            case IkeMoved():
                self._tunnels.ike_moved(event)
            case CharonUp(version, tunnels):
                self._charon_up(version, tunnels, now)
            case CharonGone():
                self._charon_gone()
            case AttemptAnswered(connection):
                self._race.answered(connection, now)
            case AttemptFailed():
                self._attempt_failed(event, now)
            case MoveEnded():
                self._move_ended(event, now)
            case ProbeAnswered():
                self._answered(event, now)
                self._choose(now)
            case ProbeTooLarge(sequence):
                self._mtus.refused(sequence, now)
            case TrafficSeen():
                self._carried.seen(event, now)
                silent = self._vigil.seen(event, self._active, now)
                if not self._vigil.is_quiet:
                    self._mtus.used(self._active, now, silent=silent)
                if silent and self._vigil.may_ask(self._active, now):
                    self._probe(now)
            case TrafficStirs():
                carrying = self.classes.carrying
                known = [held for held in self._tunnels.held if held not in carrying]
                self._effects += self._vigil.stirred(event, self._watched, known, now)
            case SignalSeen(link, dbm):
                self._choice.meters.signal_seen(link, dbm, now)
            case RoamRequested(link_name):
                self._roam_requested(link_name, now)
            case FallsAsleep():
                self._falls_asleep(now)
            case Woke():
                self._woke(now)
            case Tick():
                self._tick(now)
            case PortalAnswered() | WayRequested() | WayLeft():
                self._effects += self.portals.hears(event, self._active, now)
            case _:
                assert_never(event)
        racing = self._wishes.races(self._active)
        for held in self._warmth.look(
            self._active, now, attached=self._attached, racing=racing
        ):
            held.retire_at = Instant(now + self.policy.drain)
        self._bind_flows(now)
        active, warm = (self._active, self._warmth.warm) if self._watches else (None, ())
        sizes = self._mtus.look(active, warm, self.flip, now)
        self._apply_what_changed()
        self._effects += sizes
        if self._watches:
            self._ask_the_warm(now)
        self._negotiate_if_needed(now)
        self._effects += self.portals.look(self._active, now)
        if self._active is None:
            self.reasons = self.portals.among(self.reasons)
        if self._echoes.turn(now):
            self._effects.append(HideEchoes(self._echoes.stale))
        self._effects += self._vigil.turn(self._watched)
        return tuple(self._effects)

    def deadline(self) -> Instant | None:
        """When to send `Tick` if nothing else happens; None: never."""
        times = [held.retire_at for held in self._tunnels.held if held.retire_at is not None]
        if self._active is not None:
            times.append(self._active.liveness.deadline(self._vigil.patience(self._active)))
        if self._watches:
            times += [held.liveness.deadline() for held in self._warmth.warm]
            looks = self._vigil.next_look, self._carried.next_look
            times += [at for at in looks if at is not None]
            times += self._mtus.deadlines(self._active, self._warmth.warm)
        for at in (
            self._asleep_until,
            self._deaf_until,
            self._echoes.turns_at,
            self.portals.deadline,
        ):
            times += [at] if at is not None else []
        times += [attempt.overdue for attempt in self._attempts.under_way]
        if self._can_negotiate:
            times += self._race.deadlines(self._active, attached=self._attached)
        return min(times, default=None)

    # For status

    @property
    def _attached(self) -> bool:
        return self.state is State.ATTACHED

    @property
    def liveness(self) -> Liveness | None:
        """Of the active path."""
        return self._active.liveness if self._active else None

    def liveness_of(self, path: Path) -> Liveness | None:
        """Of the tunnel there that is in use, or kept warm."""
        held = self._asked(path)
        return held.liveness if held else None

    def verdict_of(self, path: Path, now: Instant) -> Verdict | None:
        """On that one."""
        held = self._asked(path)
        return self._vigil.verdict(held, self._active, now) if held else None

    def _asked(self, path: Path) -> Held | None:
        asked = (*self._warmth.warm, *((self._active,) if self._active else ()))
        return next((held for held in asked if place_of(held.path) == place_of(path)), None)

    def mtu_of(self, path: Path) -> int:
        """The largest packet inside the tunnel that is sent along this path."""
        return self._mtus.limit_at(place_of(path)) or self.policy.inner.mtu

    @property
    def paths(self) -> tuple[Path, ...]:
        """The usable ones, best first."""
        return self._places.paths

    @property
    def active(self) -> Tunnel | None:
        return self._active.tunnel if self._active else None

    @property
    def active_path(self) -> Path | None:
        return self._active.path if self._active else None

    @property
    def attempt_paths(self) -> tuple[Path, ...]:
        return tuple(attempt.path for attempt in self._attempts.under_way)

    def tunnel_of(self, path: Path) -> Tunnel | None:
        active = self._active
        if active is not None and place_of(active.path) == place_of(path):
            return active.tunnel
        return self._tunnels.at(path)

    def quality_of(self, path: Path, now: Instant) -> Quality:
        return self._choice.quality(path, now)

    def why_not(self, path: Path, now: Instant) -> frozenset[Standing]:
        """Why the traffic is not there; empty if it is, or if it is nowhere."""
        return self._choice.why_not(path, self._active, now)

    def failure_of(self, path: Path) -> tuple[IkeFailure, str] | None:
        return self._attempts.failure_of(path)

    def kernel(self) -> EndpointState:
        """What the kernel has to look like now."""
        way = None
        if self._active is not None:
            way = _template(self._active.tunnel)
        active, probed = (None, way) if self._waits else (way, None)
        warm = tuple((held.slot, _template(held.tunnel)) for held in self._warmth.warm)
        tables, limit = self._places.tables, self._mtus.limit(self._active)
        inner, flows = self.policy.inner, self.policy.flows
        state = EndpointState(inner, self.vips, tables, active, probed, limit, warm, flows)
        for number, held in self.classes.bound:
            state = state.bind(number, _template(held.tunnel), held.slot)
        return state

    # Start and network

    def _started(self, event: Started, now: Instant) -> None:
        self.vips = self.policy.static_vips or event.vips
        self.since = now
        self._places.look(event.snapshot, self.vips)
        if event.adopted is not None:
            path = self._places.between(event.adopted.local, event.adopted.remote)
            if path is not None:
                self._doubted = event.doubted
                held = self._tunnels.take(event.adopted, path, now, self._liveness(now))
                held.answered = True
                held.renew = Reason.CHARON_RESTARTED  # unless charon says that it knows it
                self._activate(held, {Reason.ADOPTED}, now)
                return
        self._echoes.lost(now)
        self._set_state(State.DETACHED, {Reason.STARTED, *self._places.why_none()}, now)
        self._apply()

    def _network(self, what: frozenset[Change], now: Instant) -> None:
        self._flaps.look(map(place_of, self.paths), now)
        self._attempts.keep(self.paths)
        self._choice.keep(map(place_of, self.paths))
        self._mtus.keep(map(place_of, self.paths))
        if self._active is not None:
            path = self._places.at(self._active.path)
            if path is None:
                self._lose(what | self._places.why_none(), now)
            else:
                self._active.path = path
        self._apply_what_changed()
        for attempt in self._attempts.under_way:
            if self._places.at(attempt.path) is None:
                self._effects.append(self._attempts.give_up(attempt))
        if self._active is None and what:
            if self._places.why_none() != self.reasons & frozenset(Absence):
                self._set_state(State.DETACHED, what | self._places.why_none(), now)
            self._recover(what, now)

    def _falls_asleep(self, now: Instant) -> None:
        """Rule 9, first half."""
        self._asleep_until = Instant(now + SLEEP_LIMIT)
        self._doubt(Reason.FALLING_ASLEEP, now)
        if self._active is None:
            self._effects.append(MaySleep())

    def _woke(self, now: Instant) -> None:
        """Rule 9, second half."""
        self._asleep_until = None
        self._attempts.forgive_all()
        # The server may have sent into the void unaware: to a new flip it sends anew.
        self.flip = successor(self.flip)
        self._lost_at = now
        self._echoes.long_lost(now)
        self._warmth.doubt()
        self._mtus.ask_again(now)
        self._choice.doubt()
        self._doubt(Reason.WOKE, now)

    def _doubt(self, reason: Reason, now: Instant) -> None:
        """The next answer, or its absence, decides; until then only probes are sent."""
        self._doubted = True
        self._effects += self._attempts.withdraw(lambda _: True)
        if self._active is not None:
            self._active.liveness = self._liveness(now)
            self._set_state(State.MOVING, {reason}, now)
            self._apply()
            self._probe(now)

    # Losing and recovering

    def _lose(self, reasons: frozenset[AnyReason], now: Instant) -> None:
        """Rule 1. The tunnel stays with us: it may be moved, or its place may return."""
        self._active = None
        self._deaf_until = None
        self._vigil.end()
        self._echoes.lost(now)
        if self._lost_at is None:
            self._lost_at = now
        if self.charon is None:
            reasons |= {Reason.CHARON_ABSENT}
        self._set_state(State.DETACHED, reasons, now)
        self._apply()

    def _recover(self, reasons: frozenset[AnyReason], now: Instant) -> None:
        """Rule 2."""
        for held in self._warmth.proven(now):
            self._activate(held, {*reasons, Reason.WARM}, now)
            return
        for held in self._tunnels.latest():
            path = self._places.at(held.path)
            if path is not None and not self._attempts.silent(path):
                held.path = path
                self._activate(held, {*reasons, Reason.PATH_RETURNED}, now)
                return
        for path in self.paths:
            movable = self._tunnels.movable(path, now)
            if movable is not None:
                self._effects.append(MoveTunnel(movable.tunnel, path))
                return

    def _move_ended(self, event: MoveEnded, now: Instant) -> None:
        held = next((h for h in self._tunnels.held if h.tunnel == event.tunnel), None)
        if held is None:
            return
        if not event.moved:
            # Half of its SAs may be gone: it is of no use to anybody.
            self._discard(held)
            self._tell("failed", {Reason.MOVE_REFUSED}, event.path, detail=event.detail)
            return
        held.move(event.path)
        outage = self._lost_at is not None and now - self._lost_at >= OUTAGE
        deaf = ANSWER_LIMIT if outage else SERVER_TURNS
        self._activate(held, {Reason.TUNNEL_MOVED}, now, deaf)

    def _activate(
        self,
        held: Held,
        reasons: Iterable[AnyReason],
        now: Instant,
        deaf: Seconds | None = None,
    ) -> None:
        """Sends the traffic into this tunnel; at once, unless the server is deaf to it."""
        known = self._choice.goes(self._active, held, reasons, now)
        self._active = held
        self._deaf_until = None if deaf is None else Instant(now + deaf)
        held.retire_at = None
        self._retire(now, proven=False)
        self.flip = successor(self.flip)
        place = place_of(held.path)
        self.roams += self._activated_at not in (None, place)
        self._activated_at = place
        self._vigil.begin(held, now)
        self._mtus.begin(held, now)
        self._set_state(State.MOVING, reasons, now, **known)
        self._apply()
        self._probe(now)
        if not self._waits:
            self._effects.append(Release())

    def _retire(self, now: Instant, *, proven: bool) -> None:
        """Rule 4: what lost the traffic has a while left, unless we may want to go back."""
        for held in self._tunnels.latest():
            if held is self._active:
                continue
            path = self._places.at(held.path)
            works = held.answered and path is not None and not self._attempts.silent(path)
            if (proven or not works) and not self._warmth.keeps(held, self._active):
                held.retire_at = Instant(now + self.policy.drain)

    def _tick(self, now: Instant) -> None:
        if self._asleep_until is not None and now >= self._asleep_until:
            self._woke(now)
        for held in self._tunnels.over(now):
            self._discard(held)
        for attempt in self._attempts.under_way:
            if now >= attempt.overdue:
                self._effects.append(self._attempts.give_up(attempt))
                self._fail(attempt.path, IkeFailure.SILENT, "no outcome", now)
        if self._watches:
            self._give_up_the_silent(now)
        if self._active is None:
            return
        if self._deaf_until is not None and now >= self._deaf_until:
            self._trust()
        if self._vigil.verdict(self._active, self._active, now).health is PathHealth.DEAD:
            self._dead(self._active, now)
            return
        asks = self._vigil.is_due(self._active, self._warmth.warm if self._watches else (), now)
        if self._watches:
            self._effects += self._vigil.look(self._active, now, asks=asks)
        if asks:
            self._probe(now)

    @property
    def _waits(self) -> bool:
        """Whether nothing but probes is sent."""
        return self._doubted or self._deaf_until is not None

    def _trust(self) -> None:
        """What waited is sent."""
        self._deaf_until = None
        if not self._doubted:
            self._apply()
            self._effects.append(Release())

    @property
    def _watches(self) -> bool:
        """Whether anything but the next answer matters."""
        return self._asleep_until is None and not self._doubted

    @property
    def _watched(self) -> Held | None:
        """Whose traffic is looked at."""
        return self._active if self._watches else None

    def _ask_the_warm(self, now: Instant) -> None:
        """Rule 10, first half."""
        for held in self._warmth.warm:
            if self._vigil.is_due(held, (), now):
                carries = held in self.classes.carrying
                self._carried.asked(held, now)
                probe = self._vigil.ask(held, self.flip, now, active=False, carries=carries)
                self._effects.append(probe)

    def _give_up_the_silent(self, now: Instant) -> None:
        """Rule 10, second half."""
        for held in self._warmth.warm:
            if held.liveness.health(now) is PathHealth.DEAD:
                self._discard(held)
                self._fail(held.path, IkeFailure.SILENT, "probes unanswered", now)

    def _dead(self, active: Held, now: Instant) -> None:
        """Rule 6."""
        self._lose(frozenset({Reason.PATH_DEAD}), now)
        self._choice.given_up(place_of(active.path), now)
        self._echoes.long_lost(now)
        self._attempts.fell_silent(active.path, "probes unanswered")
        if active.unproven:
            # Negotiated, and never a sign of data: the same again would end the same.
            self._fail(active.path, IkeFailure.SILENT, "probes unanswered", now)
        if not all(map(self._attempts.silent, self.paths)):
            self._effects += self._attempts.withdraw(self._attempts.silent)
        self._recover(frozenset({Reason.PATH_DEAD}), now)

    def _bind_flows(self, now: Instant) -> None:
        """Rule 15."""
        turn = self.classes.look(self._active, now, trusted=self._watches)
        for way in turn.ways:
            path = way.held.path if way.held is not None else self.active_path
            self._tell("flows", {way.why}, path, flows=way.flows.name)
        if turn.left:
            self.flip = successor(self.flip)
        if turn.left or turn.asks:
            self._probe(now)
        self.classes.tell(self.flip, now)
        self._carried.keep(self.classes.carrying, now)
        self._effects += self._carried.look(now)

    # Probes

    def _liveness(self, now: Instant) -> Liveness:
        return Liveness(self.policy.probe_interval, self.policy.dead_after, now)

    def _probe(self, now: Instant) -> None:
        if self._active is not None:
            asleep = self._asleep_until is not None
            probe = self._vigil.ask(self._active, self.flip, now, active=True, asleep=asleep)
            self._effects.append(self._mtus.told(probe, self._active))

    def _answered(self, event: ProbeAnswered, now: Instant) -> None:
        """Rule 5."""
        if self._mtus.answered(event.sequence, now):
            return
        self._choice.meters.answered(event.sequence, now)
        rtt = self._vigil.answered(self._active, event, now) if self._active else None
        if self._active is None or rtt is None:
            self._warm_answered(event.sequence, now)
            return
        self._active.heard = now
        self._active.answered = True
        self._mtus.heard(self._active, rtt, now)
        if self._asleep_until is not None:
            self._active.liveness.due = self._asleep_until  # all is said
            self._effects.append(MaySleep())
            return
        if self._waits:
            self._doubted = False
            self._trust()
        if not self._wishes.why_flip(self._active.path, self._active):
            self._attempts.forgive(self._active.path)
        if self.state is State.MOVING:
            self._retire(now, proven=True)
            self._echoes.answered(now)
            elapsed = now - self.since if self._lost_at is None else now - self._lost_at
            self._lost_at = None
            times = {"elapsed_ms": round(elapsed * 1000, 1), "rtt_ms": round(rtt * 1000, 1)}
            self._set_state(State.ATTACHED, {*self.reasons, Reason.ANSWERED}, now, **times)
            self._effects += self._race.settle(self._active)

    def _warm_answered(self, sequence: int, now: Instant) -> None:
        """Rule 11: a warm tunnel where we would rather be takes the traffic once it answers."""
        for held in self._warmth.warm:
            rtt = held.liveness.answered(sequence, now)
            if rtt is None:
                continue
            racing = self._wishes.races(self._active)
            self._mtus.heard(held, rtt, now)
            self._carried.answered(held)
            self._warmth.heard(held, self._active, now)
            self._attempts.forgive(held.path)
            if racing:
                self._activate(held, {Reason.NEGOTIATED}, now)
                return
            if self._active is None:
                self._recover(frozenset({Reason.ANSWERED}), now)
                return
            why = self._wishes.why_flip(held.path, self._active)
            if why and self._watches and self._choice.penalties.over(place_of(held.path), now):
                self._activate(held, {*why, Reason.WARM}, now)
            return

    def _choose(self, now: Instant) -> None:
        """Rule 14. While it is not settled where the traffic is, nothing is chosen."""
        settled = self.state is State.ATTACHED and self._watches
        active = self._active if settled else None
        better = self._choice.look(active, self._warmth.proven(now), now)
        if better is not None:
            self._activate(better.held, {*better.reasons, Reason.WARM}, now)

    # Negotiating

    def _negotiate_if_needed(self, now: Instant) -> None:
        """Rule 8."""
        if self._can_negotiate:
            because, attached = self.reasons, self._attached
            self._effects += self._race.next(self._active, because, now, attached=attached)

    @property
    def _can_negotiate(self) -> bool:
        return self.charon is not None and self._asleep_until is None

    def _attempt_failed(self, event: AttemptFailed, now: Instant) -> None:
        attempt = self._race.lost(event.connection, event.why, now)
        if attempt is not None and self._attempts.requesting:
            self._effects += self._race.again(attempt, now)
        elif attempt is not None:
            self._fail(attempt.path, event.why, event.detail, now)

    def _fail(self, path: Path, why: IkeFailure, detail: str, now: Instant) -> None:
        pause = self._attempts.failed(path, why, detail, now)
        self._tell("failed", {why}, path, detail=detail, retry_s=round(pause, 1))
        if self._active is None:
            self.reasons = frozenset({why})

    # Tunnels

    def _tunnel_up(self, tunnel: Tunnel, now: Instant) -> None:
        """Rule 3."""
        if not tunnel.connection.startswith(CONNECTION_PREFIX):
            return
        attempt = self._race.won(tunnel.connection, now)
        if attempt is None:
            if not self._tunnels.of(tunnel.ike, None):
                self._effects.append(Terminate(tunnel))  # an answer that came too late
            return
        path = self._places.at(attempt.path)
        if path is None:
            self._effects.append(Terminate(tunnel))
            return
        outer = {path.pop for path in self.paths} & set(tunnel.given)
        if outer:
            self._effects.append(Terminate(tunnel))
            detail = f"the server gave us {min(map(str, outer))}, an address we have outside"
            self._fail(path, IkeFailure.OTHER, detail, now)
            return
        self._take_vips(tunnel.given)
        racing = self._wishes.races(self._active) and self.tunnel_of(path) is None
        held = self._tunnels.take(tunnel, path, now, self._liveness(now))
        if self._active is None or (
            not racing
            and self._wishes.why_flip(path, self._active)
            and self._may_return(path, now)
        ):
            self._activate(held, {*attempt.reasons, Reason.NEGOTIATED}, now)

    def _may_return(self, path: Path, now: Instant) -> bool:
        """Whether a tunnel here need not wait, warm, for its place's penalty to be over."""
        place = place_of(path)
        return place not in self._warmth.places or self._choice.penalties.over(place, now)

    def _take_vips(self, given: tuple[IPAddress, ...]) -> None:
        if not given or set(given) == set(self.vips):
            return
        if self.vips:
            self._tell("vip-changed", {Reason.VIP_CHANGED}, None, before=str(self.vips[0]))
        self.vips = given
        self._effects.append(RememberVips(given))

    def _tunnel_down(self, ike: UniqueId, child: UniqueId | None, now: Instant) -> None:
        for held in self._tunnels.of(ike, child):
            buried, was_active = self._tunnels.ended(held), held is self._active
            if was_active:
                self._lose(frozenset({Reason.TUNNEL_DELETED}), now)
            self._effects += buried
            refused = held.unproven and now - held.since < REFUSAL_WINDOW
            if refused and held.retire_at is None:
                self._fail(held.path, IkeFailure.REFUSED, "the server ended the IKE_SA", now)
            if was_active:
                self._recover(frozenset({Reason.TUNNEL_DELETED}), now)

    def _discard(self, held: Held) -> None:
        self._tunnels.held.remove(held)
        self._effects.append(Terminate(held.tunnel))

    # charon

    def _charon_up(self, version: str, tunnels: Sequence[Tunnel], now: Instant) -> None:
        """Rule 7: what charon knows is matched by SPI; what it does not know is renewed."""
        self.charon = version
        self._attempts.drop()
        self._attempts.end_pauses(now)
        for stranger in self._tunnels.compare(tunnels):
            if stranger.connection.startswith(CONNECTION_PREFIX):
                self._effects.append(Terminate(stranger))
        self._tell("charon", {Reason.STARTED}, None, version=version)
        if self._active is None:
            if Reason.CHARON_ABSENT in self.reasons:
                self.reasons = frozenset({Reason.CHARON_RESTARTED, *self._places.why_none()})
            self._recover(frozenset({Reason.STARTED}), now)

    def _charon_gone(self) -> None:
        if self.charon is not None:
            self._tell("charon", {Reason.CHARON_ABSENT}, None)
        self.charon = None
        self._attempts.drop()
        if self._active is None:
            self.reasons = frozenset({Reason.CHARON_ABSENT, *self._places.why_none()})

    def _roam_requested(self, link_name: str | None, now: Instant) -> None:
        if link_name is None:
            # Wherever it is best: a better link comes first, and this one if that fails.
            self._places.pinned = None
            self._attempts.forgive_all()
            self._choice.penalties.forgive_all()
            self._warmth.ask_at_once(None, now)
            if self._active is not None and self.charon is not None:
                self._active.renew = Reason.OPERATOR
            return
        if all(path.link_name != link_name for path in self.paths):
            self._tell("roam-refused", {Reason.NO_SUCH_PATH}, None, link=link_name)
            return
        self._places.pinned = link_name
        for path in self.paths:
            if path.link_name == link_name:
                self._attempts.forgive(path)
                self._choice.penalties.forgive(place_of(path))
        self._warmth.ask_at_once(link_name, now)

    # Small things

    def _apply(self) -> None:
        self._ordered = self.kernel()
        self._effects.append(Apply(self._ordered))

    def _apply_what_changed(self) -> None:
        """A table, or where the active tunnel leads."""
        if self.kernel() != self._ordered:
            self._apply()

    def _set_state(
        self, state: State, reasons: Iterable[AnyReason], now: Instant, **fields: str | float
    ) -> None:
        self.reasons = frozenset(reasons)
        if state is not self.state:
            self.since = now
        self.state = state
        self._tell(state, self.reasons, self.active_path, **fields)

    def _tell(
        self, what: str, reasons: Iterable[AnyReason], path: Path | None, **fields: str | float
    ) -> None:
        self._effects.append(Tell(what, frozenset(reasons), path, fields))


def _template(tunnel: Tunnel) -> Template:
    return Template(tunnel.local, tunnel.remote, ENDPOINT_REQID)
