"""A machine that is one host of the lab has what the description says, and twice is once."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.lab import machine
from orchestrator.lab.internet import INTERNET, Quality
from tests.kernel.netns import Namespace

NAMES = Path(__file__).parents[3] / "vagrant" / "names"


def at(namespace: Namespace, name: str) -> Namespace:
    """The namespace with cables to nowhere in all devices of a host."""
    for end in INTERNET.ends_of(name):
        namespace.ip(f"link add {end.device} type veth peer name far-{end.device}")
        namespace.ip(f"link set far-{end.device} up")
    return namespace


def state(namespace: Namespace) -> dict[str, Any]:
    """The routes and addresses, without what the kernel adds by itself some time later."""
    shown: dict[str, Any] = {
        what: [
            {key: value for key, value in route.items() if key != "flags"}
            for route in json.loads(namespace.run(f"ip -json {what}"))
            if route["protocol"] != "kernel"
        ]
        for what in ("-4 ro", "-6 ro")
    }
    shown["addresses"] = sorted(
        f"{each['local']}/{each['prefixlen']} {device['ifname']}"
        for device in json.loads(namespace.run("ip -json address show scope global"))
        for each in device.get("addr_info", ())
        if each
    )
    shown["qdiscs"] = [
        each for each in json.loads(namespace.run("tc -json qdisc")) if each["kind"] == "netem"
    ]
    return shown


def routes(namespace: Namespace) -> set[tuple[str, str]]:
    shown = state(namespace)
    return {
        (route["dst"], route["gateway"])
        for route in (*shown["-4 ro"], *shown["-6 ro"])
        if "gateway" in route
    }


@pytest.fixture
def bring_up(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Brings a host of the lab up; skips where links cannot be slow and one should be."""

    def bring_up(name: str) -> None:
        if any(machine._qualities(INTERNET, name)):
            request.getfixturevalue("needs_netem")
        machine.bring_up(INTERNET, name)

    return bring_up


@pytest.mark.parametrize("name", [host.name for host in INTERNET.hosts])
def test_a_machine_has_its_hosts_addresses_and_routes(
    network_namespace: Namespace, bring_up: Callable[[str], None], name: str
) -> None:
    here = at(network_namespace, name)
    bring_up(name)
    assert state(here)["addresses"] == sorted(
        f"{interface} {end.device}"
        for end in INTERNET.ends_of(name)
        for interface in end.addresses
    )
    everywhere = {"0.0.0.0/0": "default", "::/0": "default"}
    assert routes(here) == {
        (everywhere.get(str(route.destination), str(route.destination)), str(route.gateway))
        for route in INTERNET.host(name).routes
    }
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()
    assert forwarding == str(int(INTERNET.host(name).forwards))


@pytest.mark.parametrize("name", ["ap1", "internet"])
def test_the_access_links_are_slow_behind_their_routers(
    network_namespace: Namespace, bring_up: Callable[[str], None], name: str
) -> None:
    here = at(network_namespace, name)
    bring_up(name)
    shown = {each["dev"]: each["options"]["delay"]["delay"] for each in state(here)["qdiscs"]}
    expected: dict[str, object] = {}
    for link in INTERNET.links:
        shaped = INTERNET.link(link.uplink or link.name)
        expected |= {
            end.device: pytest.approx(link.quality.delay_ms / 1000)
            for end in shaped.ends
            if end.host == name and link.quality != Quality()
        }
    assert expected
    assert shown == expected


def test_twice_is_once(network_namespace: Namespace, bring_up: Callable[[str], None]) -> None:
    here = at(network_namespace, "ap1")
    bring_up("ap1")
    before = (state(here), here.run("nft list ruleset"))
    assert before[1].count("masquerade") == 1
    bring_up("ap1")
    assert (state(here), here.run("nft list ruleset")) == before


def test_the_endpoint_is_where_it_roamed_to_and_nowhere_else(
    network_namespace: Namespace,
) -> None:
    here = at(network_namespace, "endpoint")
    machine.bring_up(INTERNET, "endpoint")
    assert state(here)["addresses"] == []
    machine.roam(INTERNET, "wifi")
    machine.roam(INTERNET, "lte")
    assert state(here)["addresses"] == ["100.64.0.2/24 wwan0", "2001:db8:64::2/64 wwan0"]
    assert routes(here) == {("default", "100.64.0.1"), ("default", "2001:db8:64::1")}
    machine.leave(INTERNET)
    assert state(here)["addresses"] == []
    assert routes(here) == set()


def test_devices_get_their_names_though_another_had_one_of_them(
    make_namespace: Callable[[], Namespace],
) -> None:
    here = make_namespace()
    # A fresh sysfs, for the script looks for devices there.
    within = f"unshare --mount sh -c 'mount -t sysfs lab /sys && {NAMES} %s'"
    macs = {"eth1": "02:00:00:00:00:01", "eth2": "02:00:00:00:00:02"}
    here.ip("link add eth1 type veth peer name eth2")
    here.ip(*(f"link set {name} address {mac}" for name, mac in macs.items()))
    wanted = f"{macs['eth1']} eth0 {macs['eth2']} eth1"
    for _ in range(2):
        here.run(within % wanted)
        named = {
            each["ifname"]: each["address"] for each in json.loads(here.run("ip -json link"))
        }
        assert named["eth0"] == macs["eth1"]
        assert named["eth1"] == macs["eth2"]
    with pytest.raises(subprocess.CalledProcessError):
        here.run(within % f"{macs['eth1']} eth1")
