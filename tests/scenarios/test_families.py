"""IPv4 and IPv6, inside and outside: one goes, the other comes.

The lab's `wifi6` has IPv6 alone. Its router translates (NAT64), and its resolver knows (DNS64).
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.lab.product import ENDPOINT
from orchestrator.lab.resolvers import Resolvers
from tests.scenarios.conversation import Conversation
from tests.scenarios.world import PEER, PEER6, QUICK_TIMERS, World, eventually, for_a_while

pytestmark = pytest.mark.long

NAME = "vpn.example.org"
V4, V6 = "203.0.113.10", "2001:db8:113::10"
TRANSLATED = "2001:db8:64ff::cb00:710a"
"""203.0.113.10 under the prefix of wifi6."""
NOBODY = "203.0.113.99"
NAT64_ADDRESS = "100.64.2.2"
NO_WAY = "no-address-of-the-servers-family"
BOTH_ADDRESSES = f'addresses = ["{V4}", "{V6}"]'
ENDPOINT_QUICK = ENDPOINT + QUICK_TIMERS
BY_IPV4 = ENDPOINT_QUICK.replace(BOTH_ADDRESSES, f'addresses = ["{V4}"]')
BY_NAME = ENDPOINT_QUICK.replace(BOTH_ADDRESSES, f'names = ["{NAME}"]')
MEMORY = Path("/var/lib/orchestrator/endpoint.json")
A_WHILE = 4.0


@pytest.fixture(scope="module")
def resolvers(module_world: World) -> Resolvers:
    return module_world.lab.start_resolvers({NAME: [V4]})


def forget_names(world: World) -> None:
    """What they meant, and nothing else. The daemon ends."""
    world.endpoint.kill()
    remembered = json.loads(world.endpoint.host.inside(MEMORY.read_text))
    world.endpoint.host.inside(MEMORY.write_text, json.dumps({**remembered, "names": {}}))


@contextmanager
def configured(world: World, config: str) -> Iterator[None]:
    """The endpoint begins anew with this, and with what it is for everybody else afterwards."""
    try:
        forget_names(world)
        world.endpoint.start_cold(config)
        yield
    finally:
        world.endpoint.start_cold(ENDPOINT)


def server_of(status: dict[str, Any]) -> str:
    return str(status["active_path"]["server"])


@contextmanager
def talking(world: World) -> Iterator[Callable[[], None]]:
    """One connection of either family inside; what is yielded waits until both go on."""
    with ExitStack() as stack:
        stack.enter_context(world.nothing_in_clear())
        talks = [
            stack.enter_context(Conversation.open(world.endpoint.host, peer))
            for peer in (PEER, PEER6)
        ]
        vips = world.endpoint.status()["vip"]
        assert {talk.local for talk in talks} == set(vips)

        def go_on() -> None:
            for talk in talks:
                talk.goes_on()

        go_on()
        yield go_on
        go_on()
        for talk in talks:
            talk.ends_well()


def test_from_one_family_to_the_other_and_from_one_network_to_the_next(world: World) -> None:
    with talking(world) as go_on:
        for link, pop, server in (
            ("lte", "2001:db8:64::2", V6),
            ("wifi6", "2001:db8:66::2", V6),
            ("wifi2", "192.0.2.130", V4),
            ("wifi6", "2001:db8:66::3", V6),
            ("wifi", "192.168.10.2", V4),
        ):
            world.lab.roam(link, pop)
            go_on()
            assert server_of(world.attached(link, pop)) == server


def test_one_family_goes_while_the_other_stays(world: World) -> None:
    """On the same link, whose carrier nobody touches."""
    lte = world.lab.link("lte")
    device, run = lte.device, world.endpoint.run
    four, six = "100.64.0.2", "2001:db8:64::2"
    world.lab.roam("lte")
    world.attached("lte", four)
    with talking(world) as go_on:
        run("ip", "address", "delete", f"{four}/24", "dev", device)
        go_on()
        assert server_of(world.attached("lte", six)) == V6
        run("ip", "address", "add", f"{four}/24", "dev", device)
        gateway = ("via", "100.64.0.1", "dev", device, "metric", "700")
        run("ip", "route", "add", "default", *gateway)
        run("ip", "address", "delete", f"{six}/64", "dev", device)
        go_on()
        assert server_of(world.attached("lte", four)) == V4


def test_an_ipv4_server_is_reached_from_a_network_without_ipv4(
    world: World, resolvers: Resolvers
) -> None:
    with configured(world, BY_IPV4):
        world.attached("wifi")
        with talking(world) as go_on:
            # The control: without the prefix of the NAT64 there is nowhere to go.
            resolvers.change(None)
            world.lab.roam("wifi6")
            world.endpoint.wait_for("detached", NO_WAY)
            for_a_while(A_WHILE)
            assert NO_WAY in world.endpoint.status()["reasons"]
            resolvers.change({})
            go_on()
            assert server_of(world.attached("wifi6")) == TRANSLATED
            (session,) = world.server.sessions()
            assert session["pop"].startswith(f"{NAT64_ADDRESS}:")
            world.lab.roam("wifi")
            go_on()
            assert server_of(world.attached("wifi")) == V4


def test_a_name_means_what_each_network_says(world: World, resolvers: Resolvers) -> None:
    resolvers.change({NAME: [V4]})
    pops = {"ap1": "192.168.10.2", "ap3": "2001:db8:66::2", "lte": "2001:db8:64::2"}
    before = {router: len(resolvers.asked(router)) for router in pops}
    with configured(world, BY_NAME):
        world.attached("wifi")
        with talking(world) as go_on:
            world.lab.roam("wifi6")
            go_on()
            assert server_of(world.attached("wifi6")) == TRANSLATED
            resolvers.change({NAME: [V4, V6]})
            world.lab.roam("lte", pops["lte"])
            go_on()
            assert server_of(world.attached("lte")) == V6
        asked = {router: resolvers.asked(router)[before[router] :] for router in pops}
    for router, pop in pops.items():
        names, _, sources = zip(*(line.split() for line in asked[router]), strict=True)
        assert pop in sources
        # Where the list of resolvers was older than the link, another network's was asked too.
        assert set(sources) <= set(pops.values()), "a question did not go out as underlay"
        assert set(names) <= {f"{NAME}.", "ipv4only.arpa."}


def test_a_name_is_looked_up_while_nothing_works(world: World, resolvers: Resolvers) -> None:
    resolvers.change({NAME: [NOBODY]})
    with configured(world, BY_NAME):
        eventually(world.endpoint.paths, lambda found: any(path["reasons"] for path in found))
        assert {path["server"] for path in world.endpoint.paths()} == {NOBODY}
        resolvers.change({NAME: [V4]})
        assert server_of(world.attached("wifi")) == V4
        # It moves while we are attached there: that is no reason to leave.
        resolvers.change({NAME: [NOBODY]})
        asked = len(resolvers.asked("ap1"))
        world.lab.link("wifi").readdress("192.168.10.3")
        eventually(lambda: len(resolvers.asked("ap1")), lambda now: now > asked)
        assert server_of(world.attached("wifi", "192.168.10.3")) == V4


def test_what_a_name_meant_is_known_after_a_restart(world: World, resolvers: Resolvers) -> None:
    resolvers.change({NAME: [V4]})
    with configured(world, BY_NAME):
        world.attached("wifi")
        remembered = json.loads(world.endpoint.host.inside(MEMORY.read_text))
        assert remembered["names"] == {NAME: [V4]}
        resolvers.change(None)
        world.endpoint.start_cold(BY_NAME)
        world.attached("wifi")
        # The control: without the memory nobody knows.
        forget_names(world)
        world.endpoint.start_cold(BY_NAME)
        world.endpoint.wait_for("detached", NO_WAY)
        for_a_while(A_WHILE)
        assert world.endpoint.status()["state"] == "detached"
        resolvers.change({NAME: [V4]})
        world.attached("wifi")
