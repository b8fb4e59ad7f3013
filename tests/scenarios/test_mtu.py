"""Paths that carry less than others, and do not say so: every sender keeps to it."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address as ip
from typing import Any, TypeVar

import pytest

from orchestrator.core.mtu import DOUBT, GRAIN
from orchestrator.core.quantities import IPAddress
from orchestrator.lab.flows import BULK, Flow, Flows
from orchestrator.lab.product import ENDPOINT
from orchestrator.lab.ticker import Way
from tests.scenarios.narrow import NARROW, black_hole, counted
from tests.scenarios.world import PEER, PEER6, World, eventually, for_a_while

pytestmark = pytest.mark.long

ROOM = {4: 1218, 6: 1198}
"""For a packet inside an outer one of NARROW: IP, UDP, ESP with AES-GCM, and its padding."""
STILL = 5.0
"""Seconds in which a sender tries five times, and a search asks as often."""
MORE = 1 << 18
"""Octets that no queue holds back."""
T = TypeVar("T")
_IP_MTU_DISCOVER, _IP_MTU, _DO = 10, 14, 2
_IPV6_MTU_DISCOVER, _IPV6_MTU = 23, 24


@contextmanager
def narrow_link(world: World, octets: int = NARROW) -> Iterator[None]:
    """The access router's own link takes no more, and the router says so."""
    ends = (("lte", "wan0"), ("internet", "lte"))
    for host, device in ends:
        world.lab.host(host).run(["ip", "link", "set", device, "mtu", str(octets)])
    try:
        yield
    finally:
        for host, device in ends:
            world.lab.host(host).run(["ip", "link", "set", device, "mtu", "1500"])


def mtu(world: World) -> int:
    """Of the active path."""
    active = (path["mtu"] for path in world.endpoint.paths() if path["state"] == "active")
    return int(next(active, 0))


def settled(world: World, room: int) -> int:
    """What is found where so much is carried."""
    return eventually(lambda: mtu(world), lambda found: room - GRAIN < found <= room)


@contextmanager
def bulk(world: World, address: IPAddress = PEER) -> Iterator[list[Flow]]:
    """Both ways, as fast as it goes."""
    flows = Flows(world.endpoint.host, world.lab.host("peer1"), address)
    for way in Way:
        flows.open(BULK, way, 1)
    with flows:
        yield flows.flows
    assert [flow.failure for flow in flows.flows] == [None, None]


def at_rest(question: Callable[[], T]) -> T:
    """The answer that stays the same."""

    def same() -> tuple[bool, T]:
        before = question()
        for_a_while(STILL)
        after = question()
        return before == after, after

    return eventually(same, lambda answer: answer[0])[1]


def totals(flows: list[Flow]) -> list[int]:
    return [flow.arrivals.total for flow in flows]


def go_on(flows: list[Flow], octets: int = MORE) -> None:
    """All of them, by so many octets from now on."""
    before = totals(flows)
    eventually(
        lambda: totals(flows),
        lambda now: all(b - a >= octets for a, b in zip(before, now, strict=True)),
    )


def datagram_socket(world: World, host: str, to: IPAddress) -> socket.socket:
    """Connected; what it sends is never cut."""
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[to.version]
    made: socket.socket = world.lab.host(host).inside(socket.socket, family, socket.SOCK_DGRAM)
    level, option = {
        4: (socket.IPPROTO_IP, _IP_MTU_DISCOVER),
        6: (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER),
    }[to.version]
    made.setsockopt(level, option, _DO)
    made.connect((str(to), 9))
    return made


def path_mtu_of(sock: socket.socket) -> int:
    level, option = {
        socket.AF_INET: (socket.IPPROTO_IP, _IP_MTU),
        socket.AF_INET6: (socket.IPPROTO_IPV6, _IPV6_MTU),
    }[sock.family]
    return sock.getsockopt(level, option)


def is_too_large(sock: socket.socket, payload: int) -> bool:
    try:
        sock.send(bytes(payload))
    except OSError as error:
        assert "too long" in str(error)  # noqa: PT017 - the exception is the answer
        return True
    return False


@pytest.fixture
def unasked(world: World) -> Iterator[World]:
    """The same where the operator switched the search off."""
    with restarted(world, ENDPOINT + "[tunnel]\npath_mtu = false\n"):
        yield world


@contextmanager
def restarted(world: World, config: str) -> Iterator[None]:
    for each in (config, ENDPOINT):
        world.endpoint.kill()
        world.endpoint.daemon.config = each
        world.endpoint.start()
        world.attached("wifi")
        if each is config:
            yield
            world.home()


@pytest.mark.parametrize(("version", "peer"), [(4, PEER), (6, PEER6)])
def test_a_link_of_1280_from_the_start(world: World, version: int, peer: IPAddress) -> None:
    """Outside and inside the tunnel in the same family."""
    pop = {4: "100.64.0.2", 6: "2001:db8:64::2"}[version]
    with narrow_link(world):
        world.lab.roam("lte", pop)
        world.attached("lte", pop)
        settled(world, ROOM[version])
        with world.nothing_in_clear(), bulk(world, peer) as flows:
            go_on(flows)


def test_a_running_transfer_survives_a_roam_into_a_black_hole(world: World) -> None:
    with black_hole(world, "lte"), bulk(world) as flows:
        go_on(flows)
        world.lab.roam("lte")
        world.attached("lte")
        go_on(flows)
        settled(world, ROOM[4])
        lost = at_rest(lambda: counted(world, "lte", "lost"))
        go_on(flows)
        assert counted(world, "lte", "lost") == lost, "nothing larger is sent"
        assert counted(world, "lte", "pieces") == 0, "and nothing in pieces"
        world.lab.roam("wifi")
        world.attached("wifi")
        go_on(flows)
        eventually(lambda: mtu(world), lambda found: found == 1380)


def test_without_the_search_it_does_not(unasked: World) -> None:
    with black_hole(unasked, "lte"), bulk(unasked) as flows:
        go_on(flows)
        unasked.lab.roam("lte")
        unasked.attached("lte")
        at_rest(lambda: totals(flows))
        unasked.lab.roam("wifi")
        go_on(flows)


def test_a_warm_path_is_known_before_it_is_needed(world: World) -> None:
    with black_hole(world, "lte"):
        world.lab.link("lte").attach()

        def warm() -> dict[str, Any]:
            device = world.lab.link("lte").device
            return next((p for p in world.endpoint.paths() if p["link"] == device), {})

        eventually(warm, lambda path: ROOM[4] - GRAIN < path.get("mtu", 0) <= ROOM[4])
        assert warm()["state"] == "warm"
        eventually(lambda: mtu(world), lambda found: found == 1380)
        with bulk(world) as flows:
            go_on(flows)
            world.lab.link("wifi").detach()
            world.attached("lte")
            go_on(flows)


def test_a_path_that_becomes_narrow_while_it_is_used(world: World) -> None:
    with bulk(world) as flows:
        go_on(flows)
        for_a_while(DOUBT)
        with black_hole(world, "ap1"):
            go_on(flows)
            settled(world, ROOM[4])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("sender", ["endpoint", "peer1"])
def test_senders_of_datagrams_are_told(world: World, sender: str, version: int) -> None:
    with black_hole(world, "lte"):
        world.lab.roam("lte")
        world.attached("lte")
        carried = settled(world, ROOM[4])
        (vip,) = (v for v in map(ip, world.endpoint.status()["vip"]) if v.version == version)
        to = vip if sender == "peer1" else {4: PEER, 6: PEER6}[version]
        headers = {4: 28, 6: 48}[version]
        with datagram_socket(world, sender, to) as sock:
            # IPv6 has no path below 1280: nobody believes a router that says so (RFC 8201, 4).
            learns = sender == "endpoint" or version == 4
            eventually(
                lambda: (is_too_large(sock, 1370 - headers), path_mtu_of(sock)),
                lambda answer: answer == (True, carried if learns else 1500),
            )
            # What the earlier ones met is told with a later one.
            eventually(lambda: is_too_large(sock, carried - headers), lambda large: not large)
