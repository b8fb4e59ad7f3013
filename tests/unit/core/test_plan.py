"""Plans reach the wanted state, once, and never uncover traffic on the way."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

from hypothesis import given, strategies

from orchestrator.core.endpoint_state import EndpointState, Inner, endpoint_objects
from orchestrator.core.kernel import (
    ENDPOINT_REQID,
    RULE_PRIORITIES,
    TABLE_INNER,
    TABLE_PATHS,
    TUN_ENDPOINT,
    Address,
    Direction,
    KernelObject,
    Key,
    Policy,
    Route,
    RouteKind,
    Rule,
    Ruleset,
    Selector,
    Sysctl,
    Template,
    Tun,
    Verdict,
)
from orchestrator.core.plan import Drop, Operation, Put, plan
from orchestrator.core.quantities import IPAddress, TableId, host_network
from tests.unit.core.builders import EVERYTHING4, LTE, SERVER4, VIP4, VIP6, WIFI, path

OWN = Selector(host_network(VIP4), EVERYTHING4)
OUT_OF_WIFI = Template(ip_address(WIFI.pop), SERVER4, ENDPOINT_REQID)
OUT_OF_LTE = Template(ip_address(LTE.pop), SERVER4, ENDPOINT_REQID)


def keyed(*subjects: KernelObject) -> dict[Key, KernelObject]:
    return {subject.key: subject for subject in subjects}


def carried_out(
    operations: tuple[Operation, ...], present: dict[Key, KernelObject]
) -> dict[Key, KernelObject]:
    after = dict(present)
    for operation in operations:
        if isinstance(operation, Put):
            after[operation.subject.key] = operation.subject
        else:
            del after[operation.subject.key]
    return after


def endpoint(
    *vips: IPAddress, active: Template | None = None, inner: Inner = Inner()
) -> dict[Key, KernelObject]:
    tables = {path(WIFI): TableId(11101), path(LTE): TableId(11102)}
    return keyed(*endpoint_objects(EndpointState(inner, vips, tables, active)))


def lets_out(subject: KernelObject) -> bool:
    return (
        isinstance(subject, Policy)
        and subject.direction is Direction.OUT
        and subject.verdict is Verdict.PROTECT
    )


def restrains(subject: KernelObject) -> bool:
    return isinstance(subject, Ruleset) or (
        isinstance(subject, Policy) and not lets_out(subject)
    )


class TestOrder:
    def test_holds_before_anything_else(self) -> None:
        attached = endpoint(VIP4, active=OUT_OF_WIFI)
        operations = plan(endpoint(VIP4).values(), attached)
        assert operations == (Put(Policy(Direction.OUT, OWN, Verdict.ALLOW)),)

    def test_a_flip_is_one_operation(self) -> None:
        attached = endpoint(VIP4, active=OUT_OF_WIFI)
        operations = plan(endpoint(VIP4, active=OUT_OF_LTE).values(), attached)
        assert operations == (Put(Policy(Direction.OUT, OWN, Verdict.PROTECT, OUT_OF_LTE)),)

    def test_lets_traffic_out_only_when_everything_else_stands(self) -> None:
        operations = plan(endpoint(VIP4, active=OUT_OF_WIFI).values(), {})
        assert [lets_out(o.subject) for o in operations].index(True) == len(operations) - 1

    def test_the_firewall_stands_before_the_address_it_guards(self) -> None:
        kinds = [type(o.subject) for o in plan(endpoint(VIP4).values(), {})]
        assert kinds.index(Ruleset) < kinds.index(Tun) < kinds.index(Address)

    def test_the_firewall_stands_before_the_server_forwards(self) -> None:
        forwarding = Sysctl("net/ipv4/ip_forward", "1")
        operations = plan((forwarding, Ruleset("table inet orchestrator {}")), {})
        assert [type(o.subject) for o in operations] == [Ruleset, Sysctl]

    def test_the_tun_is_there_before_its_addresses_and_those_before_their_routes(self) -> None:
        kinds = [type(o.subject) for o in plan(endpoint(VIP4, VIP6).values(), {})]
        last_address = len(kinds) - 1 - kinds[::-1].index(Address)
        assert kinds.index(Tun) < kinds.index(Address)
        assert last_address < kinds.index(Route)

    def test_cleaning_up_takes_the_address_away_before_what_restrains_it(self) -> None:
        operations = plan((), endpoint(VIP4, active=OUT_OF_WIFI))
        subjects = [operation.subject for operation in operations]
        address = subjects.index(Address(TUN_ENDPOINT, VIP4))
        for index, subject in enumerate(subjects):
            if restrains(subject):
                assert index > address, f"{subject} went while {VIP4} was still usable"

    def test_a_virtual_address_goes_before_the_rule_that_keeps_it_in_the_tunnel(self) -> None:
        other = ip_address("10.99.0.8")
        operations = plan(endpoint(other).values(), endpoint(VIP4))
        rule = next(
            o for o in operations if isinstance(o, Drop) and isinstance(o.subject, Rule)
        )
        assert rule.subject == Rule(11150, 4, TABLE_INNER, source=host_network(VIP4))
        assert operations.index(Drop(Address(TUN_ENDPOINT, VIP4))) < operations.index(rule)

    def test_puts_the_successor_before_it_drops(self) -> None:
        other = ip_address("10.99.0.8")
        operations = plan(endpoint(other).values(), endpoint(VIP4))
        first_drop = next(i for i, o in enumerate(operations) if isinstance(o, Drop))
        assert not any(isinstance(o, Put) for o in operations[first_drop:])


class TestChange:
    def test_replaces_a_version_that_differs(self) -> None:
        old = Route(TABLE_INNER, EVERYTHING4, RouteKind.UNREACHABLE)
        new = Route(TABLE_INNER, EVERYTHING4, link=TUN_ENDPOINT, source=VIP4)
        assert plan((new,), keyed(old)) == (Put(new),)

    def test_a_rule_has_no_versions_it_is_put_and_the_other_dropped(self) -> None:
        old = Rule(11101, 4, TableId(11101), source=host_network(VIP4))
        new = replace(old, table=TableId(11102))
        assert plan((new,), keyed(old)) == (Put(new), Drop(old))

    def test_says_a_thing_once_that_is_wanted_twice(self) -> None:
        tun = Tun(TUN_ENDPOINT, 1380)
        assert plan((tun, tun), {}) == (Put(tun),)


addresses4 = strategies.integers(0x0A630001, 0x0A630003).map(lambda n: ip_address(n))
networks4 = strategies.sampled_from((EVERYTHING4, ip_network("10.50.0.0/24")))
selectors = strategies.builds(Selector, addresses4.map(host_network), networks4)
templates = strategies.sampled_from((OUT_OF_WIFI, OUT_OF_LTE))
policies = strategies.builds(
    lambda direction, selector, template, verdict: Policy(
        direction,
        selector,
        verdict,
        template if verdict is Verdict.PROTECT else None,
    ),
    strategies.sampled_from(Direction),
    selectors,
    templates,
    strategies.sampled_from(Verdict),
)
subjects = strategies.one_of(
    policies,
    strategies.builds(Tun, strategies.sampled_from(("vip0", "vips0")), strategies.just(1380)),
    strategies.builds(Address, strategies.just(TUN_ENDPOINT), addresses4),
    strategies.builds(
        Route,
        strategies.sampled_from((TABLE_INNER, TableId(TABLE_PATHS[0]))),
        networks4,
        strategies.sampled_from(RouteKind),
        metric=strategies.integers(0, 1),
    ),
    strategies.builds(
        Rule,
        strategies.sampled_from((RULE_PRIORITIES[1], RULE_PRIORITIES[50])),
        strategies.just(4),
        strategies.just(TABLE_INNER),
    ),
    strategies.builds(Ruleset, strategies.sampled_from(("a", "b"))),
    strategies.builds(
        Sysctl, strategies.just("net/ipv4/ip_forward"), strategies.sampled_from("01")
    ),
)
states = strategies.lists(subjects, max_size=12).map(lambda found: keyed(*found))


@given(states, states)
def test_carrying_out_the_plan_makes_what_is_wanted(
    wanted: dict[Key, KernelObject], present: dict[Key, KernelObject]
) -> None:
    assert carried_out(plan(wanted.values(), present), present) == wanted


@given(states, states)
def test_a_second_plan_is_empty(
    wanted: dict[Key, KernelObject], present: dict[Key, KernelObject]
) -> None:
    after = carried_out(plan(wanted.values(), present), present)
    assert plan(wanted.values(), after) == ()


@given(states, states)
def test_what_restrains_comes_first_and_what_lets_out_comes_last(
    wanted: dict[Key, KernelObject], present: dict[Key, KernelObject]
) -> None:
    puts = [o.subject for o in plan(wanted.values(), present) if isinstance(o, Put)]
    weights = [0 if restrains(s) else 2 if lets_out(s) else 1 for s in puts]
    assert weights == sorted(weights)


@given(states, states)
def test_drops_come_after_all_puts_in_the_opposite_order(
    wanted: dict[Key, KernelObject], present: dict[Key, KernelObject]
) -> None:
    operations = plan(wanted.values(), present)
    kinds = [isinstance(o, Drop) for o in operations]
    assert kinds == sorted(kinds)
    weights = [
        0 if restrains(o.subject) else 2 if lets_out(o.subject) else 1
        for o in operations
        if isinstance(o, Drop)
    ]
    assert weights == sorted(weights, reverse=True)


@given(states, states)
def test_touches_nothing_that_is_as_it_should_be(
    wanted: dict[Key, KernelObject], present: dict[Key, KernelObject]
) -> None:
    same = wanted.items() & present.items()
    touched = {operation.subject.key for operation in plan(wanted.values(), present)}
    assert not touched & {key for key, _ in same}
