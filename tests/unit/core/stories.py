"""Tells a story to the endpoint's machine: news in, acts out, in words, under standing rules.

The story carries acts out as `services.driver` does: one after the other, and the outcome of a
move is told before what was ordered after it. Whatever the story, the rules of
`story_rules` hold after every piece of news; a broken one names itself.
"""

from dataclasses import replace
from ipaddress import ip_address
from typing import Final

from orchestrator.core.endpoint_state import EndpointState
from orchestrator.core.ike import (
    CharonGone,
    CharonUp,
    IkeDown,
    IkeFailure,
    IkeRekeyed,
    Tunnel,
    TunnelDown,
    TunnelRekeyed,
    TunnelUp,
)
from orchestrator.core.mobility import Mobility
from orchestrator.core.mobility_events import (
    Abandon,
    Apply,
    AttemptAnswered,
    AttemptFailed,
    Bury,
    Effect,
    Event,
    HideEchoes,
    LookAtTraffic,
    MaySleep,
    MoveEnded,
    MoveTunnel,
    Negotiate,
    NetworkChanged,
    ProbeAnswered,
    Release,
    RememberVips,
    RestartSenders,
    SendProbe,
    Started,
    State,
    Tell,
    Terminate,
    Tick,
    TrafficSeen,
    TrafficStirs,
    WatchTraffic,
)
from orchestrator.core.mobility_policy import MobilityPolicy
from orchestrator.core.paths import LinkChoice, Path
from orchestrator.core.portal_events import (
    AskPortal,
    CloseWay,
    Finding,
    OpenWay,
    PortalAnswered,
)
from orchestrator.core.quantities import IPAddress, Seconds, UniqueId
from tests.unit.core.builders import (
    LTE,
    LTE6,
    SERVER4,
    VIP4,
    WIFI,
    WIFI2,
    WIFI_SECOND,
    Place,
    at,
    snapshot,
    tunnel,
)
from tests.unit.core.story_rules import RULES

POLICY: Final = MobilityPolicy(
    servers=(SERVER4,),
    attempt_limit=Seconds(8.0),
    backoff_min=Seconds(0.5),
    backoff_max=Seconds(30.0),
    probe_interval=Seconds(2.0),
    dead_after=Seconds(2.0),
    choice=LinkChoice(preference=("wlan0", "wlan1", "wwan0")),
)
"""What stories count on when they wait; others are made of it with `replace`."""
NAMES: Final[dict[IPAddress, str]] = {
    ip_address(place.pop): name
    for place, name in (
        (WIFI, "wifi"),
        (WIFI_SECOND, "wifi'"),
        (WIFI2, "wifi2"),
        (LTE, "lte"),
        (LTE6, "lte6"),
    )
}
RTT: Final = 0.02
TICKS_PER_SECOND: Final = 60
"""More than any honest machine needs: a probe each 100 ms, a few retirements, an attempt."""


class EndpointStory:
    """One endpoint, its clock, and what was ordered so far."""

    def __init__(self, policy: MobilityPolicy = POLICY, first_flip: int = 0) -> None:
        self.machine = Mobility(policy, first_flip)
        self.now = 0.0
        self.kernel: EndpointState | None = None
        """What the last Apply ordered."""
        self.applied: list[EndpointState] = []
        self.kernel_moves = True
        """Whether the kernel will carry out a MoveTunnel."""
        self.attempts: dict[str, Negotiate] = {}
        """What charon is negotiating for us, as far as anybody waits for it."""
        self.answered_attempts: set[str] = set()
        self.probe: SendProbe | None = None
        """The latest with the traffic."""
        self.warm_probe: SendProbe | None = None
        """The latest over a warm tunnel."""
        self.question: SendProbe | None = None
        """The latest that asks whether a size is carried."""
        self.received = self.sent = 0
        """What the kernel has counted."""
        self.octets_in = self.octets_out = self.highest = 0
        self.watched = False
        """Whether the kernel is to tell when an SA counts."""
        self._hides_echoes = False
        """What the latest HideEchoes ordered."""
        self.asking: list[AskPortal] = []
        """Through which networks an answer is asked for now."""
        self.way: OpenWay | None = None
        """The one that is open."""
        self.tells: list[Tell] = []
        self.connections: set[str] = set()
        self.in_charon: dict[UniqueId, Tunnel] = {}
        """Our tunnels, as far as charon told of them and nobody ordered their end."""
        self.numbers = 0

    # News

    def hears(self, event: Event, after: float = 0.0) -> list[str]:
        """Tells the machine; returns what it ordered, in the order it is carried out."""
        self.now += after
        return [words for words in map(describe, self.handles(event)) if words]

    def handles(self, event: Event) -> list[Effect]:
        done = self._handle(event)
        for rule in RULES:
            rule(self)
        return done

    def _handle(self, event: Event) -> list[Effect]:
        self._charon_says(event)
        done: list[Effect] = []
        for effect in self.machine.handle(event, at(self.now)):
            done.append(effect)
            outcome = self._carry_out(effect)
            if outcome is not None:
                done += self._handle(outcome)
        return done

    def starts(
        self,
        *places: Place,
        vips: tuple[IPAddress, ...] = (),
        adopted: Tunnel | None = None,
        doubted: bool = False,
    ) -> list[str]:
        return self.hears(Started(snapshot(*places), vips, adopted, doubted))

    def is_at(self, *places: Place, after: float = 0.0) -> list[str]:
        """The network is now exactly these places."""
        return self.hears(NetworkChanged(snapshot(*places)), after)

    def finds_charon(self, *tunnels: Tunnel) -> list[str]:
        return self.hears(CharonUp("5.9.8", tunnels))

    def negotiated(
        self,
        vips: tuple[IPAddress, ...] = (VIP4,),
        after: float = RTT,
        place: Place | None = None,
    ) -> list[str]:
        """charon reports the tunnel that was being negotiated."""
        return self.hears(TunnelUp(self.next_tunnel(vips, place)), after)

    @property
    def attempt(self) -> Negotiate | None:
        """The latest of those that charon is negotiating."""
        return next(reversed(self.attempts.values()), None)

    def attempt_at(self, place: Place | None) -> Negotiate:
        """The one at this place, or the latest."""
        found = (
            each
            for each in reversed(self.attempts.values())
            if place is None or each.path.pop == ip_address(place.pop)
        )
        attempt = next(found, None)
        assert attempt is not None, "nothing is being negotiated"
        return attempt

    def next_tunnel(
        self, vips: tuple[IPAddress, ...] = (VIP4,), place: Place | None = None
    ) -> Tunnel:
        attempt = self.attempt_at(place)
        self.numbers += 1
        return tunnel(attempt.path, self.numbers, attempt.connection, vips)

    def server_answers(self, place: Place | None = None, after: float = RTT) -> list[str]:
        """To a negotiation's first message."""
        attempt = self.attempt_at(place)
        self.answered_attempts.add(attempt.connection)
        return self.hears(AttemptAnswered(attempt.connection), after)

    def fails(
        self,
        why: IkeFailure = IkeFailure.SILENT,
        after: float = 0.0,
        place: Place | None = None,
    ) -> list[str]:
        return self.fails_by_name(self.attempt_at(place).connection, why, after)

    def fails_by_name(
        self, connection: str, why: IkeFailure = IkeFailure.SILENT, after: float = 0.0
    ) -> list[str]:
        return self.hears(AttemptFailed(connection, why, "in the test"), after)

    def answered(self, after: float = RTT) -> list[str]:
        assert self.probe is not None, "no probe was sent"
        return self.hears(ProbeAnswered(self.probe.sequence), after)

    def warm_answered(self, after: float = RTT) -> list[str]:
        """The warm tunnel's latest probe is answered."""
        assert self.warm_probe is not None, "no warm tunnel was asked"
        return self.hears(ProbeAnswered(self.warm_probe.sequence), after)

    def carried(self, after: float = RTT) -> list[str]:
        """The latest padded probe is answered."""
        assert self.question is not None, "no size was asked for"
        return self.hears(ProbeAnswered(self.question.sequence), after)

    def finds(self, finding: Finding, after: float = RTT) -> list[str]:
        """What came of asking through the network that was asked about first."""
        asked = self.asking.pop(0)
        return self.hears(PortalAnswered(asked.number, finding, "in the test"), after)

    def waits(self, seconds: float, *, answering: bool = False) -> list[str]:
        """Time passes; the machine is woken at its deadlines, and probes may be answered."""
        end, ticks, said = self.now + seconds, 0, []
        while (deadline := self.machine.deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            ordered = self.hears(Tick())
            said += ordered
            ticks += 1
            assert ticks <= TICKS_PER_SECOND * (seconds + 1), "the machine spins"
            later = self.machine.deadline()
            assert later is None or later > self.now, "a tick made no progress"
            if answering and "probe" in ordered:
                self.now = min(self.now + RTT, end)
                said += self.answered(after=0.0)
        self.now = end
        return said

    def stirs(self) -> list[str]:
        """The kernel tells that the active tunnel counts, if it was asked to."""
        active = self.machine.active
        assert active is not None
        return self.hears(TrafficStirs(frozenset({active.spi_in}))) if self.watched else []

    def waits_for_an_attempt(self) -> None:
        while self.attempt is None:
            self.waits(0.25)

    def state(self) -> State:
        return self.machine.state

    def reasons(self) -> set[str]:
        return {str(reason) for reason in self.machine.reasons}

    def echoes_hidden(self) -> bool:
        return self._hides_echoes

    def told(self, what: str) -> Tell:
        """The latest of this kind."""
        return next(tell for tell in reversed(self.tells) if tell.what == what)

    # Acts

    def _carry_out(  # noqa: C901 - one row per effect: the table is the point
        self, effect: Effect
    ) -> Event | None:
        match effect:
            case Apply(state):
                self.kernel = state
                self.applied.append(state)
            case MoveTunnel(moving, way):
                assert self.kernel is not None
                ways = (self.kernel.active, self.kernel.probed)
                assert ways == (None, None), "an SA is moved while traffic uses it"
                return MoveEnded(moving, way, self.kernel_moves)
            case SendProbe():
                self._send(effect)
            case Release():
                assert self.holds_nothing, "traffic is released into the hold"
            case Negotiate():
                # Those that were let end, because they had been answered, do not count.
                under_way = len(self.machine._known.attempts.under_way)
                assert under_way <= self.machine.policy.race, "too many negotiations"
                assert effect.connection not in self.connections, "a name is used twice"
                assert effect.path in self.machine.paths
                self.connections.add(effect.connection)
                self.attempts[effect.connection] = effect
            case Abandon(connection):
                assert connection in self.attempts, "another one is abandoned"
                del self.attempts[connection]
            case Terminate(ended):
                if self.machine.active is not None:
                    assert ended.ike != self.machine.active.ike, "the active one is ended"
                self.in_charon.pop(ended.ike, None)
            case Tell():
                self.tells.append(effect)
            case LookAtTraffic(looked_at):
                carrying = {held.tunnel for held in self.machine.classes.carrying}
                assert looked_at in {self.machine.active, *carrying}, "it carries no traffic"
                packets, octets = (self.received, self.sent), (self.octets_in, self.octets_out)
                return TrafficSeen(looked_at, *packets, *octets, self.highest)
            case WatchTraffic(on):
                assert on is not self.watched, "the same is ordered twice"
                self.watched = on
            case HideEchoes(hide):
                assert hide is not self._hides_echoes, "the same is ordered twice"
                self._hides_echoes = hide
            case Bury(buried):
                assert buried != self.machine.active, "the active one is buried"
            case AskPortal(_, way):
                assert way.pop not in [each.path.pop for each in self.asking], "asked twice"
                assert way in self.machine.paths
                self.asking.append(effect)
            case OpenWay():
                assert self.way is None, "two ways at a time"
                self.way = effect
            case CloseWay(number):
                assert self.way is not None
                assert self.way.number == number, "another one is closed"
                self.way = None
            case RememberVips() | MaySleep():
                pass
        return None

    def _send(self, probe: SendProbe) -> None:
        if probe.slot is None:
            assert self.lets_probes_out, "a probe is sent into the hold"
        else:
            assert self.kernel is not None
            assert probe.slot in dict(self.kernel.warm), "a warm probe has no way of its own"
            way = dict(self.kernel.warm)[probe.slot]
            copied = probe.slot in dict(self.kernel.copied).values()
            carries = copied or way in dict(self.kernel.bound).values()
            assert probe.size or probe.carries == carries
        if probe.size:
            self.question = probe
        elif probe.slot is None:
            self.probe = probe
        else:
            self.warm_probe = probe

    @property
    def lets_probes_out(self) -> bool:
        probed = self.kernel.probed if self.kernel is not None else None
        return self.holds_nothing or probed is not None

    @property
    def holds_nothing(self) -> bool:
        return self.kernel is not None and self.kernel.active is not None

    def _charon_says(self, event: Event) -> None:
        match event:
            case TunnelUp(up):
                self._appeared(up)
                self.attempts.pop(up.connection, None)
            case AttemptFailed(connection):
                self.attempts.pop(connection, None)
            case CharonUp(_, tunnels):
                self.attempts.clear()
                self.in_charon.clear()
                for each in tunnels:
                    self._appeared(each)
            case CharonGone():
                self.attempts.clear()
                self.in_charon.clear()
            case TunnelDown(ike) | IkeDown(ike):
                self.in_charon.pop(ike, None)
            case TunnelRekeyed(_, fresh) if fresh.ike in self.in_charon:
                self.in_charon[fresh.ike] = fresh
            case IkeRekeyed(old, new) if old in self.in_charon:
                self.in_charon[new] = replace(self.in_charon.pop(old), ike=new)

    def _appeared(self, up: Tunnel) -> None:
        if up.connection.startswith("orchestrator-"):
            self.in_charon[up.ike] = up


def describe(  # noqa: C901 - one row per effect: the table is the point
    effect: Effect,
) -> str:
    """An act in a word or two; what is only told to people is left out."""
    match effect:
        case Apply(state):
            way = state.active or state.probed
            if way is None or way.source is None:
                return "hold"
            what = "protect" if state.active else "only probes"
            return f"{what} {NAMES.get(way.source, way.source)}"
        case MoveTunnel(_, way):
            return f"move {name(way)}"
        case Negotiate(_, way):
            return f"negotiate {name(way)}"
        case Terminate(ended):
            return f"terminate {ended.ike}"
        case Bury(ended):
            return f"bury {ended.ike}"
        case SendProbe():
            return _describe_probe(effect)
        case RememberVips(vips):
            return f"remember {' '.join(map(str, vips))}"
        case AskPortal(_, way):
            return f"ask about {name(way)}"
        case OpenWay(_, ways):
            return f"open {' '.join(map(name, ways))}"
        case CloseWay(_, why):
            return f"close {why}"
        case (
            Abandon()
            | HideEchoes()
            | LookAtTraffic()
            | MaySleep()
            | Release()
            | RestartSenders()
            | Tell()
            | WatchTraffic()
        ):
            return PLAIN[type(effect)]


def _describe_probe(probe: SendProbe) -> str:
    if probe.asleep:
        return "say asleep"
    if probe.size:
        return f"ask for {probe.size}"
    if probe.carries:
        return "ask and say"
    return "probe" if probe.slot is None else "ask"


PLAIN: Final[dict[type[Effect], str]] = {
    Abandon: "abandon",
    LookAtTraffic: "",
    HideEchoes: "",
    MaySleep: "may sleep",
    Release: "release",
    RestartSenders: "",
    Tell: "",
    WatchTraffic: "",
}


def name(way: Path) -> str:
    return NAMES.get(way.pop, str(way.pop))


def attached(*places: Place, policy: MobilityPolicy = POLICY) -> EndpointStory:
    """A story whose endpoint is attached at the first place, through tunnel 1."""
    story = EndpointStory(policy)
    story.starts(*places)
    story.finds_charon()
    story.negotiated()
    story.answered()
    assert story.machine.state is State.ATTACHED
    return story


def tried_in_vain(times: int) -> EndpointStory:
    """A story whose endpoint found nobody so many times, and waits for the next one."""
    story = EndpointStory()
    story.starts(WIFI)
    story.finds_charon()
    for _ in range(times - 1):
        story.fails()
        story.waits_for_an_attempt()
    story.fails()
    return story
