"""What a server wants in its kernel: for itself, and for one session in each of its states."""

from ipaddress import ip_address, ip_network

import pytest

from orchestrator.core.endpoint_state import SERVICE
from orchestrator.core.kernel import (
    MARK_COPIES,
    MARK_MASK,
    MARK_PROBE,
    MARK_TO_SENDERS,
    MARK_TPROXY,
    MARK_UNDERLAY,
    POLICY_PRIORITY,
    POLICY_PRIORITY_POOL,
    RULE_PRIORITIES,
    TABLE_INNER,
    TUN_SERVER,
    Address,
    Direction,
    KernelObject,
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
from orchestrator.core.plan import plan
from orchestrator.core.quantities import Reqid, Spi, TableId, host_network
from orchestrator.core.server_state import (
    TABLE_PROBES,
    ServerState,
    probe_mark,
    server_objects,
    session_objects,
)
from orchestrator.core.session import MAX_TUNNELS
from tests.unit.core.builders import EVERYTHING4, EVERYTHING6, SERVER4, VIP4, VIP6

POOL4, POOL6 = ip_network("10.99.0.0/24"), ip_network("fd00:99::/64")
REQID = Reqid(7)
TO_ENDPOINT = Template(SERVER4, ip_address("198.51.100.2"), REQID)
BOTH = ServerState((POOL4, POOL6), "table inet orchestrator {}")


def policies(objects: tuple[KernelObject, ...]) -> dict[tuple[Direction, Selector], Policy]:
    return {(o.direction, o.selector): o for o in objects if isinstance(o, Policy)}


class TestServer:
    def test_the_whole_state_with_one_pool(self) -> None:
        """Golden: whatever changes here changes in the kernel of every server."""
        of_pool = Selector(POOL4, EVERYTHING4)
        assert set(server_objects(ServerState((POOL4,), "text"))) == {
            Tun("vips0", 1380),
            Ruleset("text"),
            Sysctl("net/ipv4/ip_forward", "1"),
            Sysctl("net/ipv6/conf/all/forwarding", "1"),
            Address("vips0", SERVICE[4]),
            Route(TableId(254), POOL4, link="vips0", source=SERVICE[4]),
            Route(TableId(11101), POOL4, link="vips0", source=SERVICE[4]),
            Rule(11101, 4, TableId(11101), mark=MARK_PROBE),
            Route(TableId(11100), EVERYTHING4, RouteKind.LOCAL, link="lo"),
            Rule(11100, 4, TableId(11100), mark=MARK_TPROXY),
            Policy(
                Direction.IN,
                Selector(POOL4, EVERYTHING4, MARK_TO_SENDERS),
                Verdict.ALLOW,
                priority=11090,
            ),
            Policy(
                Direction.FWD,
                Selector(POOL4, EVERYTHING4, MARK_COPIES),
                Verdict.ALLOW,
                priority=11090,
            ),
            Policy(Direction.IN, of_pool, Verdict.BLOCK, priority=11190),
            Policy(Direction.FWD, of_pool, Verdict.BLOCK, priority=11190),
        }

    def test_a_router_goes_on_taking_advertisements_and_says_so_before_it_forwards(
        self,
    ) -> None:
        taking = Sysctl("net/ipv6/conf/wan0/accept_ra", "2")
        objects = server_objects(ServerState((POOL4,), "text", advertised=("wan0",)))
        order = [o.subject for o in plan(objects, {}) if isinstance(o.subject, Sysctl)]
        assert order[0] == taking
        assert Sysctl("net/ipv6/conf/all/forwarding", "1") in order

    def test_each_family_has_its_own_service_address_and_routes(self) -> None:
        objects = server_objects(BOTH)
        assert Address(TUN_SERVER, SERVICE[4]) in objects
        assert Address(TUN_SERVER, SERVICE[6]) in objects
        pools = [o.destination for o in objects if isinstance(o, Route) and o.table == 254]
        assert pools == [POOL4, POOL6]

    def test_two_pools_of_one_family_want_nothing_twice_in_two_versions(self) -> None:
        objects = server_objects(ServerState((POOL4, ip_network("10.98.0.0/24")), "text"))
        versions: dict[object, KernelObject] = {}
        for subject in objects:
            assert versions.setdefault(subject.key, subject) == subject

    def test_a_virtual_address_without_a_session_is_blocked(self) -> None:
        found = policies(server_objects(BOTH))
        for direction in (Direction.IN, Direction.FWD):
            assert found[direction, Selector(POOL4, EVERYTHING4)].verdict is Verdict.BLOCK
            assert found[direction, Selector(POOL6, EVERYTHING6)].verdict is Verdict.BLOCK

    def test_everything_is_recognisably_ours(self) -> None:
        for subject in server_objects(BOTH):
            if isinstance(subject, Rule):
                assert subject.priority in RULE_PRIORITIES
                assert subject.table in (TABLE_INNER, TABLE_PROBES)


class TestSession:
    def test_attached_is_sent_over_its_path_and_taken_from_its_sas_only(self) -> None:
        own = host_network(VIP4)
        accepted = Template(None, None, REQID)
        assert set(session_objects((VIP4,), REQID, TO_ENDPOINT)) == {
            Policy(Direction.OUT, Selector(EVERYTHING4, own), Verdict.PROTECT, TO_ENDPOINT),
            Policy(Direction.IN, Selector(own, EVERYTHING4), Verdict.PROTECT, accepted),
            Policy(Direction.FWD, Selector(own, EVERYTHING4), Verdict.PROTECT, accepted),
        }

    def test_no_packet_larger_than_its_path_carries_is_sent_to_it(self) -> None:
        without = session_objects((VIP4, VIP6), REQID, TO_ENDPOINT)
        limited = session_objects((VIP4, VIP6), REQID, TO_ENDPOINT, limit=1218)
        main = TableId(254)
        assert set(limited) - set(without) == {
            Route(main, host_network(VIP4), link="vips0", source=SERVICE[4], mtu=1218),
            Route(main, host_network(VIP6), link="vips0", source=SERVICE[6], mtu=1218),
        }
        answers = [o for o in server_objects(BOTH) if isinstance(o, Route) and o.table == 11101]
        assert {(o.destination, o.mtu) for o in answers} == {(POOL4, None), (POOL6, None)}

    def test_following_a_move_is_held_and_still_taken_from_its_sas(self) -> None:
        found = policies(session_objects((VIP4,), REQID, None))
        own = host_network(VIP4)
        assert found[Direction.OUT, Selector(EVERYTHING4, own)].verdict is Verdict.ALLOW
        assert found[Direction.IN, Selector(own, EVERYTHING4)].template == Template(
            None, None, REQID
        )

    @pytest.mark.parametrize("direction", [Direction.IN, Direction.FWD])
    def test_without_an_sa_nothing_is_taken_from_it(self, direction: Direction) -> None:
        found = policies(session_objects((VIP4,), None, None))
        own = host_network(VIP4)
        assert found[direction, Selector(own, EVERYTHING4)].verdict is Verdict.BLOCK

    def test_what_is_answered_through_a_tunnel_of_its_own_goes_nowhere_else(self) -> None:
        """Golden: the kernel takes a policy for a packet with exactly this mark."""
        idle = Template(SERVER4, ip_address("100.64.0.2"), REQID, Spi(5))
        without = session_objects((VIP4,), REQID, TO_ENDPOINT)
        selector = Selector(host_network(SERVICE[4]), host_network(VIP4), 0x6D000003)
        assert set(session_objects((VIP4,), REQID, TO_ENDPOINT, {3: idle})) == {
            *without,
            Policy(Direction.OUT, selector, Verdict.PROTECT, idle, 11098),
        }

    def test_the_marks_of_answers_are_nobody_elses(self) -> None:
        marks = [probe_mark(slot) for slot in range(MAX_TUNNELS)]
        assert len(set(marks)) == MAX_TUNNELS
        others = {MARK_UNDERLAY, MARK_TPROXY, MARK_TO_SENDERS & MARK_MASK}
        assert not {mark & MARK_MASK for mark in marks} & others

    def test_both_virtual_addresses_of_a_session_are_treated_alike(self) -> None:
        found = policies(session_objects((VIP4, VIP6), REQID, TO_ENDPOINT))
        assert len(found) == 6
        for everything, vip in ((EVERYTHING4, VIP4), (EVERYTHING6, VIP6)):
            own = host_network(vip)
            assert found[Direction.OUT, Selector(everything, own)].template == TO_ENDPOINT

    def test_a_session_overrules_the_block_of_its_pool(self) -> None:
        for policy in policies(session_objects((VIP4,), REQID, TO_ENDPOINT)).values():
            assert policy.priority == POLICY_PRIORITY < POLICY_PRIORITY_POOL
