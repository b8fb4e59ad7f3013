"""Which place is which, and whose routing table is whose, as the network changes."""

from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise

from hypothesis import given, strategies

from orchestrator.core.kernel import TABLE_PATHS
from orchestrator.core.network import Change
from orchestrator.core.paths import Absence, LinkChoice, Servers
from orchestrator.core.places import Places, place_of
from orchestrator.core.quantities import IPAddress
from tests.unit.core.builders import (
    LTE,
    LTE6,
    SERVER4,
    SERVER6,
    VIP4,
    WIFI,
    WIFI2,
    WIFI_SECOND,
    Place,
    path,
    snapshot,
    without_carrier,
)

SECOND_SERVER: IPAddress = ip_address("203.0.113.11")
OTHER_GATEWAY = replace(WIFI, gateway="192.168.10.9")


def places(*here: Place, servers: tuple[IPAddress, ...] = (SERVER4, SERVER6)) -> Places:
    """What an endpoint makes of its network when it has just come to be here."""
    found = Places(servers, LinkChoice())
    found.look(snapshot(*here), ())
    return found


def crowd(numbers: range) -> tuple[Place, ...]:
    """So many addresses on the Wi-Fi; lower numbers are better."""
    return tuple(replace(WIFI, pop=f"10.0.{n // 250}.{n % 250 + 1}") for n in numbers)


class TestPlaces:
    def test_another_gateway_is_the_same_place(self) -> None:
        now = places(OTHER_GATEWAY)
        assert now.at(path(WIFI)) == path(OTHER_GATEWAY)

    def test_another_address_on_the_same_link_is_another_place(self) -> None:
        assert places(WIFI_SECOND).at(path(WIFI)) is None

    def test_another_address_of_the_server_is_another_place(self) -> None:
        elsewhere = path(WIFI, SECOND_SERVER)
        assert places(WIFI, servers=(SERVER4,)).at(elsewhere) is None
        assert place_of(elsewhere) != place_of(path(WIFI))

    def test_the_same_address_on_another_link_is_another_place(self) -> None:
        docked = replace(WIFI, link="eth0", index=9)
        assert places(docked).at(path(WIFI)) is None

    def test_a_place_without_carrier_is_gone(self) -> None:
        assert places(*without_carrier(WIFI)).at(path(WIFI)) is None

    def test_finds_the_path_that_a_tunnel_takes(self) -> None:
        now = places(WIFI, LTE)
        assert now.between(ip_address(LTE.pop), SERVER4) == path(LTE)
        assert now.between(ip_address(LTE.pop), SECOND_SERVER) is None
        assert now.between(VIP4, SERVER4) is None

    def test_a_virtual_address_leads_nowhere(self) -> None:
        captured = replace(WIFI, pop=str(VIP4))
        found = Places((SERVER4,), LinkChoice())
        found.look(snapshot(captured, LTE), (VIP4,))
        assert found.paths == (path(LTE),)


class TestLook:
    def test_says_what_is_different_since_the_last(self) -> None:
        found = places(WIFI)
        assert found.look(snapshot(OTHER_GATEWAY), ()) == {
            Change.GATEWAY_NEW,
            Change.GATEWAY_GONE,
        }
        assert found.look(snapshot(OTHER_GATEWAY), ()) == set()

    def test_says_why_there_is_no_path(self) -> None:
        found = places()
        assert found.why_none() == {Absence.NO_LINK}
        found.look(snapshot(*without_carrier(WIFI)), ())
        assert found.why_none() == {Absence.NO_CARRIER}

    def test_has_nothing_to_explain_while_there_is_one(self) -> None:
        assert places(WIFI).why_none() == set()

    def test_that_the_only_address_is_a_virtual_one_is_a_reason(self) -> None:
        found = Places((SERVER4,), LinkChoice())
        found.look(snapshot(replace(WIFI, pop=str(VIP4))), (VIP4,))
        assert found.why_none() == {Absence.NO_ADDRESS}


class TestRank:
    def test_is_the_operators_preference(self) -> None:
        found = Places((SERVER4,), LinkChoice(preference=("wlan*", "wwan*")))
        assert found.rank(path(WIFI)) == found.rank(path(WIFI2)) < found.rank(path(LTE))

    def test_of_the_link_asked_for_is_the_best(self) -> None:
        found = Places((SERVER4,), LinkChoice(preference=("wlan*", "wwan*")))
        found.pinned = "wwan0"
        assert found.rank(path(LTE)) < found.rank(path(WIFI))


class TestTables:
    def test_every_point_of_presence_has_its_own(self) -> None:
        now = places(WIFI, WIFI_SECOND, LTE, LTE6)
        assert len(set(now.tables.values())) == 4

    def test_the_ways_to_two_addresses_of_the_server_share_one(self) -> None:
        """Who packets are for makes no difference to the gateway they take."""
        now = places(WIFI, servers=(SERVER4, SECOND_SERVER))
        assert len(now.paths) == 2
        assert len(set(now.tables.values())) == 1

    def test_another_gateway_leaves_the_table(self) -> None:
        found = places(WIFI, LTE)
        before = found.tables[path(WIFI)]
        found.look(snapshot(LTE, OTHER_GATEWAY), ())
        assert found.tables[path(OTHER_GATEWAY)] == before

    def test_what_goes_leaves_the_others_alone(self) -> None:
        found = places(WIFI, WIFI2, LTE)
        before = found.tables
        found.look(snapshot(LTE), ())
        assert found.tables == {path(LTE): before[path(LTE)]}

    def test_a_better_newcomer_takes_nobodys(self) -> None:
        found = places(*crowd(range(100, 100 + len(TABLE_PATHS))))
        before = found.tables
        found.look(snapshot(*crowd(range(100 + len(TABLE_PATHS)))), ())
        assert found.tables == before

    def test_one_that_is_free_again_goes_to_the_best_without(self) -> None:
        full = crowd(range(len(TABLE_PATHS)))
        found = places(*full)
        before = found.tables
        found.look(snapshot(*full[1:], *crowd(range(200, 300))), ())
        best = path(crowd(range(200, 201))[0])
        assert found.tables[best] == before[path(full[0])]
        assert len(found.paths) == len(TABLE_PATHS)


worlds = strategies.one_of(
    strategies.lists(
        strategies.sampled_from((WIFI, WIFI_SECOND, WIFI2, LTE, LTE6, OTHER_GATEWAY)),
        max_size=5,
        unique_by=lambda place: (place.index, place.pop),
    ).map(tuple),
    strategies.builds(range, strategies.integers(0, 60), strategies.integers(60, 160)).map(
        crowd
    ),
)


@given(strategies.lists(worlds, min_size=2, max_size=6))
def test_a_table_is_one_points_of_presence_for_as_long_as_that_lasts(
    history: list[tuple[Place, ...]],
) -> None:
    found = Places((SERVER4, SECOND_SERVER, SERVER6), LinkChoice())
    owners = []
    for world in history:
        found.look(snapshot(*world), ())
        assert found.paths == tuple(found.tables)
        assert set(found.tables.values()) <= set(TABLE_PATHS)
        now = {(way.link, way.pop): table for way, table in found.tables.items()}
        assert all(now[way.link, way.pop] == table for way, table in found.tables.items())
        assert len(set(now.values())) == len(now), "two share a table"
        assert len(now) == min(len(world), len(TABLE_PATHS)), "a table is left unused"
        owners.append((now, {(place.index, ip_address(place.pop)) for place in world}))
    for (before, _), (after, there) in pairwise(owners):
        for pop, table in before.items():
            assert pop not in there or after[pop] == table, "a table changed hands"


class TestServers:
    def test_they_may_be_others_on_one_link(self) -> None:
        now = places(WIFI, LTE)
        lte = path(LTE)
        what = now.know(Servers((SERVER4,), {lte.link: (SECOND_SERVER,)}), ())
        assert what == {Change.SERVER_ADDRESSES}
        assert now.paths == (path(WIFI), path(LTE, SECOND_SERVER))

    def test_what_is_known_already_is_no_change(self) -> None:
        now = places(WIFI)
        assert now.know(Servers((SERVER4, SERVER6)), ()) == frozenset()

    def test_a_path_in_use_stays_one(self) -> None:
        now = places(WIFI, LTE)
        now.know(Servers((SECOND_SERVER,)), [path(WIFI)])
        elsewhere = [path(WIFI, SECOND_SERVER), path(LTE, SECOND_SERVER)]
        assert list(now.paths) == [elsewhere[0], path(WIFI), elsewhere[1]]
        now.know(Servers((SECOND_SERVER,)), [])
        assert list(now.paths) == elsewhere

    def test_without_one_there_is_no_path(self) -> None:
        now = places(WIFI, servers=())
        assert now.why_none() == {Absence.OTHER_FAMILY}
