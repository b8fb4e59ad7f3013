"""One endpoint in a world that does what it likes: the standing rules of `stories` hold.

Every kind of news comes at any time, true, late, doubled and stray, and the daemon is killed
and started again. At the end the world becomes kind, and the endpoint has to attach.
"""

from dataclasses import replace
from ipaddress import ip_address

from hypothesis import strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from orchestrator.core.flow_class import FlowClass, Ports
from orchestrator.core.ike import (
    CharonGone,
    IkeDown,
    IkeFailure,
    IkeMoved,
    IkeRekeyed,
    Tunnel,
    TunnelDown,
    TunnelRekeyed,
    TunnelUp,
)
from orchestrator.core.mobility_events import (
    AttemptAnswered,
    AttemptFailed,
    FallsAsleep,
    MoveEnded,
    ProbeAnswered,
    ProbeTooLarge,
    RoamRequested,
    ServersKnown,
    SignalSeen,
    State,
    Tick,
    TrafficStirs,
    Woke,
)
from orchestrator.core.mobility_policy import MobilityPolicy
from orchestrator.core.paths import LinkChoice, Servers
from orchestrator.core.portal import PortalPolicy
from orchestrator.core.portal_events import (
    Finding,
    PortalAnswered,
    WayLeft,
    WayRequested,
)
from orchestrator.core.quantities import IPAddress, LinkIndex, Seconds, Spi, UniqueId
from tests.unit.core.builders import (
    LTE,
    LTE6,
    SERVER4,
    SERVER6,
    VIP4,
    VIP6,
    WIFI,
    WIFI2,
    WIFI_SECOND,
    Place,
    path,
    tunnel,
)
from tests.unit.core.stories import POLICY, EndpointStory

FLIPS_PER_RUN = 65536
TRANSLATED: IPAddress = ip_address("2001:db8:64ff::203.0.113.10")
OTHER_VIP: IPAddress = ip_address("10.99.0.8")

VOICE = FlowClass("voice", ("ww*", "wlan1"), dscp=46)
CALLS = FlowClass("calls", ("wlan*", "ww*"), redundant=True)
BULK = FlowClass("bulk", ("wlan*",), ports=(Ports(873, 873),))

places = strategies.builds(
    replace,
    strategies.sampled_from((WIFI, WIFI_SECOND, WIFI2, LTE, LTE6)),
    up=strategies.sampled_from((True, True, True, False)),
    usable=strategies.sampled_from((True, True, True, False)),
    routed=strategies.sampled_from((True, True, True, False)),
)
networks = strategies.lists(
    places, max_size=4, unique_by=lambda place: (place.index, place.pop)
).map(tuple)
policies = strategies.sampled_from(
    (
        POLICY,
        replace(POLICY, servers=(SERVER6, SERVER4)),
        replace(POLICY, choice=LinkChoice(), servers=(SERVER4, SERVER6)),
        replace(POLICY, static_vips=(VIP4, VIP6)),
        replace(POLICY, race=1, warm_links=2),
        replace(POLICY, warm_links=2, portal=PortalPolicy(frozenset({4, 6}))),
        replace(POLICY, portal=PortalPolicy(frozenset({4}), Seconds(30.0))),
        replace(POLICY, warm_links=3, servers=(SERVER6, SERVER4)),
        replace(POLICY, warm_links=2, seeks_mtu=True),
        replace(POLICY, warm_links=3, lossy=0.2, choice=LinkChoice(metered=("wwan0",))),
        replace(POLICY, flows=(VOICE, BULK)),
        replace(POLICY, flows=(CALLS, BULK)),
        replace(POLICY, warm_links=2, servers=(SERVER4, SERVER6), flows=(VOICE, BULK)),
    )
)
given_vips = strategies.sampled_from(
    ((VIP4,), (VIP4,), (VIP4, VIP6), (VIP6, VIP4), (OTHER_VIP,), (ip_address(LTE.pop),), ())
)
addresses = strategies.sampled_from(
    (VIP4, *(ip_address(place.pop) for place in (WIFI, WIFI2, LTE, LTE6)))
)
choice = strategies.integers(0, 20)


class EndpointInAnyWorld(RuleBasedStateMachine):
    @initialize(policy=policies, network=networks)
    def begin(self, policy: MobilityPolicy, network: tuple[Place, ...]) -> None:
        self.policy = policy
        self.network = network
        self.story = EndpointStory(policy)
        self.runs = 0
        self.charon: dict[UniqueId, Tunnel] = {}
        """What charon itself would list; it outlives our daemon and its VICI connection."""
        self.old_connections = ["orchestrator-0-1"]
        self.old_probes = [1]
        self.story.starts(*network)

    # The network

    @rule(network=networks)
    def the_network_changes(self, network: tuple[Place, ...]) -> None:
        self.network = network
        self.story.is_at(*network)

    @rule(gateway=strategies.sampled_from(("192.168.10.1", "192.168.10.9")))
    def a_gateway_changes(self, gateway: str) -> None:
        self.network = tuple(
            replace(place, gateway=gateway) if place.link == "wlan0" else place
            for place in self.network
        )
        self.story.is_at(*self.network)

    @rule(
        everywhere=strategies.sampled_from(((SERVER4,), (SERVER6, SERVER4), ())),
        over_lte=strategies.sampled_from((None, (SERVER6,), (TRANSLATED, SERVER4))),
    )
    def the_server_is_elsewhere(
        self, everywhere: tuple[IPAddress, ...], over_lte: tuple[IPAddress, ...] | None
    ) -> None:
        before = self.story.machine.active_path
        lte = {LinkIndex(LTE.index): over_lte} if over_lte else {}
        self.story.hears(ServersKnown(Servers(everywhere, lte)))
        assert self.story.machine.active_path == before or before is None

    @rule(seconds=strategies.sampled_from((0.05, 0.3, 1.1, 2.5, 14.0, 40.0)))
    def time_goes_by(self, seconds: float) -> None:
        self.story.waits(seconds)

    @rule(seconds=strategies.sampled_from((0.5, 5.0, 40.0)))
    def time_goes_by_on_a_good_path(self, seconds: float) -> None:
        self.story.waits(seconds, answering=True)

    @rule(seconds=strategies.sampled_from((2.0, 700.0, 30000.0)))
    def the_device_sleeps(self, seconds: float) -> None:
        self.story.hears(Woke(Seconds(seconds)), after=seconds)

    @rule()
    def the_device_is_about_to_sleep(self) -> None:
        self.story.hears(FallsAsleep())
        assert self.story.state() is not State.ATTACHED

    @precondition(lambda self: self.story.asking)
    @rule(finding=strategies.sampled_from(Finding))
    def a_network_answers(self, finding: Finding) -> None:
        self.story.finds(finding)

    @rule(finding=strategies.sampled_from(Finding))
    def a_network_answers_unasked(self, finding: Finding) -> None:
        self.story.hears(PortalAnswered(0, finding))

    @rule(link=strategies.sampled_from((None, "wlan0", "wwan0", "nosuch0")))
    def somebody_wants_to_sign_in(self, link: str | None) -> None:
        self.story.hears(WayRequested(link))

    @rule(number=strategies.integers(0, 3))
    def somebody_has_signed_in(self, number: int) -> None:
        self.story.hears(WayLeft(number))

    @rule(works=strategies.booleans())
    def the_kernel_moves_sas_or_not(self, *, works: bool) -> None:
        self.story.kernel_moves = works

    @rule(received=strategies.integers(0, 9), sent=strategies.integers(0, 9))
    def packets_come_and_go(self, received: int, sent: int) -> None:
        self.story.received += received
        self.story.sent += sent

    @rule(ours=strategies.booleans())
    def the_kernel_tells_that_an_sa_counts(self, *, ours: bool) -> None:
        """Late as well, when it was not asked to any more."""
        active = self.story.machine.active
        spi = active.spi_out if ours and active is not None else Spi(0xDEAD_0001)
        self.story.hears(TrafficStirs(frozenset({spi})))

    @rule(link=strategies.sampled_from((3, 5, 77)), dbm=strategies.integers(-100, -20))
    def a_radio_is_heard(self, link: int, dbm: int) -> None:
        self.story.hears(SignalSeen(LinkIndex(link), dbm))

    # Answers

    @rule()
    def a_warm_tunnel_answers(self) -> None:
        if self.story.warm_probe is not None:
            self.story.warm_answered()

    @rule(late=strategies.sampled_from((0.0, 0.02, 0.5)), carried=strategies.booleans())
    def a_size_is_answered_for(self, *, late: float, carried: bool) -> None:
        if self.story.question is not None:
            sequence = self.story.question.sequence
            outcome = ProbeAnswered(sequence) if carried else ProbeTooLarge(sequence)
            self.story.hears(outcome, after=late)

    @rule(back=choice, agreed=strategies.sampled_from((None, 1.0, 8.0, 60.0)))
    def a_probe_is_answered(self, back: int, agreed: float | None) -> None:
        if self.story.probe is not None:
            self.old_probes.append(self.story.probe.sequence)
        sequence = self.old_probes[-1 - back % len(self.old_probes)]
        self.story.hears(ProbeAnswered(sequence, None if agreed is None else Seconds(agreed)))

    @precondition(lambda self: self.story.attempts)
    @rule(which=choice)
    def the_server_answers_a_negotiation(self, which: int) -> None:
        connection = self._one_under_way(which)
        self.story.answered_attempts.add(connection)
        self.story.hears(AttemptAnswered(connection), after=0.01)

    @precondition(lambda self: self.story.attempts)
    @rule(which=choice, vips=given_vips)
    def a_negotiation_succeeds(self, which: int, vips: tuple[IPAddress, ...]) -> None:
        connection = self._one_under_way(which)
        self.old_connections.append(connection)
        self.story.numbers += 1
        path = self.story.attempts[connection].path
        fresh = tunnel(path, self.story.numbers, connection, vips)
        self.charon[fresh.ike] = fresh
        self.story.hears(TunnelUp(fresh), after=0.02)

    @precondition(lambda self: self.story.attempts)
    @rule(which=choice, why=strategies.sampled_from(IkeFailure))
    def a_negotiation_fails(self, which: int, why: IkeFailure) -> None:
        connection = self._one_under_way(which)
        self.old_connections.append(connection)
        self.story.fails_by_name(connection, why, after=0.02)

    @rule(back=choice, place=strategies.sampled_from((WIFI, LTE)))
    def a_tunnel_comes_too_late(self, back: int, place: Place) -> None:
        connection = self.old_connections[-1 - back % len(self.old_connections)]
        if connection in self.story.attempts:
            return
        self.story.numbers += 1
        late = tunnel(path(place), self.story.numbers, connection)
        self.charon[late.ike] = late
        self.story.hears(TunnelUp(late))

    @rule()
    def somebody_elses_tunnel_comes_up(self) -> None:
        self.story.hears(TunnelUp(tunnel(path(WIFI), 9000, "office-vpn")))

    @rule(back=choice, why=strategies.sampled_from(IkeFailure))
    def a_failure_comes_too_late(self, back: int, why: IkeFailure) -> None:
        connection = self.old_connections[-1 - back % len(self.old_connections)]
        if connection not in self.story.attempts:
            self.story.hears(AttemptFailed(connection, why, "late"))

    @rule(place=strategies.sampled_from((WIFI, LTE)), moved=strategies.booleans())
    def a_move_ends_that_nobody_ordered(self, place: Place, *, moved: bool) -> None:
        self.story.hears(MoveEnded(tunnel(path(place), 8000), path(place), moved))

    # charon

    @rule()
    def charon_crashes(self) -> None:
        self.charon.clear()
        self.story.hears(CharonGone("crashed"))

    @rule()
    def the_connection_to_charon_breaks(self) -> None:
        self.story.hears(CharonGone("vici closed"))

    @rule()
    def charon_is_found(self) -> None:
        self.story.finds_charon(*self._list_of_charon())

    @precondition(lambda self: self.charon)
    @rule(which=choice)
    def a_tunnel_ends(self, which: int) -> None:
        ike = self._one_of_charon(which)
        ended = self.charon.pop(ike)
        event = TunnelDown(ike, ended.child) if which % 2 else IkeDown(ike)
        self.story.hears(event)

    @rule()
    def an_unknown_tunnel_ends(self) -> None:
        self.story.hears(TunnelDown(UniqueId(7777), UniqueId(7778)))
        self.story.hears(IkeDown(UniqueId(7777)))
        self.story.hears(IkeRekeyed(UniqueId(7777), UniqueId(7779)))

    @precondition(lambda self: self.charon)
    @rule(which=choice)
    def a_child_sa_is_rekeyed(self, which: int) -> None:
        ike = self._one_of_charon(which)
        old = self.charon[ike]
        self.story.numbers += 1
        number = self.story.numbers
        fresh = replace(
            old,
            child=UniqueId(3000 + number),
            spi_in=Spi(0xF000_0000 + number),
            spi_out=Spi(0x6000_0000 + number),
        )
        self.charon[ike] = fresh
        if which % 3 == 0:  # the other side did, too, and lost
            lost = replace(
                fresh,
                child=UniqueId(5000 + number),
                spi_in=Spi(0xE000_0000 + number),
                spi_out=Spi(0x5000_0000 + number),
            )
            self.story.hears(TunnelRekeyed(old.child, lost))
        self.story.hears(TunnelRekeyed(old.child, fresh))
        spis = {held.tunnel.spi_in for held in self.story.machine._known.tunnels.held}
        assert 0xE000_0000 + number not in spis, "the redundant one is believed in"

    @precondition(lambda self: self.charon)
    @rule(which=choice)
    def an_ike_sa_is_rekeyed(self, which: int) -> None:
        ike = self._one_of_charon(which)
        self.story.numbers += 1
        fresh = UniqueId(4000 + self.story.numbers)
        self.charon[fresh] = replace(self.charon.pop(ike), ike=fresh)
        self.story.hears(IkeRekeyed(ike, fresh))

    @precondition(lambda self: self.charon)
    @rule(which=choice, local=addresses, port=strategies.sampled_from((4500, 4501)))
    def an_ike_sa_moves(self, which: int, local: IPAddress, port: int) -> None:
        ike = self._one_of_charon(which)
        known = self.charon[ike]
        if local.version == known.remote.version:
            self.charon[ike] = replace(known, local=local, local_port=port)
            self.story.hears(IkeMoved(ike, local, port, known.remote, 4500))

    # The operator

    @rule(link=strategies.sampled_from((None, "wlan0", "wlan1", "wwan0", "eth7")))
    def a_roam_is_asked_for(self, link: str | None) -> None:
        self.story.hears(RoamRequested(link))

    @rule()
    def a_tick_comes_early(self) -> None:
        self.story.hears(Tick())

    @rule()
    def the_daemon_is_killed_and_started(self) -> None:
        """What the kernel has is what the successor finds."""
        before = self.story
        self.runs += 1
        self.story = EndpointStory(self.policy, self.runs * FLIPS_PER_RUN)
        self.story.now = before.now
        self.story.numbers = before.numbers
        self.story.connections = before.connections
        self.story.kernel_moves = before.kernel_moves
        found = before.machine.active
        if found is not None:
            found = replace(found, ike=UniqueId(0), child=UniqueId(0), connection="")
        doubted = before.kernel is not None and before.kernel.probed is not None
        said = self.story.starts(
            *self.network, vips=before.machine.vips, adopted=found, doubted=doubted
        )
        if found is not None:
            assert "hold" not in said, "an adopted tunnel was held"
            assert before.kernel is not None
            assert self.story.kernel is not None
            assert self.story.kernel.active == before.kernel.active
            assert self.story.kernel.probed == before.kernel.probed

    # At the end

    def teardown(self) -> None:
        """With a network, charon and answers, it attaches, and only one tunnel is left."""
        if not hasattr(self, "story"):
            return
        self.story.kernel_moves = True
        self.story.hears(CharonGone("restarted"))
        self.charon.clear()
        self.story.hears(ServersKnown(Servers(self.policy.servers)))
        self.story.is_at(WIFI)
        self.story.finds_charon()
        end = self.story.now + 90
        while self.story.now < end:
            if self.story.attempt is not None:
                self.story.negotiated()
            if self.story.machine.state is State.MOVING:
                self.story.answered()
            self.story.waits(0.25, answering=True)
        assert self.story.machine.state is State.ATTACHED
        assert self.story.machine.active_path == path(WIFI)
        assert self.story.attempt is None
        assert len(self.story.in_charon) == 1

    # Small things

    def _one_under_way(self, which: int) -> str:
        return sorted(self.story.attempts)[which % len(self.story.attempts)]

    def _one_of_charon(self, which: int) -> UniqueId:
        return sorted(self.charon)[which % len(self.charon)]

    def _list_of_charon(self) -> list[Tunnel]:
        return list(self.charon.values())


TestEndpointInAnyWorld = EndpointInAnyWorld.TestCase
