"""Flows of classes take links of their own, both ways, and go with the others when these die.

What is on which link is counted by the captures on it: packets, all of them protected.
"""

import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.lab.flows import BULK, Flows
from orchestrator.lab.flows import PORT as BULK_PORT
from orchestrator.lab.serve import ECHO_PORT
from orchestrator.lab.ticker import PORT as VOICE_PORT
from orchestrator.lab.ticker import Ticker, Way
from tests.scenarios.calls import PATIENT, SPEAKS, call, configured
from tests.scenarios.conversation import Conversation
from tests.scenarios.world import LIMIT, PEER, World, eventually, for_a_while

pytestmark = pytest.mark.long

CLASSES = f"""
[[flows]]
name = "voice"
protocol = "udp"
ports = [{VOICE_PORT}]
links = ["ww*"]

[[flows]]
name = "talk"
protocol = "tcp"
ports = [{ECHO_PORT}]
links = ["ww*"]

[[flows]]
name = "bulk"
protocol = "tcp"
ports = [{BULK_PORT}]
links = ["wl*"]
"""
MEASURED = 3.0
"""Seconds."""
ASIDE = 60
"""Packets in that time that are nobody's: probes, their answers, IKE, keepalives."""


@pytest.fixture(scope="module")
def make_world() -> Callable[[Path], World]:
    return partial(World, endpoint=PATIENT + CLASSES)


@pytest.fixture
def both(world: World) -> Iterator[World]:
    """Attached over Wi-Fi, voice over LTE."""
    world.lab.link("lte").attach()
    eventually(lambda: link_of(world, "voice"), lambda link: link == "wwan0")
    eventually(lambda: says(world), lambda told: told)
    yield world
    world.lab.link("lte").mend()


@pytest.fixture
def unbound(world: World) -> Iterator[World]:
    """The same links, no classes."""
    with configured(world, PATIENT):
        world.lab.link("lte").attach()
        eventually(
            world.endpoint.paths,
            lambda found: {"active", "warm"} <= {p["state"] for p in found},
        )
        yield world


def flows(world: World) -> dict[str, dict[str, Any]]:
    found: list[dict[str, Any]] = world.endpoint.status()["flows"]
    return {each["name"]: each for each in found}


def link_of(world: World, name: str) -> str | None:
    link = flows(world)[name]["link"]
    return None if link is None else str(link)


def says(world: World) -> bool:
    """Whether the server has a way back for flows over an idle tunnel."""
    policies = world.server.run("ip", "xfrm", "policy")
    ruleset = world.server.run("nft", "list", "map", "inet", "orchestrator", "carrying")
    return "priority 11097" in policies and "flows_" in ruleset


def crossed(world: World) -> dict[str, int]:
    """Packets so far, by link and way."""
    seen = world.capture.by_device()
    places = {
        "wifi up": "endpoint:wlan0",
        "wifi down": "ap1:wlan0",
        "lte up": "endpoint:wwan0",
        "lte down": "lte:wwan0",
    }
    return {name: seen[place][1] for name, place in places.items()}


def measure(world: World, seconds: float = MEASURED) -> dict[str, int]:
    """Packets in this time, by link and way."""
    before = crossed(world)
    for_a_while(seconds)
    return {name: count - before[name] for name, count in crossed(world).items()}


def said(ticker: Ticker) -> int:
    return len(ticker.logs[Way.UP].sent)


def hears_both_ways(ticker: Ticker, since: float) -> None:
    """What is sent since then arrives, both ways."""
    back = [ticker.wait_for(way, since, since, LIMIT) for way in Way]
    assert None not in back, f"nothing arrived: {back}"


def drained(opened: socket.socket) -> bool:
    """Whether there was something to read."""
    try:
        opened.recv(99, socket.MSG_DONTWAIT)
    except (BlockingIOError, TimeoutError):
        return False
    return True


def test_each_class_keeps_to_its_link_both_ways(both: World) -> None:
    bulk = Flows(both.endpoint.host, both.lab.host("peer1"), PEER)
    for way in Way:
        bulk.open(BULK, way, 1)
    with both.nothing_in_clear(), call(both) as ticker, bulk:
        for_a_while(1)
        began, before = time.monotonic(), said(ticker)
        on = measure(both)
        spoken, ended = said(ticker) - before, time.monotonic()
        for_a_while(1)
        for way in Way:
            assert ticker.logs[way].lost_between(began, ended) < spoken / 10
        assert spoken > 30
        for there in ("up", "down"):
            assert abs(on[f"lte {there}"] - spoken) < ASIDE, f"voice, and nothing else: {on}"
            assert on[f"wifi {there}"] > 2 * spoken, "bulk, which is acknowledged"
        assert [flow.failure for flow in bulk.flows] == [None, None]
        assert all(flow.arrivals.total > 1 << 16 for flow in bulk.flows)


def test_so_does_tcp_that_is_proxied(both: World) -> None:
    with Conversation.open(both.endpoint.host, PEER) as talk:
        talk.goes_on()
        before = talk.said
        on = measure(both)
        spoken = talk.said - before
        assert spoken > 30
        for way in ("up", "down"):
            assert on[f"lte {way}"] >= spoken
            assert on[f"wifi {way}"] < ASIDE
        talk.ends_well()


def test_without_classes_everything_is_on_one_link(unbound: World) -> None:
    with call(unbound) as ticker:
        for_a_while(0.5)
        before = said(ticker)
        on = measure(unbound)
        spoken = said(ticker) - before
        assert spoken > ASIDE
        for way in ("up", "down"):
            assert on[f"wifi {way}"] > spoken - ASIDE / 2
            assert on[f"lte {way}"] < ASIDE


def test_people_are_told_where_each_is_and_why(both: World) -> None:
    told = flows(both)
    assert told["voice"] == {
        "name": "voice",
        "link": "wwan0",
        "own_way": True,
        "reason": "named-link",
    }
    assert not told["bulk"]["own_way"], "everything goes where it would go"
    on = [(path["link"], name) for path in both.endpoint.paths() for name in path["flows"]]
    assert sorted(on) == [("wlan0", "bulk"), ("wwan0", "talk"), ("wwan0", "voice")]


def test_a_call_goes_on_when_its_link_dies_without_a_sign_and_returns_to_it(
    both: World,
) -> None:
    with (
        both.nothing_in_clear(),
        call(both) as ticker,
        Conversation.open(both.endpoint.host, PEER) as talk,
    ):
        talk.goes_on()
        hears_both_ways(ticker, time.monotonic())
        both.lab.link("lte").cut()
        hears_both_ways(ticker, time.monotonic() + 0.05)
        talk.goes_on()
        assert link_of(both, "voice") == "wlan0"
        assert flows(both)["voice"]["reason"] in ("silent-there", "no-tunnel-there")
        both.lab.link("lte").mend()
        eventually(lambda: link_of(both, "voice"), lambda link: link == "wwan0")
        eventually(lambda: says(both), lambda told: told)
        on = measure(both)
        assert on["lte up"] > on["wifi up"]
        assert on["lte down"] > on["wifi down"]
        hears_both_ways(ticker, time.monotonic())
        talk.ends_well()


def test_and_when_it_goes_visibly(both: World) -> None:
    with both.nothing_in_clear(), call(both) as ticker:
        hears_both_ways(ticker, time.monotonic())
        both.lab.link("lte").detach()
        hears_both_ways(ticker, time.monotonic() + 0.05)


def test_what_only_comes_in_does_not_end_in_a_dead_link(both: World) -> None:
    """Nothing goes out by which the server could see that its flow moved."""
    near: socket.socket = both.endpoint.host.inside(
        socket.socket, socket.AF_INET, socket.SOCK_DGRAM
    )
    far: socket.socket = both.lab.host("peer1").inside(
        socket.socket, socket.AF_INET, socket.SOCK_DGRAM
    )
    with near, far:
        near.bind((str(both.vip), VOICE_PORT))
        far.bind((str(PEER), VOICE_PORT))
        near.settimeout(SPEAKS)
        far.settimeout(LIMIT)
        near.sendto(b"hello", (str(PEER), VOICE_PORT))
        _, source = far.recvfrom(99)

        def heard_within(limit: float) -> bool:
            end, number = time.monotonic() + limit, 0
            while time.monotonic() < end:
                number += 1
                far.sendto(number.to_bytes(4, "big"), source)
                try:
                    near.recv(99)
                except TimeoutError:
                    continue
                return True
            return False

        assert heard_within(LIMIT)
        on = crossed(both)
        for _ in range(50):
            assert heard_within(LIMIT)
        assert crossed(both)["lte down"] - on["lte down"] >= 50
        both.lab.link("lte").cut()
        for_a_while(2 * SPEAKS)
        while drained(near):
            pass
        assert heard_within(LIMIT)


def test_it_stays_where_it_is_when_everything_else_moves(both: World) -> None:
    with both.nothing_in_clear(), call(both) as ticker:
        hears_both_ways(ticker, time.monotonic())
        both.lab.link("wifi").detach()
        both.attached("lte")
        hears_both_ways(ticker, time.monotonic())
        assert link_of(both, "bulk") == "wwan0"
        both.lab.link("wifi").attach()
        both.attached("wifi")
        eventually(lambda: flows(both)["voice"]["own_way"], lambda own: bool(own))
        hears_both_ways(ticker, time.monotonic())
