"""IPv4 addresses in IPv6 ones, as RFC 6052 prints them, and the prefixes behind answers."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given, strategies

from orchestrator.core.nat64 import (
    ASKED_ADDRESSES,
    LENGTHS,
    WELL_KNOWN_PREFIX,
    extract,
    prefixes,
    synthesize,
)

ADDRESS = IPv4Address("192.0.2.33")
PRINTED = (
    ("2001:db8::/32", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
    ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
)
"""RFC 6052, 2.4."""

any_prefix = strategies.builds(
    lambda number, length: IPv6Network((number, length), strict=False),
    strategies.integers(0, 2**128 - 1),
    strategies.sampled_from(LENGTHS),
).filter(lambda prefix: prefix.prefixlen < 96 or prefix.network_address.packed[8] == 0)
"""A prefix of 96 bits has octet 8 within it: zero too (RFC 6052, 2.2)."""
any_address = strategies.integers(0, 2**32 - 1).map(IPv4Address)


@pytest.mark.parametrize(("prefix", "whole"), PRINTED)
def test_addresses_are_those_of_the_rfc(prefix: str, whole: str) -> None:
    assert synthesize(IPv6Network(prefix), ADDRESS) == IPv6Address(whole)
    assert extract(IPv6Network(prefix), IPv6Address(whole)) == ADDRESS


@given(any_prefix, any_address)
def test_what_was_put_in_comes_out(prefix: IPv6Network, address: IPv4Address) -> None:
    whole = synthesize(prefix, address)
    if whole is None:
        assert prefix == WELL_KNOWN_PREFIX
    else:
        assert whole in prefix
        assert extract(prefix, whole) == address


def test_the_well_known_prefix_is_for_the_whole_worlds_addresses() -> None:
    anybody = IPv4Address("9.9.9.9")
    assert synthesize(WELL_KNOWN_PREFIX, anybody) == IPv6Address("64:ff9b::9.9.9.9")
    assert synthesize(WELL_KNOWN_PREFIX, IPv4Address("10.0.0.1")) is None


def test_an_address_elsewhere_holds_none() -> None:
    assert extract(IPv6Network("2001:db8::/96"), IPv6Address("2001:db9::1")) is None
    filled = IPv6Address("2001:db8:122:344:ffc0:2:2100:0")
    assert extract(IPv6Network("2001:db8:122:344::/64"), filled) is None


@given(any_prefix)
def test_a_prefix_is_found_in_both_answers(prefix: IPv6Network) -> None:
    answers = [synthesize(prefix, address) for address in ASKED_ADDRESSES]
    found = prefixes([answer for answer in answers if answer is not None])
    if prefix != WELL_KNOWN_PREFIX:
        # Nothing where the prefix itself happens to hold the address as well.
        assert found in ((prefix,), ())


@pytest.mark.parametrize("prefix", [prefix for prefix, _ in PRINTED])
def test_each_length_is_told_from_the_others(prefix: str) -> None:
    network = IPv6Network(prefix)
    answers = [synthesize(network, address) for address in ASKED_ADDRESSES]
    assert prefixes([answer for answer in answers if answer]) == (network,)


def test_an_address_at_two_places_says_nothing() -> None:
    assert prefixes([IPv6Address("2001:db8:c000:aa::192.0.0.170")]) == ()


def test_an_address_without_it_says_nothing() -> None:
    assert prefixes([IPv6Address("2001:db8::1")]) == ()


def test_a_network_may_have_several() -> None:
    answers = ("2001:db8:1::192.0.0.170", "2001:db8:2::192.0.0.171", "2001:db8:1::192.0.0.171")
    assert prefixes(map(IPv6Address, answers)) == (
        IPv6Network("2001:db8:1::/96"),
        IPv6Network("2001:db8:2::/96"),
    )
