"""What an endpoint wants in its kernel, told by a small reading of rules, routes and policies.

The reading (`outcome`) follows a packet the way the kernel would: rules by priority, the
longest prefix in the first table that has a route, then the output policy.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, strategies

from orchestrator.core.endpoint_state import (
    LAST_RESORT,
    SERVICE,
    EndpointState,
    Inner,
    endpoint_objects,
    lets_only_probes_out,
    ways_out,
)
from orchestrator.core.firewall import endpoint_ruleset
from orchestrator.core.kernel import (
    ENDPOINT_REQID,
    MARK_TO_SENDERS,
    MARK_UNDERLAY,
    RULE_PRIORITIES,
    TABLE_INNER,
    TABLE_NOWHERE,
    TABLE_PATHS,
    TUN_ENDPOINT,
    Address,
    Direction,
    KernelObject,
    Policy,
    Route,
    RouteKind,
    Rule,
    Ruleset,
    Selector,
    Template,
    Tun,
    Verdict,
)
from orchestrator.core.paths import Path
from orchestrator.core.quantities import IPAddress, IPNetwork, TableId, host_network
from tests.unit.core.builders import (
    LTE,
    LTE6,
    SERVER4,
    SERVER6,
    VIP4,
    VIP6,
    WIFI,
    WIFI_SECOND,
    path,
)

WIFI_TEMPLATE = Template(ip_address(WIFI.pop), SERVER4, ENDPOINT_REQID)
ANY_TEMPLATE = Template(None, None, ENDPOINT_REQID)
TABLES: dict[Path, TableId] = {
    path(WIFI): TableId(11101),
    path(LTE): TableId(11102),
    path(LTE6): TableId(11103),
}
PEER4 = ip_address("10.51.1.2")
PEER6 = ip_address("fd00:51::2")
ELSEWHERE = ip_address("198.18.0.1")
SPLIT = Inner(prefixes=(ip_network("10.50.0.0/15"),))
OVERLAPPING = Inner(prefixes=(ip_network("192.0.0.0/8"), ip_network("10.50.0.0/15")))
"""The service's address is in one of them."""

MAIN = TableId(254)
MAIN_ROUTES = (
    Route(MAIN, ip_network("0.0.0.0/0"), link="wlan0", gateway=ip_address(WIFI.gateway or "")),
    Route(MAIN, ip_network("::/0"), link="wwan0", gateway=ip_address(LTE6.gateway or "")),
    Route(MAIN, ip_network("192.168.10.0/24"), link="wlan0"),
)
"""What DHCP and the kernel put into the main table, so that leaks have somewhere to go."""
PRINTER = ip_address("192.168.10.40")


def state(
    *vips: IPAddress, active: Template | None = None, inner: Inner = Inner()
) -> EndpointState:
    return EndpointState(inner, vips, TABLES, active)


@dataclass(frozen=True, slots=True)
class Packet:
    destination: IPAddress
    source: IPAddress | None = None
    """None: the socket has not chosen one yet."""
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    link: str | None
    """None: unreachable."""
    table: TableId | None
    verdict: Verdict | None = None
    """None: no policy of ours speaks about it."""


def outcome(objects: Iterable[KernelObject], packet: Packet) -> Outcome:
    """Where the packet goes in a kernel that looks like this."""
    everything = (*objects, *MAIN_ROUTES)
    rules = [o for o in everything if isinstance(o, Rule)]
    routes = [o for o in everything if isinstance(o, Route)]
    main = Rule(32766, packet.destination.version, MAIN)
    for rule in sorted((*rules, main), key=lambda rule: rule.priority):
        if not matches(rule, packet):
            continue
        fitting = [
            route
            for route in routes
            if route.table == rule.table
            and packet.destination.version == route.destination.version
            and packet.destination in route.destination
            and (
                rule.suppress_prefixlength is None
                or route.destination.prefixlen > rule.suppress_prefixlength
            )
        ]
        if not fitting:
            continue
        best = max(fitting, key=lambda route: (route.destination.prefixlen, -route.metric))
        if best.kind is RouteKind.UNREACHABLE:
            return Outcome(None, best.table)
        source = packet.source or best.source
        return Outcome(best.link, best.table, verdict(everything, source, packet.destination))
    return Outcome(None, None)


def matches(rule: Rule, packet: Packet) -> bool:
    if rule.version != packet.destination.version:
        return False
    if rule.source is not None and (packet.source is None or packet.source not in rule.source):
        return False
    if rule.mark is None:
        return True
    return packet.marked != rule.mark_inverted


def verdict(
    objects: Iterable[KernelObject],
    source: IPAddress | None,
    destination: IPAddress,
    direction: Direction = Direction.OUT,
) -> Verdict | None:
    speaking = [
        policy
        for policy in objects
        if isinstance(policy, Policy)
        and policy.direction is direction
        and not policy.selector.mark
        and source is not None
        and contains(policy.selector.source, source)
        and contains(policy.selector.destination, destination)
    ]
    if not speaking:
        return None
    return min(speaking, key=lambda policy: policy.priority).verdict


def contains(network: IPNetwork, address: IPAddress) -> bool:
    return network.version == address.version and address in network


class TestFullTunnel:
    def test_everything_goes_to_the_tun_as_the_virtual_address(self) -> None:
        objects = endpoint_objects(state(VIP4, active=WIFI_TEMPLATE))
        inside = Outcome(TUN_ENDPOINT, TABLE_INNER, Verdict.PROTECT)
        assert outcome(objects, Packet(PEER4)) == inside
        assert outcome(objects, Packet(ELSEWHERE)) == inside
        assert outcome(objects, Packet(PEER4, source=VIP4)) == inside

    def test_is_held_while_there_is_no_path(self) -> None:
        objects = endpoint_objects(state(VIP4))
        held = Outcome(TUN_ENDPOINT, TABLE_INNER, Verdict.ALLOW)
        assert outcome(objects, Packet(PEER4)) == held
        assert outcome(objects, Packet(ELSEWHERE, source=VIP4)) == held

    @pytest.mark.parametrize("inner", [Inner(), SPLIT, OVERLAPPING])
    def test_while_the_path_is_doubted_only_the_service_is_reached(self, inner: Inner) -> None:
        doubted = replace(state(VIP4, inner=inner), probed=WIFI_TEMPLATE)
        objects = endpoint_objects(doubted)
        assert outcome(objects, Packet(PEER4)).verdict is Verdict.ALLOW
        to_service = Packet(SERVICE[4], source=VIP4)
        assert outcome(objects, to_service).verdict is Verdict.PROTECT
        held = endpoint_objects(replace(doubted, probed=None))
        assert outcome(held, to_service).verdict is Verdict.ALLOW

    def test_without_a_v6_address_v6_is_unreachable_and_does_not_leak(self) -> None:
        objects = endpoint_objects(state(VIP4, active=WIFI_TEMPLATE))
        assert outcome(objects, Packet(PEER6)) == Outcome(None, TABLE_INNER)

    def test_with_both_addresses_both_families_are_inside(self) -> None:
        objects = endpoint_objects(state(VIP4, VIP6, active=WIFI_TEMPLATE))
        assert outcome(objects, Packet(PEER4)).verdict is Verdict.PROTECT
        assert outcome(objects, Packet(PEER6)).verdict is Verdict.PROTECT

    def test_before_the_first_virtual_address_nothing_leaves(self) -> None:
        objects = endpoint_objects(state())
        assert outcome(objects, Packet(PEER4)) == Outcome(None, TABLE_INNER)
        assert outcome(objects, Packet(PEER6)) == Outcome(None, TABLE_INNER)

    def test_reaches_attached_networks_directly(self) -> None:
        objects = endpoint_objects(state(VIP4, active=WIFI_TEMPLATE))
        assert outcome(objects, Packet(PRINTER)) == Outcome("wlan0", MAIN)

    def test_does_not_reach_them_when_the_operator_forbids(self) -> None:
        strict = Inner(local_networks=False)
        objects = endpoint_objects(state(VIP4, active=WIFI_TEMPLATE, inner=strict))
        assert outcome(objects, Packet(PRINTER)).table == TABLE_INNER

    def test_the_virtual_address_is_never_used_on_an_attached_network(self) -> None:
        objects = endpoint_objects(state(VIP4, active=WIFI_TEMPLATE))
        inside = Outcome(TUN_ENDPOINT, TABLE_INNER, Verdict.PROTECT)
        assert outcome(objects, Packet(PRINTER, source=VIP4)) == inside


class TestSplitTunnel:
    def test_only_the_prefixes_go_inside(self) -> None:
        objects = endpoint_objects(state(VIP4, active=WIFI_TEMPLATE, inner=SPLIT))
        assert outcome(objects, Packet(PEER4)) == Outcome(
            TUN_ENDPOINT, TABLE_INNER, Verdict.PROTECT
        )
        assert outcome(objects, Packet(ELSEWHERE)) == Outcome("wlan0", MAIN)
        assert outcome(objects, Packet(PEER6)) == Outcome("wwan0", MAIN)

    def test_the_prefixes_are_held_while_there_is_no_path(self) -> None:
        objects = endpoint_objects(state(VIP4, inner=SPLIT))
        assert outcome(objects, Packet(PEER4)) == Outcome(
            TUN_ENDPOINT, TABLE_INNER, Verdict.ALLOW
        )

    def test_prefixes_never_leave_beside_the_tunnel(self) -> None:
        both = Inner(prefixes=(ip_network("10.50.0.0/15"), ip_network("fd00:51::/32")))
        before = endpoint_objects(state(inner=both))
        assert outcome(before, Packet(PEER4)) == Outcome(None, TABLE_INNER)
        assert outcome(before, Packet(PEER6)) == Outcome(None, TABLE_INNER)
        v4_only = endpoint_objects(state(VIP4, active=WIFI_TEMPLATE, inner=both))
        assert outcome(v4_only, Packet(PEER6)) == Outcome(None, TABLE_INNER)
        without_tun = [o for o in v4_only if getattr(o, "link", None) != TUN_ENDPOINT]
        assert outcome(without_tun, Packet(PEER4)) == Outcome(None, TABLE_INNER)
        assert outcome(without_tun, Packet(ELSEWHERE)) == Outcome("wlan0", MAIN)

    def test_the_virtual_address_outside_the_prefixes_is_blocked(self) -> None:
        objects = endpoint_objects(state(VIP4, active=WIFI_TEMPLATE, inner=SPLIT))
        assert outcome(objects, Packet(ELSEWHERE, source=VIP4)).verdict is Verdict.BLOCK
        for direction in (Direction.IN, Direction.FWD):
            assert verdict(objects, ELSEWHERE, VIP4, direction) is Verdict.BLOCK

    def test_the_probes_address_is_inside_whatever_the_prefixes(self) -> None:
        objects = endpoint_objects(state(VIP4, active=WIFI_TEMPLATE, inner=SPLIT))
        probe = Packet(SERVICE[4], source=VIP4)
        assert outcome(objects, probe).verdict is Verdict.PROTECT

    @pytest.mark.parametrize("version", [4, 6])
    def test_a_prefix_of_everything_takes_everything_of_its_family(self, version: int) -> None:
        prefix = ip_network("0.0.0.0/0" if version == 4 else "::/0")
        vip, peer = (VIP4, PEER4) if version == 4 else (VIP6, PEER6)
        inner = Inner(prefixes=(prefix,))
        objects = endpoint_objects(state(VIP4, VIP6, active=WIFI_TEMPLATE, inner=inner))
        policies = {o.key: o for o in objects}.values()  # as `plan` takes them: by key
        assert outcome(policies, Packet(peer)).verdict is Verdict.PROTECT
        assert verdict(policies, peer, vip, Direction.IN) is Verdict.PROTECT


class TestUnderlay:
    @pytest.mark.parametrize("inner", [Inner(), SPLIT, Inner(local_networks=False)])
    @pytest.mark.parametrize("active", [None, WIFI_TEMPLATE])
    def test_ike_and_esp_leave_by_the_table_of_their_path(
        self, inner: Inner, active: Template | None
    ) -> None:
        objects = endpoint_objects(state(VIP4, VIP6, active=active, inner=inner))
        for way, table in TABLES.items():
            packet = Packet(way.server, source=way.pop, marked=True)
            assert outcome(objects, packet) == Outcome(way.link_name, table)

    @pytest.mark.parametrize("inner", [Inner(), SPLIT])
    def test_without_a_source_they_go_to_main_and_never_inside(self, inner: Inner) -> None:
        objects = endpoint_objects(state(VIP4, VIP6, active=WIFI_TEMPLATE, inner=inner))
        for server in (SERVER4, SERVER6):
            assert outcome(objects, Packet(server, marked=True)).table == MAIN

    def test_two_server_addresses_of_a_family_share_a_table(self) -> None:
        second = ip_address("203.0.113.11")
        tables = {path(WIFI): TableId(11101), path(WIFI, second): TableId(11101)}
        objects = endpoint_objects(EndpointState(Inner(), (VIP4,), tables))
        by_key = {o.key: o for o in objects}
        rules = [o for o in by_key.values() if isinstance(o, Rule) and o.table == 11101]
        assert len(rules) == 1

    def test_every_path_rule_stands_above_the_rule_for_other_underlay_packets(self) -> None:
        many = {
            path(LTE): TableId(TABLE_PATHS[0]),
            path(WIFI): TableId(TABLE_PATHS[60]),
            path(WIFI_SECOND): TableId(TABLE_PATHS[-1]),
        }
        objects = endpoint_objects(EndpointState(Inner(), (VIP4,), many, WIFI_TEMPLATE))
        for way, table in many.items():
            packet = Packet(way.server, source=way.pop, marked=True)
            assert outcome(objects, packet) == Outcome(way.link_name, table)


class TestWhatASuccessorFinds:
    """The policies of warm tunnels stand beside the one that leads the traffic."""

    WARM = ((0, Template(ip_address(LTE.pop), SERVER4, ENDPOINT_REQID)),)

    @pytest.mark.parametrize("inner", [Inner(), SPLIT])
    def test_the_way_out_is_the_traffics(self, inner: Inner) -> None:
        left = endpoint_objects(
            replace(state(VIP4, active=WIFI_TEMPLATE, inner=inner), warm=self.WARM)
        )
        assert {policy.template for policy in ways_out(left)} == {WIFI_TEMPLATE}
        assert not lets_only_probes_out(left)

    def test_there_is_none_while_the_traffic_is_held(self) -> None:
        left = endpoint_objects(replace(state(VIP4), warm=self.WARM))
        assert ways_out(left) == ()
        assert lets_only_probes_out(left)

    @pytest.mark.parametrize("inner", [Inner(), SPLIT])
    def test_while_the_path_is_doubted_only_probes_are_let_out(self, inner: Inner) -> None:
        doubted = replace(state(VIP4, inner=inner), probed=WIFI_TEMPLATE, warm=self.WARM)
        left = endpoint_objects(doubted)
        assert {policy.template for policy in ways_out(left)} == {WIFI_TEMPLATE}
        assert lets_only_probes_out(left)


class TestPolicies:
    @pytest.mark.parametrize("active", [None, WIFI_TEMPLATE])
    def test_nothing_for_the_virtual_address_is_taken_unprotected(
        self, active: Template | None
    ) -> None:
        objects = endpoint_objects(state(VIP4, VIP6, active=active))
        for vip, peer in ((VIP4, PEER4), (VIP6, PEER6)):
            for direction in (Direction.IN, Direction.FWD):
                assert verdict(objects, peer, vip, direction) is Verdict.PROTECT

    def test_what_comes_in_may_come_over_any_path_but_only_with_our_reqid(self) -> None:
        objects = endpoint_objects(state(VIP4, VIP6, active=WIFI_TEMPLATE))
        accepting = [
            policy.template
            for policy in objects
            if isinstance(policy, Policy)
            and policy.direction is not Direction.OUT
            and not policy.selector.mark
        ]
        assert accepting == [ANY_TEMPLATE] * 4

    def test_what_goes_out_takes_the_active_path_exactly(self) -> None:
        objects = endpoint_objects(state(VIP4, VIP6, active=WIFI_TEMPLATE))
        leaving = [
            policy.template
            for policy in objects
            if isinstance(policy, Policy) and policy.direction is Direction.OUT
        ]
        assert leaving == [WIFI_TEMPLATE] * 2

    def test_the_whole_state_of_a_plain_endpoint(self) -> None:
        """Golden: whatever changes here changes in the kernel of every user."""
        tables = {path(WIFI): TableId(11101)}
        objects = endpoint_objects(EndpointState(Inner(), (VIP4,), tables, WIFI_TEMPLATE))
        own, all4, all6 = host_network(VIP4), ip_network("0.0.0.0/0"), ip_network("::/0")
        from_all, to_all = (Selector(all4, own), Selector(own, all4))
        pop = host_network(ip_address(WIFI.pop))
        assert set(objects) == {
            Tun("vip0", 1380),
            Address("vip0", VIP4),
            Ruleset(endpoint_ruleset((VIP4,), "vip0")),
            Route(TableId(11100), all4, link="vip0", source=VIP4),
            Route(TableId(11100), all4, RouteKind.UNREACHABLE, metric=LAST_RESORT),
            Route(TableId(11100), all6, RouteKind.UNREACHABLE, metric=LAST_RESORT),
            Route(TableId(11101), all4, link="wlan0", gateway=ip_address("192.168.10.1")),
            Route(TableId(11199), all4, RouteKind.UNREACHABLE),
            Rule(11101, 4, TableId(11101), source=pop, mark=MARK_UNDERLAY),
            Rule(11102, 4, TableId(11199), source=pop, mark=MARK_UNDERLAY),
            Rule(11140, 4, MAIN, mark=MARK_UNDERLAY),
            Rule(11140, 6, MAIN, mark=MARK_UNDERLAY),
            Rule(11150, 4, TableId(11100), source=own),
            Rule(11160, 4, MAIN, suppress_prefixlength=0),
            Rule(11160, 6, MAIN, suppress_prefixlength=0),
            Rule(11170, 4, TableId(11100), mark=MARK_UNDERLAY, mark_inverted=True),
            Rule(11170, 6, TableId(11100), mark=MARK_UNDERLAY, mark_inverted=True),
            Policy(Direction.OUT, to_all, Verdict.PROTECT, WIFI_TEMPLATE),
            Policy(Direction.IN, from_all, Verdict.PROTECT, ANY_TEMPLATE),
            Policy(Direction.FWD, from_all, Verdict.PROTECT, ANY_TEMPLATE),
            Policy(
                Direction.IN,
                replace(from_all, mark=MARK_TO_SENDERS),
                Verdict.ALLOW,
                priority=11090,
            ),
        }


class TestLimit:
    def test_all_that_is_sent_keeps_to_what_the_path_carries_but_probes(self) -> None:
        limited = set(endpoint_objects(EndpointState(Inner(), (VIP4, VIP6), limit=1218)))
        without = set(endpoint_objects(EndpointState(Inner(), (VIP4, VIP6))))
        inner = TableId(11100)
        service4, service6 = (host_network(SERVICE[version]) for version in (4, 6))
        assert limited - without == {
            Route(inner, ip_network("0.0.0.0/0"), link="vip0", source=VIP4, mtu=1218),
            Route(inner, ip_network("::/0"), link="vip0", source=VIP6, mtu=1218),
            Route(inner, service4, link="vip0", source=VIP4),
            Route(inner, service6, link="vip0", source=VIP6),
        }

    def test_so_it_is_in_a_split_tunnel(self) -> None:
        prefix = ip_network("10.50.0.0/15")
        objects = endpoint_objects(EndpointState(Inner((prefix,)), (VIP4,), limit=1218))
        found = {o.destination: o.mtu for o in objects if isinstance(o, Route) and o.link}
        assert found == {prefix: 1218, host_network(SERVICE[4]): None}


vip_choices = strategies.sampled_from(((), (VIP4,), (VIP6,), (VIP4, VIP6)))
inners = strategies.builds(
    Inner,
    strategies.sampled_from(((), (ip_network("10.50.0.0/15"), ip_network("fd00:50::/32")))),
    strategies.booleans(),
)
states = strategies.builds(
    EndpointState,
    inners,
    vip_choices,
    strategies.just(TABLES),
    strategies.sampled_from((None, WIFI_TEMPLATE)),
)
destinations = strategies.sampled_from((PEER4, PEER6, ELSEWHERE, PRINTER, SERVER4, SERVER6))


@given(states, destinations)
def test_no_packet_of_a_virtual_address_leaves_in_clear(
    wanted: EndpointState, destination: IPAddress
) -> None:
    objects = endpoint_objects(wanted)
    for vip in wanted.vips:
        if vip.version != destination.version:
            continue
        found = outcome(objects, Packet(destination, source=vip))
        assert found.link in (TUN_ENDPOINT, None) or found.verdict in (
            Verdict.BLOCK,
            Verdict.PROTECT,
        )


@given(states, destinations)
def test_a_full_tunnel_lets_nothing_past_but_attached_networks(
    wanted: EndpointState, destination: IPAddress
) -> None:
    if not wanted.inner.full:
        return
    found = outcome(endpoint_objects(wanted), Packet(destination))
    if found.table != TABLE_INNER:
        assert destination == PRINTER
        assert wanted.inner.local_networks


@given(states, strategies.sampled_from(tuple(TABLES)))
def test_ike_and_esp_never_enter_the_tunnel(wanted: EndpointState, way: Path) -> None:
    found = outcome(endpoint_objects(wanted), Packet(way.server, source=way.pop, marked=True))
    assert found.link == way.link_name
    assert found.table != TABLE_INNER


@given(states)
def test_everything_is_recognisably_ours(wanted: EndpointState) -> None:
    for subject in endpoint_objects(wanted):
        if isinstance(subject, Rule):
            assert subject.priority in RULE_PRIORITIES
        if isinstance(subject, Route):
            ours = (TABLE_INNER, *TABLE_PATHS, TABLE_NOWHERE)
            assert subject.table in ours


@given(states)
def test_no_two_versions_of_one_object_are_wanted(wanted: EndpointState) -> None:
    seen: dict[object, KernelObject] = {}
    for subject in endpoint_objects(wanted):
        assert seen.setdefault(subject.key, subject) == subject
