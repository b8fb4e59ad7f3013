"""The other shapes of the product: IPv6 inside and outside, a split tunnel; and the virtual
address that outlives everything.
"""

from functools import partial
from ipaddress import ip_address
from pathlib import Path

from orchestrator.lab.product import ENDPOINT
from tests.scenarios.conversation import Conversation
from tests.scenarios.world import PEER, PEER6, World, eventually

SPLIT = ENDPOINT + '[tunnel]\nmode = "split"\nprefixes = ["10.51.0.0/16"]\n'
ELSEWHERE = ip_address("203.0.113.1")
LEFT_BEHIND_LIMIT = 15.0
"""Seconds; it takes half of one, on a machine that has a processor to itself."""


def contains(part: str, text: str) -> bool:
    return part in text


def test_ipv6_inside(world: World) -> None:
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER6) as talk:
        assert talk.local == world.endpoint.status()["vip"][1]
        talk.goes_on()
        world.lab.roam("lte")
        talk.goes_on()
        world.nowhere()
        world.lab.roam("wifi2")
        talk.goes_on()
        talk.ends_well()


def test_to_a_network_of_the_other_family_and_back(world: World) -> None:
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        world.lab.roam("lte", "2001:db8:64::2/64")
        talk.goes_on()
        path = world.attached("lte", "2001:db8:64::2")["active_path"]
        assert path["server"] == "2001:db8:113::10"
        world.lab.link("lte").readdress("2001:db8:64::3/64")
        talk.goes_on()
        world.lab.roam("wifi")
        talk.goes_on()
        world.attached("wifi")
        talk.ends_well()


def test_the_virtual_address_outlives_server_charon_and_our_own_memory(world: World) -> None:
    before = world.attached()["vip"]
    world.server.start_cold()
    world.endpoint.run("rm", "/var/lib/orchestrator/endpoint.json")
    world.endpoint.start_cold()
    assert world.attached()["vip"] == before
    # The control: it is the lease that did it.
    world.server.kill()
    world.server.host.inside(_use_up, Path("/var/lib/orchestrator"))
    world.endpoint.run("rm", "/var/lib/orchestrator/endpoint.json")
    world.server.start_cold()
    world.endpoint.start_cold()
    assert world.attached()["vip"] != before


def _use_up(folder: Path) -> None:
    """Gives the address to somebody else."""
    from orchestrator.adapters.leases import LeaseStore

    store = LeaseStore(folder / "leases.sqlite")
    (lease,) = store.all()
    store.release(lease.identity)
    store.assign("erin@example.org", lease.vips)
    store.close()


def test_a_split_tunnel(world: World) -> None:
    whole = world.endpoint.daemon.config
    world.endpoint.start_cold(SPLIT)
    try:
        world.attached("wifi")
        with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
            assert talk.local == str(world.vip)
            talk.goes_on()
            world.lab.roam("lte")
            talk.goes_on()
            world.attached("lte")
            for address, device in ((PEER, "vip0"), (ELSEWHERE, "wwan0")):
                get = partial(world.endpoint.run, "ip", "route", "get", str(address))
                # The full tunnel's routes, from before, are dropped by an audit of the start.
                eventually(get, partial(contains, f"dev {device} "), LEFT_BEHIND_LIMIT)
            # A VIP has no business outside: not even when an application insists.
            world.endpoint.run(
                "ping", "-c3", "-i0.2", "-W1", "-I", str(world.vip), str(ELSEWHERE), check=False
            )
            talk.goes_on()
            talk.ends_well()
    finally:
        world.endpoint.start_cold(whole)
