"""What a link of the lab does to packets, and what attaching to one does to the endpoint."""

import json
import time
from statistics import median
from typing import Any

import pytest

from orchestrator.lab.host import Host
from orchestrator.lab.internet import INTERNET
from orchestrator.lab.netns import Lab
from tests.kernel.lab.datagrams import Line

SERVER = INTERNET.address("server")
SERVER6 = INTERNET.address("server", 6)
ENOUGH_TO_BE_LOST = 0.3
"""Seconds in which a datagram would have arrived ten times over."""


def ip(host: Host, *command: str) -> Any:
    return json.loads(host.run(["ip", "-json", *command]).stdout or "[]")


def addresses(lab: Lab, device: str) -> set[str]:
    shown = ip(lab.host("endpoint"), "address", "show", "dev", device, "scope", "global")
    # What the scope leaves out stands there as an empty object.
    return {each["local"] for link in shown for each in link.get("addr_info", ()) if each}


def default_routes(lab: Lab) -> list[tuple[str, str, int]]:
    endpoint = lab.host("endpoint")
    return [
        (route["gateway"], route["protocol"], route["metric"])
        for version in ("-4", "-6")
        for route in ip(endpoint, version, "route", "show", "default")
    ]


def carrier(lab: Lab, device: str) -> bool:
    [shown] = ip(lab.host("endpoint"), "link", "show", "dev", device)
    return "LOWER_UP" in shown["flags"]


def uplink(lab: Lab, version: int = 4) -> Line:
    destination = SERVER if version == 4 else SERVER6
    return Line(lab.host("endpoint"), lab.host("server"), destination)


def test_attaching_gives_carrier_address_and_default_route(lab: Lab) -> None:
    lab.link("wifi").attach()
    assert carrier(lab, "wlan0")
    assert addresses(lab, "wlan0") == {"192.168.10.2"}
    assert default_routes(lab) == [("192.168.10.1", "dhcp", 600)]


def test_attaching_to_lte_gives_both_families(lab: Lab) -> None:
    lab.link("lte").attach()
    assert addresses(lab, "wwan0") == {"100.64.0.2", "2001:db8:64::2"}
    assert default_routes(lab) == [("100.64.0.1", "dhcp", 700), ("2001:db8:64::1", "ra", 700)]


@pytest.mark.parametrize("version", [4, 6])
def test_attached_packets_arrive(lab: Lab, version: int) -> None:
    lab.link("lte").attach()
    with uplink(lab, version) as line:
        line.send()
        assert line.source_of_next() is not None


def test_an_address_can_be_asked_for(lab: Lab) -> None:
    lab.link("wifi").attach("192.168.10.3")
    assert addresses(lab, "wlan0") == {"192.168.10.3"}


def test_detached_nothing_is_left_on_the_endpoint(lab: Lab) -> None:
    lab.link("lte").attach()
    lab.link("lte").detach()
    assert not carrier(lab, "wwan0")
    assert addresses(lab, "wwan0") == set()
    assert default_routes(lab) == []


def test_readdressing_keeps_the_carrier(lab: Lab) -> None:
    lab.link("wifi").attach()
    lab.link("wifi").readdress("192.168.10.3")
    assert carrier(lab, "wlan0")
    assert addresses(lab, "wlan0") == {"192.168.10.3"}
    assert default_routes(lab) == [("192.168.10.1", "dhcp", 600)]


def test_roaming_breaks_before_it_makes(lab: Lab) -> None:
    lab.link("wifi").attach()
    lab.link("wifi2").attach()
    lab.roam("lte")
    assert [link.name for link in lab.access_links if link.attached] == ["lte"]
    assert addresses(lab, "wlan0") == addresses(lab, "wlan1") == set()


def test_the_instant_of_attaching_is_just_before_the_first_packet_can_leave(lab: Lab) -> None:
    lab.link("wifi2").set(delay_ms=10)
    with uplink(lab) as line:
        since = lab.link("wifi2").attach()
        line.send()
        assert line.source_of_next() is not None
        taken_ms = (time.monotonic() - since) * 1000
    assert 10 <= taken_ms < 40, "one way, and not once more for ARP"


def test_down_takes_the_carrier_and_nothing_else(lab: Lab) -> None:
    lab.link("wifi").attach()
    lab.link("wifi").down()
    assert not carrier(lab, "wlan0")
    assert addresses(lab, "wlan0") == {"192.168.10.2"}
    lab.link("wifi").up()
    with uplink(lab) as line:
        line.send()
        assert line.source_of_next() is not None


def test_wifi_is_behind_nat_and_wifi2_is_not(lab: Lab) -> None:
    sources = {}
    for name in ("wifi", "wifi2"):
        lab.roam(name)
        with uplink(lab) as line:
            line.send()
            sources[name] = line.source_of_next()
    assert sources == {"wifi": "198.51.100.2", "wifi2": "192.0.2.130"}


def test_a_cut_link_looks_well_and_carries_nothing(lab: Lab) -> None:
    lab.link("wifi").attach()
    with uplink(lab) as line:
        lab.link("wifi").cut()
        line.send()
        assert line.source_of_next(ENOUGH_TO_BE_LOST) is None
        assert carrier(lab, "wlan0")
        lab.link("wifi").mend()
        line.send()
        assert line.source_of_next() is not None


def test_all_lost_is_all_lost_and_none_lost_is_none(lab: Lab) -> None:
    lab.link("wifi").attach()
    with uplink(lab) as line:
        lab.link("wifi").set(loss_percent=100)
        line.send()
        assert line.source_of_next(ENOUGH_TO_BE_LOST) is None
        lab.link("wifi").set(loss_percent=0)
        line.send()
        assert line.source_of_next() is not None


def test_half_lost_is_about_half(lab: Lab) -> None:
    lab.link("wifi").attach()
    lab.link("wifi").set(loss_percent=50)
    with uplink(lab) as line:
        for _ in range(200):
            line.send()
        arrived = 0
        while line.source_of_next(ENOUGH_TO_BE_LOST) is not None:
            arrived += 1
    assert 60 < arrived < 140


@pytest.mark.parametrize("delay_ms", [0, 20, 100])
def test_delay_is_what_was_set(lab: Lab, delay_ms: float) -> None:
    lab.link("wifi").attach()
    lab.link("wifi").set(delay_ms=delay_ms)
    with uplink(lab) as line:
        line.milliseconds()
        taken = median(line.milliseconds() for _ in range(5))
    assert delay_ms <= taken < delay_ms + 10


def test_rate_is_what_was_set(lab: Lab) -> None:
    lab.link("wifi").attach()
    lab.link("wifi").set(rate_mbit=2, delay_ms=0)
    packets, octets = 50, 1250
    with uplink(lab) as line:
        began = time.monotonic()
        for _ in range(packets):
            line.send(bytes(octets))
        for _ in range(packets):
            assert line.source_of_next() is not None
        mbit = packets * octets * 8 / (time.monotonic() - began) / 1e6
    assert 1.5 < mbit < 2.1


def test_the_middle_knows_no_way_to_the_lan_and_to_virtual_addresses(lab: Lab) -> None:
    middle = lab.host("internet")
    for network in (*INTERNET.lan_networks, *INTERNET.vip_pools):
        asked = middle.run(["ip", "route", "get", str(network[1])], check=False)
        assert asked.returncode != 0, asked.stdout
        assert "unreachable" in asked.stderr.lower()


def test_nobody_attaches_to_a_link_without_a_lease(lab: Lab) -> None:
    with pytest.raises(ValueError, match="not an access link"):
        lab.link("wan").attach()
