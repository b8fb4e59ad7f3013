"""Random roams, one after the other: connections last, and nothing is left behind.

By default a few, always the same. Others, and more of them:

    tests/run scenarios -s -k random_roams --roams 50 --roam-seconds 100 --roam-seed 7
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest

from orchestrator.adapters.xfrm import Xfrm
from orchestrator.core.quantities import Reqid, Spi
from orchestrator.wire.control import Verb
from tests.scenarios.flows import Flows, flowing
from tests.scenarios.leftovers import leftovers
from tests.scenarios.roaming import roams
from tests.scenarios.traveller import Traveller
from tests.scenarios.world import World, eventually

PORT = 7077
"""Where an application on the endpoint listens."""
DRAINED = 120.0
"""Seconds: `core.session.UNASKED` and the server's next look at the session, and more."""


def say(sentence: str) -> None:
    """Shown with `-s`, and when the test fails."""
    sys.stdout.write(f"{sentence}\n")


@pytest.fixture
def flows(world: World) -> Iterator[Flows]:
    with flowing(world) as flows:
        yield flows


def test_connections_last_and_nothing_is_left(
    world: World, flows: Flows, roam_seed: int, roam_count: int, roam_seconds: float
) -> None:
    vips, before = world.endpoint.status()["vip"], world.endpoint.status()["roams"]
    traveller = Traveller(world)
    with world.nothing_in_clear():
        flows.go_on()
        began = time.monotonic()
        for number, roam in enumerate(roams(roam_seed, roam_count, roam_seconds), 1):
            say(f"{time.monotonic() - began:7.2f} s  {number:2}  {roam}")
            traveller.goes(roam)
        took = time.monotonic() - began
        world.endpoint.daemon.ask(Verb.ROAM)  # whatever was asked for is forgotten
        flows.go_on()
        world.attached()
        longest = flows.bulk.longest_stall(began, time.monotonic())
        flows.end_well()
    status = world.endpoint.status()
    say(f"seed {roam_seed}: {roam_count} roams in {took:.1f} s, {flows.bulk}")
    say(f"changes of place {status['roams'] - before}, longest stall {longest}")
    say(f"counters {status['counters']}")
    assert status["vip"] == vips
    assert status["roams"] > before, "nothing was tried"
    settles = time.monotonic()
    eventually(partial(leftovers, world), lambda found: not found, DRAINED)
    say(f"settled after {time.monotonic() - settles:.1f} s")


def plant_sa(spi: int, reqid: int) -> None:
    """Another SA like one that is there."""
    with Xfrm() as xfrm:
        like = xfrm.states()[0]
        xfrm._add(replace(like, spi=Spi(spi), reqid=Reqid(reqid)))


def test_what_is_left_is_found(world: World) -> None:
    """The control: each look sees what it is there for."""
    eventually(partial(leftovers, world), lambda found: not found, DRAINED)
    for side in world.sides:
        side.host.inside(plant_sa, 0xC0FFEE, 77)
        found = leftovers(world)
        assert len(found) == 1
        assert "kernel has" in found[0]
        side.run("ip", "xfrm", "state", "deleteall", "reqid", "77")
        assert leftovers(world) == []
