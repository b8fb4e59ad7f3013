"""Networks as they are: dead without a sign, filtered, forgetful, late, unsteady.

Each says what it took; what is asserted of time is what any machine can keep.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from orchestrator.adapters.charon import Charon
from orchestrator.lab.charon import VICI_SOCKET
from orchestrator.lab.host import Host
from orchestrator.lab.nat import Nat
from orchestrator.lab.product import ENDPOINT
from orchestrator.wire.control import Refused, Verb
from tests.scenarios.conversation import Conversation
from tests.scenarios.world import (
    LIMIT,
    PEER,
    SERVER_ADDRESS,
    Side,
    World,
    eventually,
    for_a_while,
)

pytestmark = pytest.mark.long

ATTEMPT: Final = 8.0
"""Seconds: `[timers] attempt`."""
ONE_BY_ONE: Final = ENDPOINT + "[links]\nrace = 1\n"
LATE: Final = 5.0
PHASE: Final = 0.3
FLAPS: Final = 20
MOST: Final = 3
"""Negotiations, and roams, until it is known that it flaps."""
HOPELESS: Final = 60.0
HOPELESS_OCTETS: Final = 100_000
"""At three places: six negotiations at each, of four messages of a kilobyte."""


@pytest.fixture
def started(world: World) -> Iterator[World]:
    """The endpoint has just started, and is nowhere; the server knows it."""
    world.nowhere()
    # Half of a tunnel is with a server that the endpoint cannot tell of its end.
    world.server.start_cold()
    world.server.wait_for("serving")
    starts(world, ENDPOINT)
    yield world
    if world.endpoint.daemon.config != ENDPOINT:
        world.endpoint.kill()
        world.endpoint.daemon.config = ENDPOINT


def starts(world: World, config: str) -> None:
    """The endpoint has nothing to go on with, and charon is there."""
    world.endpoint.start_cold(config)
    eventually(world.endpoint.status, lambda status: status.get("charon") != "absent")
    world.endpoint.wait_for("detached")


def takes(world: World, link: str) -> float:
    """Seconds until the endpoint is attached there."""
    began = time.monotonic()
    world.attached(link)
    return time.monotonic() - began


def says(capfd: pytest.CaptureFixture[str], what: str, seconds: float) -> None:
    with capfd.disabled():
        print(f"\n  {what}: {seconds:.2f} s")  # noqa: T201 - a figure for the documents


def negotiations(world: World) -> int:
    return int(world.endpoint.status()["counters"].get("negotiating", 0))


async def _tunnels() -> set[int]:
    return {tunnel.ike for tunnel in await Charon(VICI_SOCKET).tunnels()}


async def _connections() -> tuple[str, ...]:
    return await Charon(VICI_SOCKET).connections()


def tunnels(side: Side) -> int:
    return len(side.host.inside(lambda: asyncio.run(_tunnels())))


def nothing_is_left(world: World) -> None:
    """Both charons have the same tunnels, and those that the endpoint uses or keeps warm."""

    def counts() -> tuple[int, int, int, int]:
        used = [path for path in world.endpoint.paths() if path["ike_sa"] is not None]
        loaded = world.endpoint.host.inside(lambda: asyncio.run(_connections()))
        return len(used), tunnels(world.endpoint), tunnels(world.server), len(loaded)

    eventually(counts, lambda n: n[0] == n[1] == n[2] and n[3] == 0)


@contextmanager
def filtered(host: Host, port: int) -> Iterator[Callable[[], int]]:
    """What this router would pass on to a UDP port is dropped, and counted."""
    host.run(["nft", "-f", "-"], input=f"""
        table inet filtering {{
            chain forward {{
                type filter hook forward priority filter
                udp dport {port} counter drop
            }}
        }}
    """)  # fmt: skip

    def dropped() -> int:
        listed = host.run(["nft", "list", "table", "inet", "filtering"]).stdout
        return int(listed.split("packets ")[1].split()[0])

    try:
        yield dropped
    finally:
        host.run(["nft", "delete", "table", "inet", "filtering"])


def test_a_network_that_is_dead_without_a_sign_costs_a_moment(
    started: World, capfd: pytest.CaptureFixture[str]
) -> None:
    wifi, lte = started.lab.link("wifi"), started.lab.link("lte")
    wifi.cut()
    wifi.attach()
    lte.attach()
    seconds = takes(started, "lte")
    says(capfd, "first link dead, second well, until attached", seconds)
    assert seconds < ATTEMPT
    wifi.mend()
    started.attached("wifi")
    nothing_is_left(started)


def test_and_a_whole_attempt_where_one_follows_the_other(
    started: World, capfd: pytest.CaptureFixture[str]
) -> None:
    starts(started, ONE_BY_ONE)
    wifi, lte = started.lab.link("wifi"), started.lab.link("lte")
    wifi.cut()
    wifi.attach()
    lte.attach()
    seconds = takes(started, "lte")
    says(capfd, "the same with race = 1", seconds)
    assert seconds >= ATTEMPT - 1
    wifi.mend()


def test_a_network_that_filters_port_500_is_one_like_any_other(
    started: World, capfd: pytest.CaptureFixture[str]
) -> None:
    with filtered(started.lab.host("ap1"), 500) as dropped:
        started.lab.link("wifi").attach()
        says(capfd, "port 500 filtered, until attached", takes(started, "wifi"))
        assert dropped() == 0, "it was never used"
        bash = f"echo > /dev/udp/{SERVER_ADDRESS}/500"
        mark = [
            "ip",
            "rule",
            "add",
            "priority",
            "1",
            "to",
            str(SERVER_ADDRESS),
            "lookup",
            "main",
        ]
        started.endpoint.run(*mark)
        started.endpoint.run("bash", "-c", bash)
        started.endpoint.run("ip", "rule", "del", "priority", "1")
        eventually(dropped, bool)


def test_one_that_filters_port_4500_is_silent(started: World) -> None:
    with filtered(started.lab.host("ap1"), 4500) as dropped:
        started.lab.link("wifi").attach()
        started.endpoint.wait_for("detached", "server-silent")
        assert dropped() > 0
    started.attached("wifi")


def pop_of(world: World) -> str:
    (session,) = world.server.sessions()
    return str(session["pop"])


def test_a_nat_that_forgets_its_mappings_is_followed(world: World) -> None:
    nat = Nat(world.lab.host("ap1"), "wan0")
    before = world.attached("wifi")
    began = negotiations(world)
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        first = pop_of(world)
        nat.rebind()
        talk.goes_on()
        second = eventually(lambda: pop_of(world), lambda pop: pop != first)
        # The control: it is charon at the server that follows.
        charon = world.server.charon
        assert charon is not None
        os.kill(charon.pid, signal.SIGSTOP)
        try:
            nat.rebind()
            talk.stays_silent(1.0)
        finally:
            os.kill(charon.pid, signal.SIGCONT)
        talk.goes_on()
        eventually(lambda: pop_of(world), lambda pop: pop not in {first, second})
        talk.ends_well()
    assert world.attached("wifi")["active_path"]["spi_out"] == before["active_path"]["spi_out"]
    assert negotiations(world) == began


def test_an_address_that_comes_late_is_used_at_once(
    started: World, capfd: pytest.CaptureFixture[str]
) -> None:
    wifi = started.lab.link("wifi")
    wifi.up()
    began = negotiations(started)
    started.endpoint.wait_for("detached", "no-address")
    for_a_while(LATE)
    assert negotiations(started) == began, "there is nothing to begin with"
    wifi.attach()
    seconds = takes(started, "wifi")
    says(capfd, "from an address that comes 5 s late, until attached", seconds)
    assert seconds < LATE


def asks_for(world: World, link: str | None) -> bool:
    """Whether the daemon knows the link, and goes there as the operator wants."""
    try:
        world.endpoint.daemon.ask(Verb.ROAM, link)
    except Refused:
        return False
    return True


def all_on(device: str, paths: list[dict[str, Any]]) -> bool:
    return all(path["link"] == device for path in paths)


def test_a_link_that_flaps_is_left_for_a_steady_one(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    world.lab.roam("lte")
    world.attached("lte")
    wifi = world.lab.link("wifi")
    began, roams = negotiations(world), world.endpoint.status()["roams"]
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        for _ in range(FLAPS):
            wifi.attach()
            for_a_while(PHASE)
            wifi.detach()
            for_a_while(PHASE)
        talk.goes_on()
        status = world.attached("lte")
        begun, roamed = negotiations(world) - began, status["roams"] - roams
        with capfd.disabled():
            print(f"\n  {FLAPS} flaps: {begun} negotiations, {roamed} roams")  # noqa: T201
        assert begun <= MOST
        assert roamed <= MOST
        nothing_is_left(world)
        # The control: each time there is enough to begin with, for who wants it.
        began = negotiations(world)
        for _ in range(MOST + 1):
            wifi.attach()
            eventually(partial(asks_for, world, "wlan0"), bool)
            for_a_while(PHASE)
            wifi.detach()
            eventually(world.endpoint.paths, partial(all_on, "wwan0"))
        assert negotiations(world) - began > MOST
        wifi.attach()
        eventually(partial(asks_for, world, None), bool)
        world.attached("wifi")
        talk.ends_well()
    nothing_is_left(world)


def octets(world: World) -> int:
    devices = ("wlan0", "wwan0")
    counters = (Path(f"/sys/class/net/{name}/statistics/tx_bytes") for name in devices)
    return sum(int(world.endpoint.run("cat", str(counter))) for counter in counters)


def test_a_hopeless_minute_is_cheap(started: World, capfd: pytest.CaptureFixture[str]) -> None:
    links = [started.lab.link(name) for name in ("wifi", "lte")]
    for link in links:
        link.cut()
        link.attach()
    before, began = octets(started), negotiations(started)
    for_a_while(HOPELESS)
    sent, begun = octets(started) - before, negotiations(started) - began
    with capfd.disabled():
        print(f"\n  a hopeless minute: {sent} octets, {begun} negotiations")  # noqa: T201
    assert 0 < sent < HOPELESS_OCTETS
    for link in links:
        link.mend()
    started.attached(limit=LIMIT)
    started.attached("wifi")
