"""A tunnel for one family of addresses: what is of the other one does not leave beside it."""

import re
from collections.abc import Callable
from ipaddress import ip_network

import pytest

from orchestrator.lab.capture import Capture
from orchestrator.lab.product import SERVER
from tests.scenarios.world import World

pytestmark = pytest.mark.long

POOLS = 'pools = ["10.99.0.0/24", "fd00:99::/64"]'


@pytest.mark.parametrize(
    ("pool", "target", "family"),
    [("10.99.0.0/24", "2001:db8:0:64::1", "-6"), ("fd00:99::/64", "100.64.1.1", "-4")],
    ids=["IPv6 beside a tunnel for IPv4", "IPv4 beside a tunnel for IPv6"],
)
def test_the_other_family_does_not_leave_beside_the_tunnel(
    cold_world: World, pool: str, target: str, family: str
) -> None:
    world = cold_world
    world.server.daemon.config = SERVER.replace(POOLS, f'pools = ["{pool}"]')
    beside = world.lab.capture(["lte"], [ip_network(target)])

    def reaches() -> bool:
        tried = ("ping", family, "-n", "-c2", "-i0.2", "-W1", target)
        return bool(re.search(r"\b[1-9]\d* received", world.endpoint.run(*tried, check=False)))

    # The control: before the daemon it does, and the capture sees it.
    world.lab.roam("lte")
    assert reaches()
    assert beside.in_clear > 0
    world.start("lte")
    assert len(world.endpoint.status()["vip"]) == 1
    never_leaves(world, beside, reaches)


def never_leaves(world: World, beside: Capture, reaches: Callable[[], bool]) -> None:
    """Attached over either family, detached, and when nobody is there to look after it."""
    lte = world.lab.link("lte")
    addresses = ("100.64.0.2/24", "2001:db8:64::2/64")
    seen = beside.in_clear
    for kept in (addresses, addresses[1:], addresses[:1]):
        lte.readdress(*kept)
        world.attached("lte")
        assert not reaches()
    lte.readdress(*addresses)
    world.server.kill()
    world.server.kill_charon()
    world.endpoint.wait_for("detached")
    assert not reaches()
    world.endpoint.kill()
    assert not reaches()
    assert beside.in_clear == seen, beside.examples()
