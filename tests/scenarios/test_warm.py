"""Two links at the same time: the second one's tunnel is ready when the first is lost."""

import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from orchestrator.adapters.xfrm import Xfrm
from orchestrator.lab.product import ENDPOINT
from orchestrator.lab.ticker import Ticker, Way
from tests.scenarios.conversation import Conversation
from tests.scenarios.world import LIMIT, PEER, World, eventually, for_a_while

SOON = 1.0
"""Seconds, on a slow and busy CPU; alone it takes 0.6 s."""
USUAL = 2.0
"""Seconds between two probes under traffic, by default."""
SILENT = 2.0
"""Seconds: how long a silent path is believed by default."""


@pytest.fixture
def both(world: World) -> Iterator[World]:
    """Attached over Wi-Fi, with a warm tunnel over LTE."""
    world.lab.link("lte").attach()
    eventually(world.endpoint.paths, lambda found: state_of(world, "lte", found) == "warm")
    eventually(world.endpoint.paths, lambda found: measured(world, "lte", found))
    yield world
    world.lab.link("wifi").mend()


@pytest.fixture
def cold(world: World) -> Iterator[World]:
    """The same without warm tunnels."""
    world.endpoint.kill()
    world.endpoint.daemon.config = ENDPOINT + "[links]\nwarm = 1\n"
    world.endpoint.start()
    world.attached("wifi")
    world.lab.link("lte").attach()
    for_a_while(1)
    yield world
    world.lab.link("wifi").mend()
    world.endpoint.kill()
    world.endpoint.daemon.config = ENDPOINT
    world.endpoint.start()


def on(world: World, link: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """The best path over this link; empty: there is none."""
    device = world.lab.link(link).device
    return next((path for path in found if path["link"] == device), {})


def state_of(world: World, link: str, found: list[dict[str, Any]]) -> str | None:
    state = on(world, link, found).get("state")
    return None if state is None else str(state)


def measured(world: World, link: str, found: list[dict[str, Any]]) -> bool:
    return on(world, link, found).get("rtt_ms") is not None


def silence(world: World) -> float:
    """Seconds in which nothing arrives, at most, when Wi-Fi dies without a sign."""
    peer = world.lab.host("peer1")
    with Ticker(world.endpoint.host, world.vip, peer, PEER) as ticker:
        for_a_while(1.5)
        world.lab.link("wifi").cut()
        cut = time.monotonic()
        back = [ticker.wait_for(way, cut + 0.05, cut + 0.02, LIMIT) for way in Way]
    assert None not in back
    return max(at for at in back if at is not None) - cut


def test_the_next_link_has_a_tunnel_that_is_answered(both: World) -> None:
    found = both.endpoint.paths()
    assert state_of(both, "wifi", found) == "active"
    warm = on(both, "lte", found)
    assert warm["health"] == "alive"
    assert warm["ike_sa"] != on(both, "wifi", found)["ike_sa"]
    (session,) = both.server.sessions()
    assert session["state"] == "attached"
    assert session["pop"].startswith("198.51.100.2:"), "it carries the traffic over Wi-Fi still"


def test_the_traffic_goes_on_over_it_when_the_first_is_lost(both: World) -> None:
    warm = on(both, "lte", both.endpoint.paths())
    with (
        both.nothing_in_clear(),
        Conversation.open(both.endpoint.host, PEER) as talk,
    ):
        talk.goes_on()
        both.lab.link("wifi").detach()
        assert talk.goes_on() < SOON
        now = both.attached("lte")
        assert now["active_path"]["spi_out"] == warm["spi_out"], "nothing was negotiated"
        assert "warm-path" in now["reasons"]
        talk.ends_well()


def test_a_path_that_dies_without_a_sign_is_left_soon(both: World) -> None:
    assert silence(both) < SOON
    assert "path-dead" in both.attached("lte")["reasons"]


def rests(world: World) -> bool:
    """Whether no path was asked for longer than is usual under traffic."""
    asked = world.endpoint.status()["counters"]["path-probe-sent"]
    for_a_while(USUAL + 1.5)
    return bool(world.endpoint.status()["counters"]["path-probe-sent"] == asked)


def test_one_that_died_while_nobody_sent_is_left_with_the_first_packets(both: World) -> None:
    eventually(lambda: rests(both), lambda resting: resting)
    both.lab.link("wifi").cut()
    peer = both.lab.host("peer1")
    began = time.monotonic()
    with Ticker(both.endpoint.host, both.vip, peer, PEER) as ticker:
        back = [ticker.wait_for(way, began, began, LIMIT) for way in Way]
    assert max(at - began for at in back if at is not None) < SOON
    assert "path-dead" in both.attached("lte")["reasons"]


def test_without_a_warm_tunnel_it_is_not(cold: World) -> None:
    assert silence(cold) > SILENT


def test_it_is_gone_back_to_when_it_works_again(both: World) -> None:
    both.lab.link("wifi").cut()
    both.attached("lte")
    both.lab.link("wifi").mend()
    both.attached("wifi")


def test_a_killed_daemon_goes_on_with_the_tunnel_in_use(both: World) -> None:
    used = both.attached("wifi")["active_path"]["spi_out"]
    with both.nothing_in_clear(), Conversation.open(both.endpoint.host, PEER) as talk:
        talk.goes_on()
        both.endpoint.kill()
        both.endpoint.start()
        now = both.attached()
        assert now["active_path"]["spi_out"] == used
        assert "adopted" in now["reasons"]
        talk.ends_well()


def move(server: str, spi_in: int, pop: str) -> None:
    """As a daemon does for an optimistic move; charon knows nothing of it."""
    with Xfrm() as xfrm:
        (inbound,) = (state for state in xfrm.states() if state.spi == spi_in)
        xfrm.move_state(inbound, ip_address(server), ip_address(pop))


def test_a_tunnel_that_was_moved_by_a_killed_daemon_ends_where_it_is(both: World) -> None:
    warm, wifi = on(both, "lte", both.endpoint.paths()), both.attached("wifi")["active_path"]
    both.endpoint.kill()
    both.endpoint.host.inside(move, wifi["server"], int(warm["spi_in"], 16), wifi["pop"])
    both.endpoint.start()
    eventually(
        lambda: both.endpoint.run("ip", "xfrm", "state"),
        lambda states: f"0x{warm['spi_in']}" not in states,
    )
    assert both.attached("wifi")["active_path"]["spi_in"] == wifi["spi_in"]


def test_nothing_is_left_of_a_link_that_is_gone(both: World) -> None:
    both.lab.link("lte").detach()
    ask = both.endpoint.run
    eventually(lambda: ask("ip", "xfrm", "policy"), lambda all_: "priority 11098" not in all_)
    eventually(lambda: ask("ip", "xfrm", "state").count("proto esp"), lambda count: count == 2)
