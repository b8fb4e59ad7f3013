"""A call over two links at the same time: what one of them loses, the other one brings."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from orchestrator.lab.ticker import PORT as VOICE_PORT
from orchestrator.lab.ticker import Log, Way
from tests.scenarios.calls import PATIENT, call, configured
from tests.scenarios.world import World, eventually, for_a_while

pytestmark = pytest.mark.long

CALLS = f"""
[[flows]]
name = "calls"
protocol = "udp"
ports = [{VOICE_PORT}]
links = ["wl*", "ww*"]
"""
LOSS = 20.0
"""Percent, of each link and way; both at once lose a fifth of a fifth."""
MEASURED = 20.0
"""Seconds: a thousand packets each way."""
LATE = 2.0
"""Seconds after which nothing arrives any more, on a slow and busy CPU."""


@pytest.fixture(scope="module")
def make_world() -> Callable[[Path], World]:
    return partial(World, endpoint=PATIENT + CALLS + "redundant = true\n")


@pytest.fixture
def both(world: World) -> Iterator[World]:
    """Attached over Wi-Fi; calls go over LTE as well."""
    world.lab.link("lte").attach()
    eventually(lambda: twice(world), lambda is_so: is_so)
    yield world
    for name in ("wifi", "lte"):
        world.lab.link(name).mend()
        world.lab.link(name).set(loss_percent=0.0)


@pytest.fixture
def single(world: World) -> Iterator[World]:
    """The same without redundancy."""
    with configured(world, PATIENT + CALLS):
        yield world
        world.lab.link("wifi").set(loss_percent=0.0)


def twice(world: World) -> bool:
    (calls,) = world.endpoint.status()["flows"]
    policies = world.server.run("ip", "xfrm", "policy")
    return bool(calls["own_way"]) and "0x6c0000ff" in policies and "priority 11097" in policies


def counted(world: World, name: str) -> tuple[int, int]:
    """At the endpoint, at the server."""
    first, second = (
        int(side.status()["counters"].get(name, 0)) for side in (world.endpoint, world.server)
    )
    return first, second


def talk(world: World, seconds: float = MEASURED) -> dict[Way, Log]:
    """A call of this length, of which nothing arrives twice."""
    with call(world) as ticker:
        for_a_while(seconds)
        ended = time.monotonic()
        for_a_while(LATE)
        for log in ticker.logs.values():
            assert log.doubled == 0
            log.sent[:] = [at for at in log.sent if at < ended]
        return ticker.logs


def losses(logs: dict[Way, Log]) -> list[float]:
    """In percent, both ways."""
    return [100 * lost(log) / len(log.sent) for log in logs.values()]


def lost(log: Log) -> int:
    return len(set(range(len(log.sent))) - set(log.arrived))


def test_a_call_goes_over_both_and_arrives_once(both: World) -> None:
    before = both.capture.by_device()
    with both.nothing_in_clear():
        logs = talk(both, 3.0)
    after = both.capture.by_device()
    assert losses(logs) == [0.0, 0.0]
    said = len(logs[Way.UP].sent)
    for device in ("endpoint:wlan0", "endpoint:wwan0", "ap1:wlan0", "lte:wwan0"):
        assert after[device][1] - before[device][1] >= said, f"on {device}"
    assert min(counted(both, "duplicates-removed")) >= said / 2


def test_two_links_that_lose_a_fifth_lose_a_twenty_fifth_together(both: World) -> None:
    for name in ("wifi", "lte"):
        both.lab.link(name).set(loss_percent=LOSS)
    found = losses(talk(both))
    assert max(found) < LOSS / 2, found


def test_one_alone_loses_a_fifth(single: World) -> None:
    single.lab.link("wifi").set(loss_percent=LOSS)
    found = losses(talk(single))
    assert min(found) > LOSS / 2, found


@pytest.mark.parametrize("link", ["lte", "wifi"])
def test_one_that_dies_loses_nothing(both: World, link: str) -> None:
    with both.nothing_in_clear(), call(both) as ticker:
        for_a_while(1)
        both.lab.link(link).cut()
        for_a_while(4)
        ended = time.monotonic()
        for_a_while(LATE)
        found = {way: log.lost_between(0.0, ended) for way, log in ticker.logs.items()}
        assert found == {Way.UP: 0, Way.DOWN: 0}
        assert all(log.doubled == 0 for log in ticker.logs.values())


def test_with_one_link_it_goes_as_everything_else(world: World) -> None:
    before = counted(world, "sent-twice")
    logs = talk(world, 2.0)
    assert losses(logs) == [0.0, 0.0]
    assert counted(world, "sent-twice") == before
