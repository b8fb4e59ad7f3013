"""Which ways lead to the server, in which order, and why the others do not."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, strategies

from orchestrator.core.kernel import TUN_ENDPOINT
from orchestrator.core.network import Snapshot
from orchestrator.core.paths import Absence, LinkChoice, Path, Servers, absence, candidates
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

ANY = LinkChoice()
NOTHING: frozenset[IPAddress] = frozenset()
PREFERS_LTE = LinkChoice(preference=("wwan*",))


def ways(
    *places: Place,
    servers: tuple[IPAddress, ...] = (SERVER4,),
    choice: LinkChoice = ANY,
    vips: frozenset[IPAddress] = NOTHING,
) -> list[Path]:
    return list(candidates(snapshot(*places), Servers(servers), choice, vips))


def why_none(
    *places: Place,
    servers: tuple[IPAddress, ...] = (SERVER4,),
    choice: LinkChoice = ANY,
    vips: frozenset[IPAddress] = NOTHING,
) -> Absence:
    assert ways(*places, servers=servers, choice=choice, vips=vips) == []
    return absence(snapshot(*places), Servers(servers), choice, vips)


class TestOrder:
    def test_takes_the_lower_metric_when_the_operator_has_no_opinion(self) -> None:
        assert ways(LTE, WIFI2, WIFI) == [path(WIFI), path(WIFI2), path(LTE)]

    def test_takes_the_operators_preference_before_the_metric(self) -> None:
        assert ways(WIFI, LTE, choice=PREFERS_LTE) == [path(LTE), path(WIFI)]

    def test_puts_links_that_nobody_named_last(self) -> None:
        choice = LinkChoice(preference=("wwan0", "wlan1"))
        assert ways(WIFI, WIFI2, LTE, choice=choice) == [path(LTE), path(WIFI2), path(WIFI)]

    def test_takes_what_costs_nothing_before_what_is_metered(self) -> None:
        choice = LinkChoice(preference=("wwan*", "wlan0"), metered=("wwan*", "wlan0"))
        assert ways(WIFI, WIFI2, LTE, choice=choice) == [path(WIFI2), path(LTE), path(WIFI)]

    def test_takes_the_lower_metric_among_links_that_are_equal_to_the_operator(self) -> None:
        choice = LinkChoice(preference=(("wwan*", "wlan0"), "wlan1"))
        assert ways(WIFI, WIFI2, LTE, choice=choice) == [path(WIFI), path(LTE), path(WIFI2)]

    def test_takes_the_lower_index_when_all_else_is_equal(self) -> None:
        twin = replace(WIFI2, metric=WIFI.metric)
        assert ways(twin, WIFI) == [path(WIFI), path(twin)]

    def test_offers_both_addresses_of_one_link(self) -> None:
        assert ways(WIFI_SECOND, WIFI) == [path(WIFI), path(WIFI_SECOND)]

    def test_takes_the_servers_addresses_in_their_configured_order(self) -> None:
        assert ways(LTE, LTE6, servers=(SERVER6, SERVER4)) == [path(LTE6), path(LTE)]
        assert ways(LTE, LTE6, servers=(SERVER4, SERVER6)) == [path(LTE), path(LTE6)]


class TestUse:
    def test_uses_the_gateway_with_the_lower_metric(self) -> None:
        worse = replace(WIFI, gateway="192.168.10.253", metric=500)
        assert ways(worse, WIFI) == [path(WIFI)]

    def test_uses_a_point_to_point_link_without_a_gateway(self) -> None:
        ppp = replace(LTE, link="ppp0", gateway=None)
        assert ways(ppp) == [path(ppp)]
        assert ways(ppp)[0].gateway is None

    def test_joins_only_addresses_of_one_family(self) -> None:
        assert ways(LTE, LTE6, servers=(SERVER6,)) == [path(LTE6)]

    def test_never_takes_a_virtual_address_for_a_point_of_presence(self) -> None:
        captured = replace(WIFI, pop=str(VIP4))
        assert ways(captured) == [path(captured)]
        assert ways(captured, WIFI, vips=frozenset({VIP4})) == [path(WIFI)]

    def test_never_uses_our_own_tun(self) -> None:
        loop = replace(WIFI, link=TUN_ENDPOINT)
        assert ways(loop) == []

    def test_obeys_the_operators_exclusions(self) -> None:
        assert ways(WIFI, LTE, choice=LinkChoice(exclude=("wl*",))) == [path(LTE)]
        assert ways(WIFI, LTE, choice=LinkChoice(include=("wl*",))) == [path(WIFI)]

    def test_says_itself_in_words(self) -> None:
        assert str(path(WIFI)) == "wlan0 192.168.10.2 -> 203.0.113.10"


class TestAbsence:
    def test_no_link(self) -> None:
        assert why_none() is Absence.NO_LINK
        assert why_none(WIFI, choice=LinkChoice(exclude=("*",))) is Absence.NO_LINK

    def test_no_carrier(self) -> None:
        assert why_none(*without_carrier(WIFI, LTE)) is Absence.NO_CARRIER

    def test_no_address(self) -> None:
        assert why_none(replace(WIFI, usable=False)) is Absence.NO_ADDRESS

    def test_no_gateway(self) -> None:
        assert why_none(replace(WIFI, routed=False)) is Absence.NO_GATEWAY

    def test_no_address_of_the_servers_family(self) -> None:
        assert why_none(LTE, servers=(SERVER6,)) is Absence.OTHER_FAMILY

    def test_gives_the_most_hopeful_reason(self) -> None:
        unrouted = replace(LTE, routed=False)
        assert why_none(*without_carrier(WIFI), unrouted) is Absence.NO_GATEWAY

    def test_a_tun_is_no_link(self) -> None:
        assert why_none(replace(WIFI, link=TUN_ENDPOINT)) is Absence.NO_LINK


places = strategies.builds(
    replace,
    strategies.sampled_from((WIFI, WIFI_SECOND, WIFI2, LTE, LTE6)),
    up=strategies.booleans(),
    usable=strategies.booleans(),
    routed=strategies.booleans(),
    metric=strategies.integers(1, 3),
)
choices = strategies.builds(
    LinkChoice,
    exclude=strategies.sampled_from(((), ("wwan*",), ("wlan1",))),
    preference=strategies.sampled_from(
        ((), ("wwan*",), ("wlan1", "wwan0"), (("wlan1", "wwan*"), "wlan0"))
    ),
    metered=strategies.sampled_from(((), ("wwan*",))),
)
worlds = strategies.lists(places, max_size=5).map(lambda found: snapshot(*found))
BOTH = Servers((SERVER4, SERVER6))


@given(worlds, choices)
def test_every_path_is_fit_for_use(world: Snapshot, choice: LinkChoice) -> None:
    taken = ip_address(WIFI.pop)
    for way in candidates(world, BOTH, choice, frozenset({taken})):
        assert any(link.index == way.link and link.up for link in world.links)
        assert any(
            (a.link, a.address, a.usable) == (way.link, way.pop, True) for a in world.addresses
        )
        assert any((g.link, g.address) == (way.link, way.gateway) for g in world.gateways)
        assert way.pop.version == way.server.version
        assert choice.allows(way.link_name)
        assert way.pop != taken


@given(worlds, choices)
def test_a_path_stands_once_and_preference_rules_the_order(
    world: Snapshot, choice: LinkChoice
) -> None:
    found = candidates(world, BOTH, choice, NOTHING)
    # A link seen up and down at once (two places of one index) is two links to the builder.
    if len({link.index for link in world.links}) == len(world.links):
        assert len(set(found)) == len(found)
    ranks = [choice.rank(way.link_name) for way in found]
    assert ranks == sorted(ranks)
    assert all(0 <= rank < choice.ranks for rank in ranks)
    metered = [choice.is_metered(way.link_name) for way in found]
    assert metered == sorted(metered)


@pytest.mark.parametrize("name", ["wlan0", "eth0"])
def test_a_link_without_a_preference_ranks_after_all_that_have_one(name: str) -> None:
    assert PREFERS_LTE.rank("wwan7") == 0
    assert PREFERS_LTE.rank(name) == 1
