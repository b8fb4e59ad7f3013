"""What changed between two snapshots, and that nothing else is said to have."""

from dataclasses import replace
from ipaddress import IPv4Address

from hypothesis import given, strategies
from hypothesis.strategies import SearchStrategy

from orchestrator.core.network import (
    Change,
    Gateway,
    Link,
    LinkAddress,
    Snapshot,
    changes,
)
from orchestrator.core.quantities import LinkIndex
from tests.unit.core.builders import LTE, LTE6, WIFI, WIFI2, WIFI_SECOND, snapshot

indices = strategies.integers(1, 3).map(LinkIndex)
hosts = strategies.integers(0x0A000001, 0x0A000003).map(IPv4Address)


def links() -> SearchStrategy[frozenset[Link]]:
    """At most one link for each index, as the kernel has it."""
    one = strategies.builds(Link, indices, strategies.sampled_from("ab"), strategies.booleans())
    return strategies.lists(one, max_size=3, unique_by=lambda link: link.index).map(frozenset)


snapshots = strategies.builds(
    Snapshot,
    links(),
    strategies.frozensets(
        strategies.builds(LinkAddress, indices, hosts, strategies.booleans()), max_size=3
    ),
    strategies.frozensets(
        strategies.builds(
            Gateway, indices, strategies.just(4), hosts, strategies.integers(1, 2)
        ),
        max_size=3,
    ),
)


def test_says_nothing_when_nothing_changed() -> None:
    assert changes(snapshot(WIFI, LTE), snapshot(LTE, WIFI)) == frozenset()


def test_names_everything_about_a_link_that_came() -> None:
    assert changes(snapshot(WIFI), snapshot(WIFI, LTE)) == {
        Change.LINK_NEW,
        Change.ADDRESS_NEW,
        Change.GATEWAY_NEW,
    }


def test_names_everything_about_a_link_that_went() -> None:
    assert changes(snapshot(WIFI, LTE), snapshot(WIFI)) == {
        Change.LINK_GONE,
        Change.ADDRESS_GONE,
        Change.GATEWAY_GONE,
    }


def test_tells_carrier_lost_from_link_gone() -> None:
    down = replace(WIFI, up=False)
    assert changes(snapshot(WIFI), snapshot(down)) == {Change.LINK_DOWN}
    assert changes(snapshot(down), snapshot(WIFI)) == {Change.LINK_UP}


def test_takes_a_renamed_link_for_another_one() -> None:
    renamed = replace(WIFI, link="home")
    assert changes(snapshot(WIFI), snapshot(renamed)) == {Change.LINK_NEW}


def test_tells_a_second_address_from_a_new_link() -> None:
    both = snapshot(WIFI, WIFI_SECOND)
    assert changes(snapshot(WIFI), both) == {Change.ADDRESS_NEW}
    assert changes(both, snapshot(WIFI)) == {Change.ADDRESS_GONE}


def test_notices_that_an_address_is_no_longer_usable() -> None:
    deprecated = snapshot(replace(LTE6, usable=False))
    assert Change.ADDRESS_GONE in changes(snapshot(LTE6), deprecated)


def test_notices_another_gateway() -> None:
    moved = snapshot(replace(WIFI2, gateway="192.0.2.253"))
    assert changes(snapshot(WIFI2), moved) == {Change.GATEWAY_NEW, Change.GATEWAY_GONE}


@given(snapshots, snapshots)
def test_is_empty_exactly_when_the_snapshots_are_equal(old: Snapshot, new: Snapshot) -> None:
    assert (changes(old, new) == frozenset()) == (old == new)


OPPOSITE = {
    Change.LINK_UP: Change.LINK_DOWN,
    Change.LINK_DOWN: Change.LINK_UP,
    Change.ADDRESS_NEW: Change.ADDRESS_GONE,
    Change.ADDRESS_GONE: Change.ADDRESS_NEW,
    Change.GATEWAY_NEW: Change.GATEWAY_GONE,
    Change.GATEWAY_GONE: Change.GATEWAY_NEW,
}


@given(snapshots, snapshots)
def test_going_back_has_the_opposite_names(old: Snapshot, new: Snapshot) -> None:
    forth, back = changes(old, new), changes(new, old)
    for change, opposite in OPPOSITE.items():
        assert (change in forth) == (opposite in back), change
