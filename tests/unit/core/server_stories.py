"""Tells a story to the server's machine: news in, acts out, in words, under standing rules.

As `stories` for the endpoint. A session's policies are told as where its packets are sent
("to wifi", "hold"), which SAs it may send from ("from 7", "block"), and through which tunnels
else it is answered ("warm lte").
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Final

from orchestrator.core.absence import Patience, SessionPolicy, SessionState
from orchestrator.core.agenda import SLACK
from orchestrator.core.flow_rules import flows_mark
from orchestrator.core.ike import CharonGone, IkeDown, IkeRekeyed, Tunnel, TunnelDown
from orchestrator.core.kernel import (
    MARK_COPIES,
    POLICY_PRIORITY_FLOWS,
    POLICY_PRIORITY_PROBE,
    Direction,
    KernelObject,
    Policy,
    Template,
    Verdict,
)
from orchestrator.core.quantities import (
    IPAddress,
    Reqid,
    Seconds,
    Spi,
    UniqueId,
    host_network,
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
from orchestrator.core.sessions import Sessions
from tests.unit.core.builders import (
    LTE,
    LTE6,
    VIP4,
    WIFI,
    WIFI2,
    Place,
    at,
    mirrored,
    path,
    tunnel,
)

LAPTOP: Final = "laptop@example.org"
REQID: Final = Reqid(7)
POLICY: Final = SessionPolicy(
    detach_after=Seconds(10.0), patience=Patience(asleep_after=Seconds(600.0))
)
"""What stories count on when they wait; others are made of it with `replace`."""
NAT: Final = "198.51.100.2"
"""Where the internet sees the endpoint while it is behind ap1, the Wi-Fi's router."""
NAMES: Final[dict[IPAddress, str]] = {
    ip_address(NAT): "wifi",
    ip_address(WIFI2.pop): "wifi2",
    ip_address(LTE.pop): "lte",
    ip_address(LTE6.pop): "lte6",
}
TICKS_PER_SECOND: Final = 20


def from_endpoint(
    place: Place, number: int, vips: tuple[IPAddress, ...] = (VIP4,), reqid: Reqid = REQID
) -> Tunnel:
    """The server's view of the tunnel `number` of an endpoint at this place."""
    nat = NAT if place is WIFI else None
    return mirrored(tunnel(path(place), number, vips=vips), reqid=reqid, nat=nat)


class ServerStory:
    """One server, its clock, and what was ordered so far."""

    def __init__(self, policy: SessionPolicy = POLICY) -> None:
        self.policy = policy
        self.machine = Sessions(policy)
        self.most = policy.most
        """Sessions that there may be: of those that there are none ends for a new policy."""
        self.now = 0.0
        self.kernel: dict[str, tuple[KernelObject, ...]] = {}
        """What the last ApplySession of each identity ordered."""
        self.carrying: dict[str, Mapping[Spi, int]] = {}
        """What the firewall knows of the tunnels that carry flows."""
        self.in_charon: dict[UniqueId, Tunnel] = {}
        """Admitted tunnels whose end nobody ordered."""
        self.tells: list[Tell] = []

    # News

    def hears(self, event: Event, after: float = 0.0) -> list[str]:
        """Tells the machine; returns what it ordered, in words."""
        self.now += after
        self._charon_says(event)
        effects = self.machine.handle(event, at(self.now))
        for effect in effects:
            self._carry_out(effect)
        for rule in RULES:
            rule(self)
        return [words for words in map(describe, effects) if words]

    def is_configured(self, policy: SessionPolicy) -> list[str]:
        self.policy = policy
        self.most = max(policy.most, len(self.machine.by_identity))
        return self.hears(PolicyChanged(policy))

    def remembers(
        self, vips: tuple[IPAddress, ...] = (VIP4,), identity: str = LAPTOP
    ) -> list[str]:
        return self.hears(Remembered(identity, vips))

    def admits(
        self,
        admitted: Tunnel,
        vips: tuple[IPAddress, ...] = (VIP4,),
        identity: str = LAPTOP,
        *,
        adopted: bool = False,
    ) -> list[str]:
        return self.hears(Admitted(identity, vips, admitted, adopted))

    def probed(self, flip: int, over: Tunnel, after: float = 0.0) -> list[str]:
        """A probe asks for this tunnel; the answer is left out of what is returned."""
        return [
            words
            for words in self.hears(Heard(VIP4, flip, over.spi_out), after)
            if words != "answer"
        ]

    def sleeps(self, flip: int, over: Tunnel, sequence: int = 1) -> list[str]:
        """It says so, out of this tunnel."""
        return self.hears(Heard(VIP4, flip, over.spi_out, sequence, asleep=True))

    def asks(
        self,
        about: Tunnel,
        after: float = 0.0,
        flip: int = 1,
        *,
        within: Seconds | None = None,
        carries: bool = False,
    ) -> list[str]:
        """Whether this tunnel works; and says whether flows take it."""
        asked = HeardWarm(VIP4, flip, about.spi_out, within=within, carries=carries)
        return self.hears(asked, after)

    def mapping(self, of: Tunnel, after: float = 0.0) -> list[str]:
        return self.hears(MappingChanged(of.spi_in), after)

    def named_sa(self, identity: str = LAPTOP) -> Spi | None:
        """Which SA alone may carry what is sent to this endpoint; None: any of its own."""
        (template,) = {policy.template for policy in ways(self.kernel[identity])}
        return template.spi if template is not None else None

    def sa_moved(self, of: Tunnel, to: str, after: float = 0.005) -> list[str]:
        moved = StateMoved(of.spi_out, of.local, ip_address(to), of.reqid)
        return self.hears(moved, after)

    def waits(self, seconds: float) -> list[str]:
        end, ticks, said = self.now + seconds, 0, []
        while (deadline := self.machine.deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            said += self.hears(Tick())
            ticks += 1
            assert ticks <= TICKS_PER_SECOND * (seconds + 1), "the machine spins"
            later = self.machine.deadline()
            assert later is None or later > self.now, "a tick made no progress"
        self.now = end
        return said

    def session(self, identity: str = LAPTOP) -> Session:
        return self.machine.by_identity[identity]

    def state(self, identity: str = LAPTOP) -> SessionState:
        return self.session(identity).state

    def reason(self, identity: str = LAPTOP) -> SessionReason:
        return self.session(identity).reason

    # Acts

    def _carry_out(  # noqa: C901 - one row per effect: the table is the point
        self, effect: Effect
    ) -> None:
        match effect:
            case ApplySession(identity, objects):
                self.kernel[identity] = objects
                if not objects:
                    del self.kernel[identity]
            case Release(vips):
                for vip in vips:
                    session = self.machine.session_of_vip(vip)
                    assert session is not None
                    assert session.active is not None, "released into the hold"
                    assert session.following is None, "released while an SA is rewritten"
            case Terminate(ended):
                active = [s.active.ike for s in self.machine.by_identity.values() if s.active]
                assert ended.ike not in active, "the active tunnel is ended"
                self.in_charon.pop(ended.ike, None)
            case Tell():
                self.tells.append(effect)
            case AnswerProbe(probe, mark):
                self._answers(probe, mark)
            case Carry(identity, slots):
                self.carrying[identity] = slots
            case Shed(vips):
                for vip in vips:
                    session = self.machine.session_of_vip(vip)
                    # One that fell asleep may be over in the same moment.
                    assert session is None or session.state is SessionState.ASLEEP
            case EndFlows(vips):
                for vip in vips:
                    heir = self.machine.session_of_vip(vip)
                    assert heir is None or heir.since == self.now, "its flows go on"

    def _answers(self, probe: Heard | HeardWarm, mark: int) -> None:
        session = self.machine.session_of_vip(probe.vip)
        assert session is not None
        if isinstance(probe, Heard):
            assert mark == 0
            assert probe.asleep == (session.state is SessionState.ASLEEP)
            return
        (way,) = [
            policy.template
            for policy in ways_back(self.kernel[session.identity])
            if policy.selector.mark == mark
            and policy.selector.destination == host_network(probe.vip)
        ]
        assert way is not None
        named = [tunnel for tunnel in session.tunnels if tunnel.spi_out == probe.spi]
        spis = {session.sent_on(tunnel) for tunnel in named}
        assert way.spi in spis, "answered through another tunnel"

    def _charon_says(self, event: Event) -> None:
        match event:
            case Admitted(_, _, admitted):
                self.in_charon[admitted.ike] = admitted
            case CharonGone():
                self.in_charon.clear()
            case TunnelDown(ike) | IkeDown(ike):
                self.in_charon.pop(ike, None)
            case IkeRekeyed(old, new) if old in self.in_charon:
                self.in_charon[new] = replace(self.in_charon.pop(old), ike=new)


def describe(effect: Effect) -> str:
    """An act in a word or two; what is only told to people is left out."""
    match effect:
        case ApplySession(identity, objects):
            whose = "" if identity == LAPTOP else f"{identity}: "
            warm = "".join(f", warm {name}" for name in warm_ways(objects))
            return f"{whose}{sent(objects)}, {taken(objects)}{warm}"
        case Shed():
            return "shed"
        case EndFlows():
            return "end flows"
        case Carry(_, slots):
            return f"carry {len(slots)}"
        case Release():
            return "release"
        case Terminate(ended, reason):
            return f"terminate {ended.ike}: {reason}"
        case AnswerProbe(mark=0):
            return "answer"
        case AnswerProbe():
            return "answer there"
        case Tell():
            return ""


def sent(objects: tuple[KernelObject, ...]) -> str:
    told = set()
    for policy in ways(objects):
        if policy.template is None:
            told.add("hold" if policy.verdict is Verdict.ALLOW else str(policy.verdict))
        else:
            to = policy.template.destination
            assert to is not None
            told.add(f"to {NAMES.get(to, to)}")
    return " or ".join(sorted(told)) or "nothing"


def taken(objects: tuple[KernelObject, ...]) -> str:
    told = {
        "block" if policy.template is None else f"from {policy.template.reqid}"
        for policy in policies(objects, Direction.IN, Direction.FWD)
    }
    return " or ".join(sorted(told)) or "nothing"


def ways(objects: tuple[KernelObject, ...]) -> list[Policy]:
    """Of everything that is for the session."""
    return [p for p in policies(objects, Direction.OUT) if not p.selector.mark]


def ways_back(objects: tuple[KernelObject, ...]) -> list[Policy]:
    """Of single answers."""
    marked = [p for p in policies(objects, Direction.OUT) if p.selector.mark]
    return [policy for policy in marked if policy.priority == POLICY_PRIORITY_PROBE]


def ways_of_flows(objects: tuple[KernelObject, ...]) -> list[Policy]:
    """Of what came out of a tunnel that carries flows."""
    out = policies(objects, Direction.OUT)
    flows = [policy for policy in out if policy.priority == POLICY_PRIORITY_FLOWS]
    return [policy for policy in flows if policy.selector.mark != MARK_COPIES]


def warm_ways(objects: tuple[KernelObject, ...]) -> list[str]:
    """Where they lead, each once, by slot."""
    led = {p.selector.mark: p.template for p in ways_back(objects)}
    found = [template.destination for _, template in sorted(led.items()) if template]
    return [NAMES.get(to, str(to)) for to in found if to is not None]


def policies(objects: tuple[KernelObject, ...], *directions: Direction) -> list[Policy]:
    return [o for o in objects if isinstance(o, Policy) and o.direction in directions]


# The rules


def the_kernel_is_as_the_machine_believes(story: ServerStory) -> None:
    for identity, session in story.machine.by_identity.items():
        assert story.kernel.get(identity, ()) == session.objects()
    assert story.kernel.keys() <= story.machine.by_identity.keys()


def what_a_session_sends_must_come_out_of_its_own_sas(story: ServerStory) -> None:
    for identity, objects in story.kernel.items():
        own = {tunnel.reqid for tunnel in story.session(identity).tunnels}
        for policy in policies(objects, Direction.IN, Direction.FWD):
            if policy.verdict is Verdict.PROTECT:
                assert policy.template is not None
                assert policy.template.reqid in own
            else:
                assert policy.verdict is Verdict.BLOCK


def what_is_sent_to_a_session_goes_into_its_active_tunnel_alone(story: ServerStory) -> None:
    for identity, objects in story.kernel.items():
        session = story.session(identity)
        for policy in ways(objects):
            if policy.template is None:
                assert policy.verdict is Verdict.ALLOW
            else:
                fitting = [t for t in session.tunnels if fits(policy.template, t, session)]
                assert fitting == [session.active]


def a_single_answer_can_take_exactly_the_tunnel_that_has_its_slot(story: ServerStory) -> None:
    for identity, objects in story.kernel.items():
        session = story.session(identity)
        assert {tunnel.child for tunnel in session.tunnels} == session.known.keys()
        slots = [session.slot_of(tunnel) for tunnel in session.tunnels]
        by_mark = {
            probe_mark(slot): tunnel
            for slot, tunnel in zip(slots, session.tunnels, strict=True)
            if slot is not None
        }
        assert by_mark.keys() <= set(map(probe_mark, range(MAX_TUNNELS)))
        assert len(by_mark) == len(slots) - slots.count(None), "two in one slot"
        assert len(ways_back(objects)) == len(by_mark) * len(session.vips)
        for policy in ways_back(objects):
            assert policy.template is not None
            fitting = [t for t in session.tunnels if fits(policy.template, t, session)]
            assert fitting == [by_mark[policy.selector.mark]]


def flows_take_idle_tunnels_alone_and_while_all_else_has_a_way(story: ServerStory) -> None:
    for identity, objects in story.kernel.items():
        session = story.session(identity)
        slots = session.carrying
        assert story.carrying.get(identity, {}) == slots, "the firewall believes otherwise"
        by_mark = {policy.selector.mark: policy for policy in ways_of_flows(objects)}
        assert set(by_mark) == set(map(flows_mark, slots.values()))
        assert not slots or session.state is SessionState.ATTACHED
        for each in session.tunnels:
            if each.spi_in in slots:
                assert each != session.active
                template = by_mark[flows_mark(slots[each.spi_in])].template
                assert template is not None
                assert template.spi == session.sent_on(each)


def fits(template: Template, tunnel: Tunnel, session: Session) -> bool:
    """Whether the kernel may take this tunnel's outbound SA for the template."""
    addresses = (template.source, template.destination) == (tunnel.local, tunnel.remote)
    named = template.spi in (None, session.sent_on(tunnel))
    return addresses and named and template.reqid == tunnel.reqid


def attached_means_that_one_of_its_tunnels_is_active(story: ServerStory) -> None:
    for session in story.machine.by_identity.values():
        attached = session.state is SessionState.ATTACHED
        assert attached == (session.active is not None)
        assert session.active is None or session.active in session.tunnels
        assert attached or session.following is None


def a_virtual_address_has_one_session(story: ServerStory) -> None:
    keys = [subject.key for objects in story.kernel.values() for subject in objects]
    assert len(keys) == len(set(keys))
    for session in story.machine.by_identity.values():
        for vip in session.vips:
            assert story.machine.session_of_vip(vip) is session


def every_admitted_tunnel_is_looked_after_or_ended(story: ServerStory) -> None:
    known = {t.ike for s in story.machine.by_identity.values() for t in s.tunnels}
    assert set(story.in_charon) <= known


def news_finds_exactly_the_tunnels_that_are_there(story: ServerStory) -> None:
    index = story.machine._register.index
    machine = story.machine
    tunnels = [t for session in machine.by_identity.values() for t in session.tunnels]
    assert set(index.by_ike) == {t.ike for t in tunnels}
    assert set(index.inbound) == {t.spi_in for t in tunnels}
    assert set(index.outbound) == {(t.reqid, t.spi_out) for t in tunnels}
    for session in machine.by_identity.values():
        assert set(session.unsettled) <= {t.spi_out for t in session.tunnels}


def a_session_that_changes_in_time_is_looked_at_then(story: ServerStory) -> None:
    deadline = story.machine.deadline()
    for session in story.machine.by_identity.values():
        following = session.next_state(story.policy)
        if following is not None:
            assert deadline is not None
            assert deadline <= following[1]


def there_are_no_more_sessions_than_may_be(story: ServerStory) -> None:
    assert len(story.machine.by_identity) <= story.most


def whoever_is_not_attached_is_absent_in_the_order_of_leaving(story: ServerStory) -> None:
    sessions = story.machine.by_identity
    absent = [name for name in sessions if sessions[name].state is not SessionState.ATTACHED]
    order = list(story.machine._register.absent._left)
    assert sorted(order) == sorted(absent)
    left = [sessions[name].left for name in order]
    assert left == sorted(left)


def what_is_remembered_for_later_is_bounded(story: ServerStory) -> None:
    sessions = story.machine.by_identity.values()
    tunnels = sum(len(session.tunnels) for session in sessions)
    assert len(story.machine._register.agenda) <= 2 * len(sessions) + SLACK
    assert len(story.machine._probes.doomed) <= 50 * max(1, tunnels)


RULES: Final[tuple[Callable[[ServerStory], None], ...]] = (
    the_kernel_is_as_the_machine_believes,
    what_a_session_sends_must_come_out_of_its_own_sas,
    what_is_sent_to_a_session_goes_into_its_active_tunnel_alone,
    a_single_answer_can_take_exactly_the_tunnel_that_has_its_slot,
    flows_take_idle_tunnels_alone_and_while_all_else_has_a_way,
    attached_means_that_one_of_its_tunnels_is_active,
    a_virtual_address_has_one_session,
    every_admitted_tunnel_is_looked_after_or_ended,
    news_finds_exactly_the_tunnels_that_are_there,
    a_session_that_changes_in_time_is_looked_at_then,
    there_are_no_more_sessions_than_may_be,
    whoever_is_not_attached_is_absent_in_the_order_of_leaving,
    what_is_remembered_for_later_is_bounded,
)
