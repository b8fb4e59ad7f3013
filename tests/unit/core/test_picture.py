"""What the picture of the networks shows, and what goes along with what ends."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from orchestrator.core.network import Gateway, Link, LinkAddress, Snapshot
from orchestrator.core.picture import Picture
from orchestrator.core.quantities import LinkIndex

WLAN, WWAN, ABSENT = LinkIndex(2), LinkIndex(3), LinkIndex(4)
LINK = Link(WLAN, "wlan0", up=True)
ADDRESS = LinkAddress(WLAN, ip_address("192.0.2.2"), usable=True)
SECOND = LinkAddress(WLAN, ip_address("192.0.2.3"), usable=True)
ADDRESS6 = LinkAddress(WLAN, ip_address("2001:db8::2"), usable=True)
GATEWAY = Gateway(WLAN, 4, ip_address("192.0.2.1"), 600)
GATEWAY6 = Gateway(WLAN, 6, ip_address("2001:db8::1"), 600)
OTHER = Gateway(WWAN, 4, None, 700)
WHOLE = Snapshot(
    frozenset({LINK}),
    frozenset({ADDRESS, ADDRESS6}),
    frozenset({GATEWAY, GATEWAY6, OTHER}),
)


@pytest.fixture
def picture() -> Picture:
    made = Picture()
    assert made.link_is(LINK, switched_on=True)
    assert made.address_is(ADDRESS)
    assert made.address_is(ADDRESS6)
    for gateway in (GATEWAY, GATEWAY6, OTHER):
        assert made.gateways_are([gateway], replace=False)
    assert made.snapshot() == WHOLE
    return made


@pytest.mark.parametrize(
    "tell",
    [
        lambda picture: picture.link_is(LINK, switched_on=True),
        lambda picture: picture.address_is(ADDRESS),
        lambda picture: picture.gateways_are([GATEWAY], replace=True),
        lambda picture: picture.gateways_are([], replace=True),
        lambda picture: picture.take_gateways([OTHER, GATEWAY6, GATEWAY]),
        lambda picture: picture.link_gone(ABSENT),
        lambda picture: picture.address_gone(SECOND),
        lambda picture: picture.gateways_gone([replace(GATEWAY, metric=601)]),
    ],
)
def test_what_is_known_already_is_no_news(
    picture: Picture, tell: Callable[[Picture], bool]
) -> None:
    assert not tell(picture)
    assert picture.snapshot() == WHOLE


def test_a_link_that_goes_takes_everything_of_it_along(picture: Picture) -> None:
    assert picture.link_gone(WLAN)
    assert picture.snapshot() == Snapshot(gateways=frozenset({OTHER}))
    assert picture.link_name(WLAN) is None


def test_one_that_is_switched_off_takes_its_routes_along(picture: Picture) -> None:
    down = replace(LINK, up=False)
    assert picture.link_is(down, switched_on=False)
    assert picture.snapshot() == replace(
        WHOLE, links=frozenset({down}), gateways=frozenset({OTHER})
    )


def test_one_that_loses_its_carrier_keeps_them(picture: Picture) -> None:
    down = replace(LINK, up=False)
    assert picture.link_is(down, switched_on=True)
    assert picture.snapshot() == replace(WHOLE, links=frozenset({down}))


def test_the_last_ipv4_address_takes_the_ipv4_routes_along(picture: Picture) -> None:
    picture.address_is(SECOND)
    assert picture.address_gone(SECOND)
    assert picture.snapshot() == WHOLE, "it was not the last"
    assert picture.address_gone(ADDRESS)
    assert picture.snapshot().gateways == {GATEWAY6, OTHER}
    assert not picture.has_ipv4(WLAN)


def test_the_last_ipv6_address_takes_none_along(picture: Picture) -> None:
    assert picture.address_gone(ADDRESS6)
    assert picture.snapshot().gateways == WHOLE.gateways


def test_an_ipv4_route_replaces_the_one_of_its_metric(picture: Picture) -> None:
    fresh = replace(GATEWAY, link=WWAN, address=None)
    assert picture.gateways_are([fresh], replace=True)
    assert picture.snapshot().gateways == {fresh, GATEWAY6, OTHER}


def test_an_ipv6_route_replaces_the_one_of_its_metric_and_link(picture: Picture) -> None:
    elsewhere = replace(GATEWAY6, link=WWAN)
    assert picture.gateways_are([elsewhere], replace=True)
    assert picture.snapshot().gateways == {*WHOLE.gateways, elsewhere}
    fresh = replace(GATEWAY6, address=ip_address("2001:db8::9"))
    assert picture.gateways_are([fresh], replace=True)
    assert picture.snapshot().gateways == {GATEWAY, fresh, elsewhere, OTHER}


def test_a_route_of_several_ways_is_all_of_them(picture: Picture) -> None:
    ways = [replace(GATEWAY, link=WWAN), GATEWAY]
    assert picture.gateways_are(ways, replace=True)
    assert picture.snapshot().gateways == {*ways, GATEWAY6, OTHER}
    assert picture.gateways_gone(ways)
    assert picture.snapshot().gateways == {GATEWAY6, OTHER}
