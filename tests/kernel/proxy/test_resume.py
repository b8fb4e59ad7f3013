"""An endpoint that returns: what waits for it goes at once, without waiting for a timer."""

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final

import pytest

from orchestrator.adapters.transparent import unread
from orchestrator.core.quantities import IPAddress
from tests.kernel.netns import Namespace
from tests.kernel.proxy.conftest import Proxied
from tests.kernel.proxy.lan import VIP, Lan, add_rules, receive, until
from tests.kernel.proxy.test_absence import acknowledged, endpoint_and_peer

OUTAGE: Final = 4.0
"""Seconds. The inner leg tries after 0.2, 0.6, 1.4 and 3 s, and then after 6.2 s again."""
NOTICED: Final = 0.3
"""Seconds, of an outage that is shorter than a timer."""
SOON: Final = 1.0
"""Seconds; before its timer would have it try again."""


def resumed(proxied: Proxied, vip: IPAddress) -> int:
    return len(proxied.ask(lambda client: client.resume([vip])))


@pytest.mark.parametrize("told", [True, False], ids=["told", "control"])
def test_what_was_acknowledged_for_an_absent_endpoint_arrives_on_its_return(
    proxied: Proxied, *, told: bool
) -> None:
    endpoint, peer = endpoint_and_peer(proxied)
    with endpoint, peer:
        proxied.lan.detach()
        peer.sendall(b"y" * 1000)
        threading.Event().wait(OUTAGE)
        proxied.lan.attach()
        if told:
            assert resumed(proxied, ip_address(VIP[4])) == 1
        began = time.monotonic()
        assert receive(endpoint, 1000) == b"y" * 1000
        taken = time.monotonic() - began
        assert taken < SOON if told else taken > SOON


def test_a_flow_that_waits_for_nothing_is_left_alone(proxied: Proxied) -> None:
    endpoint, peer = endpoint_and_peer(proxied)
    with endpoint, peer:
        peer.sendall(b"y")
        assert endpoint.recv(1) == b"y"
        assert resumed(proxied, ip_address(VIP[4])) == 0
        assert resumed(proxied, ip_address("10.99.0.77")) == 0
        peer.sendall(b"z")
        assert endpoint.recv(1) == b"z"


@pytest.mark.parametrize("told", [True, False], ids=["told", "control"])
def test_a_window_that_opened_unheard_is_asked_for(proxied: Proxied, *, told: bool) -> None:
    """The endpoint read while it was away, and said so to nobody."""
    endpoint, peer = endpoint_and_peer(proxied)
    with endpoint, peer:
        taken = acknowledged(peer)
        proxied.lan.detach()
        waiting = unread(endpoint)
        assert 0 < waiting < taken
        assert len(receive(endpoint, waiting)) == waiting
        threading.Event().wait(OUTAGE)
        proxied.lan.attach()
        if told:
            assert resumed(proxied, ip_address(VIP[4])) == 0, "nothing is on its way"
        endpoint.settimeout(SOON)
        with contextlib.nullcontext() if told else pytest.raises(TimeoutError):
            assert endpoint.recv(1)


def test_two_hundred_flows_go_on_together(proxied: Proxied) -> None:
    pairs = [endpoint_and_peer(proxied) for _ in range(200)]
    proxied.lan.detach()
    for _, peer in pairs:
        peer.sendall(b"y" * 1000)
    threading.Event().wait(OUTAGE)
    proxied.lan.attach()
    assert resumed(proxied, ip_address(VIP[4])) == len(pairs)
    began = time.monotonic()
    for endpoint, peer in pairs:
        assert receive(endpoint, 1000) == b"y" * 1000
        endpoint.close()
        peer.close()
    assert time.monotonic() - began < SOON
    until(lambda: proxied.counters().open == 0)


@contextlib.contextmanager
def patient_timers(server: Namespace) -> Iterator[None]:
    """Its TCP repeats nothing for 3 s, as if round trips took long, where queues are."""
    ways = ("-4 route change 10.99.0.0/24 dev ep0", "-6 route change fd00:99::/64 dev ep0")
    server.run(*(f"ip {way} rto_min 3s" for way in ways))
    yield
    server.run(*(f"ip {way}" for way in ways))


@pytest.mark.parametrize("told", [True, False], ids=["told", "control"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("octets", [1000, 200_000])
def test_what_was_lost_with_the_path_is_sent_anew_before_a_timer_says_so(
    proxied: Proxied, octets: int, version: int, *, told: bool
) -> None:
    lost = random.Random(octets).randbytes(octets)
    with patient_timers(proxied.lan.server):
        endpoint, peer = endpoint_and_peer(proxied, version=version)
        with endpoint, peer:
            peer.sendall(b"x")
            assert endpoint.recv(1) == b"x"
            proxied.lan.detach()
            peer.sendall(lost)
            threading.Event().wait(NOTICED)
            proxied.lan.attach()
            if told:
                assert resumed(proxied, ip_address(VIP[version])) == 0, "nobody has backed off"
            endpoint.settimeout(SOON)
            with contextlib.nullcontext() if told else pytest.raises(TimeoutError):
                assert receive(endpoint, octets) == lost
                peer.sendall(b"z")
                assert endpoint.recv(2) == b"z", "and nothing twice"


@contextlib.contextmanager
def lost_on_the_way(lan: Lan) -> Iterator[None]:
    """What the endpoint sends leaves it, and never arrives."""
    chain = "chain in { type filter hook prerouting priority raw; iifname ep0 drop; }"
    add_rules(lan.server, f"table inet lossy {{\n{chain}\n}}")
    yield
    lan.server.run("nft delete table inet lossy")


@pytest.mark.parametrize("told", [True, False], ids=["told", "control"])
@pytest.mark.parametrize("version", [4, 6])
def test_an_endpoints_sender_that_backed_off_sends_anew(
    proxied: Proxied, version: int, *, told: bool
) -> None:
    """What it sent was lost on its way; no daemon on its side has any of it."""
    endpoint, peer = endpoint_and_peer(proxied, version=version)
    with endpoint, peer:
        endpoint.sendall(b"x")
        assert peer.recv(1) == b"x"
        with lost_on_the_way(proxied.lan):
            endpoint.sendall(b"y" * 1000)
            threading.Event().wait(OUTAGE)
        (flow,) = proxied.flows()
        if told:
            assert proxied.ask(lambda client: client.restart([(flow.vip, flow.peer)])) == 1
            assert proxied.ask(lambda client: client.restart([(flow.peer, flow.vip)])) == 0
        began = time.monotonic()
        assert receive(peer, 1000) == b"y" * 1000
        taken = time.monotonic() - began
        assert taken < SOON if told else taken > SOON


def test_a_sender_that_waits_for_nothing_is_left_alone(proxied: Proxied) -> None:
    endpoint, peer = endpoint_and_peer(proxied)
    with endpoint, peer:
        (flow,) = proxied.flows()
        assert proxied.ask(lambda client: client.restart([(flow.vip, flow.peer)])) == 1
        endpoint.sendall(b"y")
        assert peer.recv(1) == b"y"
        peer.sendall(b"z")
        assert endpoint.recv(1) == b"z"
