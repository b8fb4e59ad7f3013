"""The description of the lab's internet makes sense, before anything is built from it."""

import json
from itertools import chain
from pathlib import Path

import pytest

from orchestrator.lab.internet import INTERNET, Link, as_json

EXPORTED = Path(__file__).parents[3] / "vagrant" / "internet.json"

links = pytest.mark.parametrize("link", INTERNET.links, ids=lambda link: link.name)
access_links = pytest.mark.parametrize(
    "link", INTERNET.access_links, ids=lambda link: link.name
)


def test_what_vagrant_reads_is_up_to_date() -> None:
    assert EXPORTED.read_text() == as_json(INTERNET), (
        "type: .venv/bin/python -m orchestrator.lab.internet > vagrant/internet.json"
    )


def test_json_is_json() -> None:
    assert json.loads(as_json(INTERNET))["links"][0]["name"] == "wifi"


@links
def test_links_join_hosts_that_exist(link: Link) -> None:
    for end in link.ends:
        assert INTERNET.host(end.host).name == end.host


def test_no_device_is_there_twice() -> None:
    devices = [(end.host, end.device) for link in INTERNET.links for end in link.ends]
    assert len(set(devices)) == len(devices)


def test_no_address_is_there_twice() -> None:
    fixed = [each.ip for link in INTERNET.links for end in link.ends for each in end.addresses]
    leased = [
        each.ip
        for link in INTERNET.links
        if link.lease
        for each in (*link.lease.addresses, *link.lease.alternates)
    ]
    assert len({*fixed, *leased}) == len(fixed) + len(leased)


@links
def test_both_ends_are_in_the_same_networks(link: Link) -> None:
    near, far = ({each.network for each in end.addresses} for end in link.ends)
    leased = {each.network for each in link.lease.addresses} if link.lease else far
    assert near == leased


@access_links
def test_gateways_are_the_routers_own_addresses(link: Link) -> None:
    assert link.lease is not None
    assert set(link.lease.gateways) == {each.ip for each in link.near.addresses}


@access_links
def test_an_access_link_is_shaped_behind_its_router(link: Link) -> None:
    assert link.uplink is not None
    assert INTERNET.link(link.uplink).far.host == link.near.host


def test_every_gateway_is_a_neighbour() -> None:
    for host in INTERNET.hosts:
        networks = [
            each.network for end in INTERNET.ends_of(host.name) for each in end.addresses
        ]
        for route in host.routes:
            assert any(route.gateway in network for network in networks), route


def test_the_middle_has_no_route_to_what_only_the_server_knows() -> None:
    secret = (*INTERNET.lan_networks, *INTERNET.vip_pools)
    for route in INTERNET.host("internet").routes:
        for network in secret:
            assert route.destination.version != network.version or not (
                route.destination.overlaps(network)
            )


def test_underlay_and_lan_meet_at_the_server_only() -> None:
    sides = {
        underlay: set(
            chain.from_iterable(
                (end.host for end in link.ends)
                for link in INTERNET.links
                if link.underlay is underlay
            )
        )
        for underlay in (True, False)
    }
    assert sides[True] & sides[False] == {"server"}


def test_a_host_is_asked_for_its_address_by_family() -> None:
    assert str(INTERNET.address("server")) == "203.0.113.10"
    assert str(INTERNET.address("server", 6)) == "2001:db8:113::10"
    with pytest.raises(KeyError, match="endpoint has no fixed IPv4 address"):
        INTERNET.address("endpoint")


def test_an_unknown_link_is_named_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match="no link 'wify'; it has wifi, wifi2, lte"):
        INTERNET.link("wify")
