"""The rulesets, as text. What they do to packets is tried in tests/kernel/proxy."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from orchestrator.core.firewall import (
    EndpointCounter,
    ServerCounter,
    ServerFirewall,
    endpoint_ruleset,
    server_ruleset,
    tunnel_interface,
)
from orchestrator.core.quantities import IPAddress
from tests.unit.core.builders import PORTS

GOLDEN = Path(__file__).parent / "golden"
VIPS: list[IPAddress] = [ip_address("10.99.0.7"), ip_address("fd00:99::7")]
SERVER = ServerFirewall(
    underlay=["wan0"],
    pools=[ip_network("10.99.0.0/24"), ip_network("fd00:99::/64")],
    service_port=4242,
    proxy=PORTS,
    services=[ip_address("192.0.0.8"), ip_address("fd6f:7263:6865::1")],
    management_ports=[22],
)


def test_the_endpoint_ruleset_is_the_golden_one() -> None:
    assert endpoint_ruleset(VIPS, "vip0") == (GOLDEN / "endpoint.nft").read_text()


def test_the_server_ruleset_is_the_golden_one() -> None:
    assert server_ruleset(SERVER) == (GOLDEN / "server.nft").read_text()


def test_the_order_of_what_is_asked_for_does_not_matter() -> None:
    assert endpoint_ruleset(reversed(VIPS), "vip0") == endpoint_ruleset(VIPS, "vip0")
    shuffled = replace(
        SERVER,
        underlay=["wan1", "wan0", "wan1"],
        pools=list(reversed(SERVER.pools)),
        management_ports=[443, 22],
    )
    ordered = replace(SERVER, underlay=["wan0", "wan1"], management_ports=[22, 443])
    assert server_ruleset(shuffled) == server_ruleset(ordered)


def test_neighbouring_pools_become_one_interval() -> None:
    split = replace(SERVER, pools=[ip_network("10.99.0.0/25"), ip_network("10.99.0.128/25")])
    assert "elements = { 10.99.0.0/24 }" in server_ruleset(split)


def test_without_a_proxy_nothing_is_intercepted_and_tcp_is_forwarded() -> None:
    text = server_ruleset(replace(SERVER, proxy=None))
    assert "tproxy" not in text
    assert f"counter name {ServerCounter.UNPROXIED_TCP} drop" not in text


def test_an_empty_set_has_no_elements_line() -> None:
    assert "elements" not in endpoint_ruleset([], "vip0")


def test_every_counter_is_declared_and_used() -> None:
    for text, names in (
        (endpoint_ruleset(VIPS, "vip0"), EndpointCounter),
        (server_ruleset(SERVER), ServerCounter),
    ):
        for name in names:
            assert f"counter {name} {{ }}" in text
            assert f"counter name {name} " in text


@pytest.mark.parametrize("name", ["", 'a"b', "a\nb", "a\\b", "wan*"])
def test_a_name_that_is_no_interface_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no interface name"):
        endpoint_ruleset(VIPS, name)
    with pytest.raises(ValueError, match="no interface name"):
        tunnel_interface(name)
