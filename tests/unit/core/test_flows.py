"""Which connections the proxy takes, and how a flow's limit is shared out."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, strategies

from orchestrator.core.flows import (
    LEAST_OCTETS_PER_FLOW,
    MOST_OCTETS_PER_FLOW,
    UNCONFIGURED,
    UNLIMITED_MS,
    ProxySettings,
    Refusal,
    SourcePolicy,
    admit,
    tunings,
)
from tests.unit.core.builders import PORTS

SETTINGS = ProxySettings(
    pools=(ip_network("10.99.0.0/24"), ip_network("fd00:99::/64")),
    source=SourcePolicy.VIP,
    ports=PORTS,
    flows_per_vip=2,
    flows=3,
    octets_per_flow=1024 * 1024,
    octets_per_vip=1 << 30,
    octets=1 << 30,
)


def verdict(
    vip: str, peer: str, of_vip: int = 0, in_all: int = 0, capacity: int = 1000
) -> Refusal | None:
    return admit(
        SETTINGS,
        ip_address(vip),
        ip_address(peer),
        of_vip=of_vip,
        in_all=in_all,
        capacity=capacity,
    )


def test_takes_a_connection_between_a_vip_and_anybody() -> None:
    assert verdict("10.99.0.7", "10.50.0.2") is None
    assert verdict("fd00:99::7", "2001:db8::1") is None
    assert verdict("10.99.0.7", "10.99.0.8") is None


def test_refuses_everybody_before_it_is_configured() -> None:
    vip, peer = ip_address("10.99.0.7"), ip_address("10.50.0.2")
    refusal = admit(UNCONFIGURED, vip, peer, of_vip=0, in_all=0, capacity=1000)
    assert refusal is Refusal.FOREIGN


def test_refuses_who_has_no_vip() -> None:
    assert verdict("127.0.0.1", "127.0.0.1") is Refusal.FOREIGN
    assert verdict("10.98.0.7", "10.50.0.2") is Refusal.FOREIGN


@pytest.mark.parametrize(
    "peer", ["127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "169.254.169.254"]
)
def test_refuses_where_nobody_can_be(peer: str) -> None:
    assert verdict("10.99.0.7", peer) is Refusal.DESTINATION


def test_refuses_what_is_beyond_a_limit_and_not_what_reaches_it() -> None:
    assert verdict("10.99.0.7", "10.50.0.2", of_vip=1) is None
    assert verdict("10.99.0.7", "10.50.0.2", of_vip=2) is Refusal.VIP_FULL
    assert verdict("10.99.0.7", "10.50.0.2", in_all=2) is None
    assert verdict("10.99.0.7", "10.50.0.2", in_all=3) is Refusal.SERVER_FULL
    assert verdict("10.99.0.7", "10.50.0.2", in_all=1, capacity=1) is Refusal.SERVER_FULL


@given(strategies.integers(LEAST_OCTETS_PER_FLOW, MOST_OCTETS_PER_FLOW))
def test_no_direction_of_any_flow_can_hold_more_than_its_limit(limit: int) -> None:
    shares = tunings(replace(SETTINGS, octets_per_flow=limit))
    assert shares.fixed.receive + shares.queue + shares.mobile.send <= limit
    assert shares.mobile.receive + shares.queue + shares.fixed.send <= limit
    assert shares.mobile_pair.receive + shares.queue + shares.mobile_pair.send <= limit
    for leg in (shares.fixed, shares.mobile, shares.mobile_pair):
        assert min(leg.receive, leg.send) >= limit // 4


def test_only_a_leg_whose_far_end_may_be_away_is_waited_for_without_end() -> None:
    shares = tunings(SETTINGS)
    assert shares.mobile.user_timeout_ms == shares.mobile_pair.user_timeout_ms == UNLIMITED_MS
    assert not shares.mobile.keepalive
    assert shares.fixed.user_timeout_ms < UNLIMITED_MS
    assert shares.fixed.keepalive


@pytest.mark.parametrize(
    "wrong", [{"octets_per_flow": 1}, {"flows": 0}, {"flows_per_vip": 0}, {"dial_seconds": 0}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"."):
        replace(SETTINGS, **wrong)  # type: ignore[arg-type]
