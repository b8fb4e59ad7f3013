"""The rulesets at work: what passes, what is dropped, and that it is counted.

Each drop has its negative control: the same packet passes when the rule is not there.
"""

import contextlib
import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from orchestrator.core.endpoint_state import SERVICE, SERVICE_PORT
from orchestrator.core.firewall import (
    EndpointCounter,
    ServerCounter,
    ServerFirewall,
    endpoint_ruleset,
    server_ruleset,
)
from tests.kernel.netns import Namespace
from tests.kernel.proxy.lan import (
    FAMILY,
    PATIENCE,
    PEER,
    POOLS,
    PORTS,
    SERVER,
    VIP,
    Lan,
    add_rules,
    ip,
    load_rules,
    serve,
    sysctl,
)

SILENCE = 0.3
"""Seconds after which a packet that needs microseconds did not come."""
STRANGER = "203.0.113.1"
WAN = "203.0.113.10"


class Internet(Lan):
    """As `Lan`, and a stranger on a second underlay interface, without tunnel."""

    def __init__(self, make: Callable[[], Namespace], *, esp: bool) -> None:
        super().__init__(make, esp=esp)
        self.stranger = make()
        ip(
            self.server,
            f"link add wan0 type veth peer name eth0 netns {self.stranger.path}",
            "link set wan0 up",
            f"addr add {WAN}/24 dev wan0",
            "-6 addr add 2001:db8:113::10/64 dev wan0 nodad",
        )
        ip(
            self.stranger,
            "link set eth0 up",
            f"addr add {STRANGER}/24 dev eth0",
            f"route add default via {WAN}",
            "-6 addr add 2001:db8:113::1/64 dev eth0 nodad",
        )
        for name in ("all", "wan0", "lan0"):
            sysctl(self.server, f"net/ipv4/conf/{name}/rp_filter", "0")

    def guard(self, **changes: object) -> None:
        firewall: ServerFirewall = replace(self.firewall, underlay=["ep0", "wan0"], **changes)  # type: ignore[arg-type]
        self.load(firewall)


@pytest.fixture
def own_internet(make_namespace: Callable[[], Namespace], kernel_has_esp: bool) -> Internet:
    """One that the test may leave as it likes."""
    return Internet(make_namespace, esp=kernel_has_esp)


@pytest.fixture(scope="module")
def _internet(kernel_has_esp: bool) -> Iterator[Internet]:
    with contextlib.ExitStack() as made:
        yield Internet(
            lambda: made.enter_context(contextlib.closing(Namespace.create())),
            esp=kernel_has_esp,
        )


@pytest.fixture
def internet(_internet: Internet) -> Internet:
    """The module's, without any rules."""
    load_rules(_internet.server, "")
    load_rules(_internet.endpoint, "")
    return _internet


def datagram_arrives(
    source: tuple[Namespace, str], to: tuple[Namespace, str], port: int = 4000
) -> bool:
    """Whether a UDP datagram gets through."""
    family = FAMILY[ip_address(to[1]).version]
    with to[0].entered():
        receiver = socket.socket(family, socket.SOCK_DGRAM)
        receiver.bind((to[1], port))
    with source[0].entered():
        sender = socket.socket(family, socket.SOCK_DGRAM)
        sender.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT: any source
        sender.bind((source[1], 0))
    with receiver, sender:
        receiver.settimeout(SILENCE)
        try:
            sender.sendto(b"?", (to[1], port))
            return receiver.recv(10) == b"?"
        except (TimeoutError, PermissionError, ConnectionRefusedError):
            return False


def connects(client: Namespace, to: tuple[str, int], source: str = "") -> bool:
    with client.entered():
        sock = socket.socket(FAMILY[ip_address(to[0]).version], socket.SOCK_STREAM)
    with sock:
        sock.settimeout(SILENCE)
        if source:
            sock.bind((source, 0))
        try:
            sock.connect(to)
        except TimeoutError:
            return False
    return True


def pings(client: Namespace, to: str) -> bool:
    with client.entered():
        command = ["ping", "-c", "1", "-W", "1", to]
        done = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)
    return done.returncode == 0


def count(namespace: Namespace, name: str) -> int:
    """Packets that a counter of our table has seen."""
    listed = namespace.run(f"nft -j list counter inet orchestrator {name}")
    (packets,) = (
        entry["counter"]["packets"]
        for entry in json.loads(listed)["nftables"]
        if "counter" in entry
    )
    return int(packets)


# ---- the server


def test_the_underlay_reaches_ike_and_nothing_else_of_the_server(internet: Internet) -> None:
    stranger, server = (internet.stranger, STRANGER), (internet.server, WAN)
    ports = {500: True, 4500: True, 53: False, 4242: False, 11110: False}
    for port in ports:
        assert datagram_arrives(stranger, server, port)
    internet.guard()
    for port, passes in ports.items():
        assert datagram_arrives(stranger, server, port) is passes
    assert count(internet.server, ServerCounter.IKE) == 2
    assert count(internet.server, ServerCounter.UNDERLAY_DROPPED) >= 3  # MLD may add to it
    assert pings(internet.stranger, WAN)
    assert pings(internet.stranger, "2001:db8:113::10")


def test_a_tcp_port_is_reachable_from_the_underlay_only_if_the_operator_says_so(
    internet: Internet,
) -> None:
    with serve(internet.server, WAN, 2222):
        internet.guard()
        assert not connects(internet.stranger, (WAN, 2222))
        internet.guard(management_ports=[2222])
        assert connects(internet.stranger, (WAN, 2222))


def test_a_flood_of_ike_leaves_no_trace_in_the_table_of_connections(
    own_internet: Internet,
) -> None:
    own_internet.guard()
    for port, tracked in ((500, 0), (4500, 0), (53, 0)):
        before = connections(own_internet.server)
        datagram_arrives((own_internet.stranger, STRANGER), (own_internet.server, WAN), port)
        assert connections(own_internet.server) - before == tracked
    # What may be answered is tracked, so the count does count.
    before = connections(own_internet.server)
    assert datagram_arrives((own_internet.peer, PEER[4]), (own_internet.server, SERVER[4]), 53)
    assert connections(own_internet.server) - before == 1


def connections(namespace: Namespace) -> int:
    with namespace.entered():
        return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())


def test_the_servers_own_connections_get_their_answers(internet: Internet) -> None:
    internet.guard()
    with serve(internet.stranger, STRANGER) as listener:
        assert connects(internet.server, listener.getsockname())
    assert pings(internet.server, STRANGER)


def test_the_lan_reaches_the_server_as_ever(internet: Internet) -> None:
    internet.guard()
    assert datagram_arrives((internet.peer, PEER[4]), (internet.server, SERVER[4]), 53)


def test_nobody_on_the_underlay_is_forwarded_to_the_lan(internet: Internet) -> None:
    stranger, peer = (internet.stranger, STRANGER), (internet.peer, PEER[4])
    assert datagram_arrives(stranger, peer)
    internet.guard()
    assert not datagram_arrives(stranger, peer)
    assert count(internet.server, ServerCounter.FORWARD_DROPPED) == 1


def test_nobody_on_the_underlay_reaches_a_vip_in_clear(internet: Internet) -> None:
    stranger, endpoint = (internet.stranger, STRANGER), (internet.endpoint, VIP[4])
    assert datagram_arrives(stranger, endpoint)
    internet.guard()
    assert not datagram_arrives(stranger, endpoint)
    assert count(internet.server, ServerCounter.FORWARD_DROPPED) == 1


@pytest.mark.parametrize("where", ["stranger", "peer"])
def test_a_vip_as_source_without_an_sa_is_dropped(internet: Internet, where: str) -> None:
    claimant = {"stranger": internet.stranger, "peer": internet.peer}[where]
    claim, server = (claimant, VIP[4]), (internet.server, WAN)
    assert datagram_arrives(claim, server, 500)
    internet.guard()
    assert not datagram_arrives(claim, server, 500)
    assert count(internet.server, ServerCounter.SPOOFED) >= 1  # MLD of `vip0` may add to it


def test_nobody_but_the_server_speaks_to_an_endpoint_as_the_service(internet: Internet) -> None:
    """Of IPv4 the kernel itself drops what claims to be from an address of its own."""
    forger, endpoint = (internet.peer, str(SERVICE[6])), (internet.endpoint, VIP[6])
    assert datagram_arrives(forger, endpoint, SERVICE_PORT)
    internet.guard(services=[SERVICE[6]])
    assert not datagram_arrives(forger, endpoint, SERVICE_PORT)
    assert count(internet.server, ServerCounter.SPOOFED) >= 1  # MLD of `vip0` may add to it
    assert datagram_arrives((internet.peer, PEER[6]), endpoint, SERVICE_PORT)


def test_what_comes_out_of_an_sa_has_a_vip_as_source(internet: Internet) -> None:
    other, peer = (internet.endpoint, "10.98.0.1"), (internet.peer, PEER[4])
    assert datagram_arrives(other, peer)
    internet.guard()
    assert not datagram_arrives(other, peer)
    assert count(internet.server, ServerCounter.SPOOFED) >= 1  # MLD of `vip0` may add to it


def test_datagrams_of_an_endpoint_are_forwarded_both_ways(internet: Internet) -> None:
    internet.guard()
    for version in (4, 6):
        endpoint, peer = (internet.endpoint, VIP[version]), (internet.peer, PEER[version])
        assert datagram_arrives(endpoint, peer)
        assert datagram_arrives(peer, endpoint)


def test_an_endpoint_reaches_the_service_in_the_tunnel_and_nothing_else_of_the_server(
    internet: Internet,
) -> None:
    endpoint = (internet.endpoint, VIP[4])
    internet.guard()
    assert datagram_arrives(endpoint, (internet.server, "192.0.0.8"), 4242)
    assert not datagram_arrives(endpoint, (internet.server, "192.0.0.8"), 53)
    assert not datagram_arrives(endpoint, (internet.server, SERVER[4]), 4242)
    with serve(internet.server, SERVER[4], 2222):
        assert not connects(internet.endpoint, (SERVER[4], 2222))
    assert count(internet.server, ServerCounter.TUNNEL_DROPPED) >= 3
    assert pings(internet.endpoint, SERVER[4])


@pytest.mark.parametrize("role", ["source", "destination"])
def test_no_packet_of_a_vip_leaves_on_the_underlay_unprotected(
    own_internet: Internet, role: str
) -> None:
    """Routes lead a VIP's packets astray, and no policy catches them."""
    packet = ((own_internet.server, VIP[4]), (own_internet.stranger, STRANGER))
    if role == "destination":
        own_internet.stranger.run(f"ip addr add {VIP[4]}/32 dev eth0")
        own_internet.server.run(f"ip route replace 10.99.0.0/24 via {STRANGER} dev wan0")
        packet = ((own_internet.server, WAN), (own_internet.stranger, VIP[4]))
    assert datagram_arrives(*packet)
    own_internet.guard()
    assert not datagram_arrives(*packet)
    assert count(own_internet.server, ServerCounter.LEAK_STOPPED) == 1


def test_a_translated_packet_of_a_vip_may_leave(internet: Internet) -> None:
    """The guard looks last: with the server's address as source nothing of the VIP is seen."""
    internet.guard()
    add_rules(
        internet.server,
        "table inet nat {\n chain post {\n type nat hook postrouting priority srcnat;\n"
        " oifname wan0 ip saddr 10.99.0.0/24 masquerade\n }\n}\n",
    )
    assert datagram_arrives((internet.endpoint, VIP[4]), (internet.stranger, STRANGER))
    assert count(internet.server, ServerCounter.LEAK_STOPPED) == 0


# ---- the endpoint


@pytest.fixture(scope="module")
def _device(_internet: Internet) -> Internet:
    """The endpoint has a second link, without tunnel."""
    wire = f"link add wlan0 type veth peer name wlan0 netns {_internet.stranger.path}"
    ip(
        _internet.endpoint,
        wire,
        "link set wlan0 up",
        "addr add 192.168.10.2/24 dev wlan0",
        "-6 addr add 2001:db8:10::2/64 dev wlan0 nodad",
    )
    ip(
        _internet.stranger,
        "link set wlan0 up",
        "addr add 192.168.10.1/24 dev wlan0",
        "route add 10.99.0.0/24 via 192.168.10.2",
        "-6 addr add 2001:db8:10::1/64 dev wlan0 nodad",
        "-6 route add fd00:99::/64 via 2001:db8:10::2",
    )
    return _internet


@pytest.fixture
def device(_device: Internet, internet: Internet) -> Internet:
    """The endpoint with its leak guard: `vip0` as tunnel, and no TUN that carries anything."""
    vips = [ip_address(vip) for vip in VIP.values()]
    load_rules(internet.endpoint, endpoint_ruleset(vips, "tun9", internet.device_tunnel))
    return internet


NEIGHBOUR = {4: "192.168.10.1", 6: "2001:db8:10::1"}
OWN = {4: "192.168.10.2", 6: "2001:db8:10::2"}


@pytest.mark.parametrize("version", [4, 6])
def test_a_device_sends_from_its_vip_through_the_tunnel_only(
    device: Internet, version: int
) -> None:
    vip, neighbour = (device.endpoint, VIP[version]), (device.stranger, NEIGHBOUR[version])
    assert not datagram_arrives(vip, neighbour)
    assert count(device.endpoint, EndpointCounter.LEAK_STOPPED) == 1
    assert datagram_arrives((device.endpoint, OWN[version]), neighbour)
    assert datagram_arrives(vip, (device.peer, PEER[version]))
    device.endpoint.run("nft delete table inet orchestrator")
    assert datagram_arrives(vip, neighbour)


@pytest.mark.parametrize("version", [4, 6])
def test_a_device_accepts_for_its_vip_through_the_tunnel_only(
    device: Internet, version: int
) -> None:
    vip, neighbour = (device.endpoint, VIP[version]), (device.stranger, NEIGHBOUR[version])
    assert not datagram_arrives(neighbour, vip)
    assert count(device.endpoint, EndpointCounter.CLEAR_DROPPED) == 1
    assert datagram_arrives(neighbour, (device.endpoint, OWN[version]))
    assert datagram_arrives((device.peer, PEER[version]), vip)
    device.endpoint.run("nft delete table inet orchestrator")
    assert datagram_arrives(neighbour, vip)


def test_a_device_talks_to_itself_by_its_vip(device: Internet) -> None:
    assert datagram_arrives((device.endpoint, VIP[4]), (device.endpoint, VIP[4]))


def test_the_rulesets_for_real_ipsec_load(network_namespace: Namespace) -> None:
    """What they do to packets out of an SA is the scenarios' to show."""
    for text in (
        endpoint_ruleset([ip_address(vip) for vip in VIP.values()], "vip0"),
        endpoint_ruleset([], "vip0"),
        server_ruleset(ServerFirewall(["wan0"], POOLS, SERVICE_PORT, PORTS)),
        server_ruleset(ServerFirewall([], [], SERVICE_PORT, proxy=None)),
    ):
        load_rules(network_namespace, text)
