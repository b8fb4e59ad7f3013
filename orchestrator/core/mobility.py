"""The endpoint's deciding machine: news in, acts out.

What it decides about has rules of its own: where we are (`core.places`), the tunnels we have
(`core.tunnels`), those that wait (`core.warmth`), which flows take these (`core.classes`),
where one is wanted (`core.wishes`), the negotiations under way, and those that failed
(`core.attempts`, `core.race`), the probes (`core.vigil`, `core.liveness`), what is too old to
be echoed (`core.echoes`), networks that ask for a sign-in (`core.portal`). `core.knowledge` has
all of them, `core.record` what people are told.

Three decide beside this module, in the order in which they use each other: where the traffic
goes (`core.steering`), what becomes of tunnels and negotiations (`core.negotiation`), what an
answer means, and none (`core.answers`). The rules that join all that, each with the method that
keeps it:

1. The active path is gone: hold, before anything else (`Steering.lose`).
2. Then the cheapest way back, in this order (`Steering.recover`): the same point of presence
   returned: use its tunnel again; a tunnel can be moved: move it, send at once, negotiate
   behind it (`Negotiation.move_ended`, `core.trust`); otherwise negotiate, and flip when the
   tunnel is up.
3. A fresh tunnel takes the traffic when there is none, when the active one was moved or lost
   its IKE_SA, or when its link is better; otherwise it stays warm (`Negotiation.tunnel_up`).
4. The tunnel that lost the traffic is kept to go back to until its successor has proved itself;
   then it still receives for a while, and is deleted (`Steering.retire`, `_tick`).
5. Attached means answered: a probe came back through the tunnel
   (`Answers._of_the_active_one`).
6. A path whose probes stay unanswered is as gone as one without carrier
   (`Answers.give_up_the_active`).
7. charon's absence is no reason to leave a path: probes decide. Its return is checked
   (`Negotiation.charon_gone`, `charon_up`).
8. A negotiation that fails is repeated on the next path, and on the same one after a growing
   pause (`Negotiation.begin_if_needed`, `fail`).
9. Before the device sleeps the server is told, and from then on traffic is held
   (`_falls_asleep`). After a sleep nothing is trusted: it is held until a probe was answered,
   by whichever way (`_woke`, `Steering.doubt`, `core.trust`).
10. Of the best links, as many as the operator allows, each has a tunnel (`core.warmth`), which
    is asked over itself (`_ask_the_warm`), and given up when it does not answer
    (`Answers.give_up_the_silent`).
11. A warm tunnel takes the traffic when the active path is gone (`Steering.recover`), and when
    it is where we would rather be, and answers (`Answers._of_a_warm_one`).
12. While nothing works several negotiations run (`core.race`). The first that ends in a tunnel
    gets the traffic; of several it is the first that is answered (`Answers._of_a_warm_one`).
    Then those are withdrawn that are of no use any more (`Answers._of_the_active_one`).
13. How large a packet each path carries is asked over its tunnel (`core.mtu`).
14. Among links that are equal to the operator, what was measured chooses (`core.choice`,
    `core.quality`; `Answers.choose`).
15. Flows of a class take a warm tunnel (`core.classes`); the server follows (`_bind_flows`).
16. Only tunnels negotiated by us are ours: other people's connections in the same charon are
    left alone (`Negotiation.tunnel_up`, `charon_up`).
"""

from typing import assert_never

from orchestrator.core.answers import Answers
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
from orchestrator.core.knowledge import Knowledge
from orchestrator.core.mobility_events import (
    AttemptAnswered,
    AttemptFailed,
    Effect,
    Event,
    FallsAsleep,
    HideEchoes,
    MaySleep,
    MoveEnded,
    NetworkChanged,
    ProbeAnswered,
    ProbeTooLarge,
    Reason,
    RoamRequested,
    ServersKnown,
    SignalSeen,
    Started,
    State,
    Tell,
    Tick,
    TrafficSeen,
    TrafficStirs,
    Woke,
)
from orchestrator.core.mobility_policy import MobilityPolicy
from orchestrator.core.mobility_view import MobilityView
from orchestrator.core.negotiation import Negotiation
from orchestrator.core.network import Change
from orchestrator.core.paths import Absence
from orchestrator.core.places import place_of
from orchestrator.core.portal_events import PortalAnswered, WayLeft, WayRequested
from orchestrator.core.quantities import Instant
from orchestrator.core.steering import Steering
from orchestrator.core.trust import SLEEP_LIMIT


class Mobility(MobilityView):
    """One endpoint. `handle` and `deadline` are the whole interface; the rest is for status."""

    def __init__(self, policy: MobilityPolicy, first_flip: int = 0) -> None:
        known = Knowledge(policy, first_flip)
        super().__init__(known)
        self._effects: list[Effect] = []
        """Of the news that is taken now."""
        self._steering = Steering(known, self._effects)
        self._negotiation = Negotiation(known, self._steering, self._effects)
        self._answers = Answers(known, self._steering, self._negotiation, self._effects)

    def handle(  # noqa: C901 - one row per event: the table is the point
        self, event: Event, now: Instant
    ) -> tuple[Effect, ...]:
        """Takes one piece of news; returns what to do, in order."""
        known = self._known
        self._effects.clear()
        match event:
            case Started():
                self._started(event, now)
            case NetworkChanged(snapshot):
                self._network(known.places.look(snapshot, self.vips), now)
            case ServersKnown(servers):
                used = (held.path for held in known.tunnels.held)
                self._network(known.places.know(servers, used), now)
            case TunnelUp(tunnel):
                self._negotiation.tunnel_up(tunnel, now)
            case TunnelRekeyed(old, tunnel):
                self._effects += known.tunnels.rekeyed(old, tunnel)
            case TunnelDown(ike, child):
                self._negotiation.tunnel_down(ike, child, now)
            case IkeDown(ike):
                self._negotiation.tunnel_down(ike, None, now)
            case IkeRekeyed(old, new):
                known.tunnels.ike_rekeyed(old, new)
            case IkeMoved():
                known.tunnels.ike_moved(event)
            case CharonUp(version, tunnels):
                self._negotiation.charon_up(version, tunnels, now)
            case CharonGone():
                self._negotiation.charon_gone()
            case AttemptAnswered(connection):
                known.race.answered(connection, now)
            case AttemptFailed():
                self._negotiation.attempt_failed(event, now)
            case MoveEnded():
                self._negotiation.move_ended(event, now)
            case ProbeAnswered():
                self._answers.heard(event, now)
                self._answers.choose(now)
            case ProbeTooLarge(sequence):
                known.mtus.refused(sequence, now)
            case TrafficSeen():
                self._traffic_seen(event, now)
            case TrafficStirs():
                carrying = known.classes.carrying
                ours = [held for held in known.tunnels.held if held not in carrying]
                self._effects += known.vigil.stirred(event, known.watched, ours, now)
            case SignalSeen(link, dbm):
                known.choice.meters.signal_seen(link, dbm, now)
            case RoamRequested(link_name):
                self._roam_requested(link_name, now)
            case FallsAsleep():
                self._falls_asleep(now)
            case Woke():
                self._woke(now)
            case Tick():
                self._tick(now)
            case PortalAnswered() | WayRequested() | WayLeft():
                self._effects += known.portals.hears(event, known.active, now)
            case _:
                assert_never(event)
        self._follow_up(now)
        return tuple(self._effects)

    def deadline(self) -> Instant | None:
        """When to send `Tick` if nothing else happens; None: never."""
        known, active = self._known, self._known.active
        times = [held.retire_at for held in known.tunnels.held if held.retire_at is not None]
        if active is not None:
            times.append(active.liveness.deadline(known.vigil.patience(active)))
        looks = [known.echoes.turns_at, known.portals.deadline]
        if known.trust.watches:
            times += [held.liveness.deadline() for held in known.warmth.warm]
            looks += [known.vigil.next_look, known.carried.next_look]
            times += known.mtus.deadlines(known.sized, known.warmth.warm)
        times += [at for at in looks if at is not None]
        times += known.trust.deadlines()
        times += [attempt.overdue for attempt in known.attempts.under_way]
        if known.can_negotiate:
            times += known.race.deadlines(active, attached=known.record.attached)
        return min(times, default=None)

    def _follow_up(self, now: Instant) -> None:
        """What follows from any news, in the order of the acts: the kernel is told of a tunnel
        before that is asked, and a negotiation begins where all else is of no help."""
        known, record = self._known, self._known.record
        racing = known.wishes.races(known.active)
        for held in known.warmth.look(
            known.active, now, attached=record.attached, racing=racing
        ):
            held.retire_at = Instant(now + self.policy.drain)
        self._bind_flows(now)
        warm = known.warmth.warm if known.trust.watches else ()
        sizes = known.mtus.look(known.sized, warm, record.flip, now)
        self._steering.apply_what_changed()
        self._effects += sizes
        if known.trust.watches:
            self._ask_the_warm(now)
        self._negotiation.begin_if_needed(now)
        self._effects += known.portals.look(known.active, now)
        if known.active is None:
            record.reasons = known.portals.among(record.reasons)
        if known.echoes.turn(now):
            self._effects.append(HideEchoes(known.echoes.stale))
        self._effects += known.vigil.turn(known.watched)

    # Start and network

    def _started(self, event: Started, now: Instant) -> None:
        known, record = self._known, self._known.record
        record.vips = self.policy.static_vips or event.vips
        record.since = now
        known.places.look(event.snapshot, record.vips)
        if event.adopted is not None:
            path = known.places.between(event.adopted.local, event.adopted.remote)
            if path is not None:
                known.trust.doubted = event.doubted
                held = known.tunnels.take(event.adopted, path, now, known.unproven(now))
                held.answered = True
                held.renew = Reason.CHARON_RESTARTED  # unless charon says that it knows it
                self._steering.activate(held, {Reason.ADOPTED}, now)
                return
        known.echoes.lost(now)
        why_none = known.places.why_none()
        self._steering.become(State.DETACHED, {Reason.STARTED, *why_none}, now)
        self._steering.apply()

    def _network(self, what: frozenset[Change], now: Instant) -> None:
        known = self._known
        places = tuple(map(place_of, self.paths))
        known.flaps.look(places, now)
        known.attempts.keep(self.paths)
        known.choice.keep(places)
        known.mtus.keep(places)
        if known.active is not None:
            path = known.places.at(known.active.path)
            if path is None:
                self._steering.lose(what | known.places.why_none(), now)
            else:
                known.active.path = path
        self._steering.apply_what_changed()
        self._negotiation.give_up_the_pathless()
        if known.active is None and what:
            why_none = known.places.why_none()
            if why_none != self.reasons & frozenset(Absence):
                self._steering.become(State.DETACHED, what | why_none, now)
            self._steering.recover(what, now)

    # Sleep

    def _falls_asleep(self, now: Instant) -> None:
        """Rule 9, first half."""
        self._known.trust.asleep_until = Instant(now + SLEEP_LIMIT)
        self._steering.doubt(Reason.FALLING_ASLEEP, now)
        if self._known.active is None:
            self._effects.append(MaySleep())

    def _woke(self, now: Instant) -> None:
        """Rule 9, second half."""
        known = self._known
        known.trust.asleep_until = None
        known.attempts.forgive_all()
        # The server may have sent into the void unaware: to a new flip it sends anew.
        known.record.flips()
        known.record.lost_at = now
        known.echoes.long_lost(now)
        known.warmth.doubt()
        known.mtus.ask_again(now)
        known.choice.doubt()
        self._steering.doubt(Reason.WOKE, now)

    # Time and traffic

    def _tick(self, now: Instant) -> None:
        known = self._known
        asleep_until = known.trust.asleep_until
        if asleep_until is not None and now >= asleep_until:
            self._woke(now)
        for held in known.tunnels.over(now):
            self._negotiation.discard(held)
        self._negotiation.give_up_the_overdue(now)
        watches = known.trust.watches
        if watches:
            self._answers.give_up_the_silent(now)
        active = known.active
        if active is None:
            return
        if known.trust.turn(now):
            self._steering.send_what_waited()
        if self._answers.give_up_the_active(active, now):
            return
        asks = known.vigil.is_due(active, known.warmth.warm if watches else (), now)
        if watches:
            self._effects += known.vigil.look(active, now, asks=asks)
        if asks:
            self._steering.probe(now)

    def _traffic_seen(self, event: TrafficSeen, now: Instant) -> None:
        known = self._known
        known.carried.seen(event, now)
        silent = known.vigil.seen(event, known.active, now)
        if not known.vigil.is_quiet:
            known.mtus.used(known.active, now, silent=silent)
        if silent and known.vigil.may_ask(known.active, now):
            self._steering.probe(now)

    # Beside the tunnel in use

    def _ask_the_warm(self, now: Instant) -> None:
        """Rule 10."""
        known, flip = self._known, self._known.record.flip
        for held in known.warmth.warm:
            if known.vigil.is_due(held, (), now):
                carries = held in known.classes.carrying
                known.carried.asked(held, now)
                self._effects.append(
                    known.vigil.ask(held, flip, now, active=False, carries=carries)
                )

    def _bind_flows(self, now: Instant) -> None:
        """Rule 15."""
        known = self._known
        turn = known.classes.look(known.active, now, trusted=known.trust.watches)
        for way in turn.ways:
            path = way.held.path if way.held is not None else self.active_path
            fields = {"flows": way.flows.name}
            self._effects.append(Tell("flows", frozenset({way.why}), path, fields))
        if turn.left:
            known.record.flips()
        if turn.left or turn.asks:
            self._steering.probe(now)
        known.classes.tell(self.flip, now)
        known.carried.keep(known.classes.carrying, now)
        self._effects += known.carried.look(now)

    # The operator

    def _roam_requested(self, link_name: str | None, now: Instant) -> None:
        known = self._known
        if link_name is None:
            # Wherever it is best: a better link comes first, and this one if that fails.
            known.places.pinned = None
            known.attempts.forgive_all()
            known.choice.penalties.forgive_all()
            known.warmth.ask_at_once(None, now)
            if known.active is not None and self.charon is not None:
                known.active.renew = Reason.OPERATOR
            return
        if all(path.link_name != link_name for path in self.paths):
            why = frozenset({Reason.NO_SUCH_PATH})
            self._effects.append(Tell("roam-refused", why, None, {"link": link_name}))
            return
        known.places.pinned = link_name
        for path in self.paths:
            if path.link_name == link_name:
                known.attempts.forgive(path)
                known.choice.penalties.forgive(place_of(path))
        known.warmth.ask_at_once(link_name, now)
