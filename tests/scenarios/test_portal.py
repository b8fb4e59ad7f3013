"""A hotel's Wi-Fi: that it wants a sign-in is told, one program may sign in, nothing else."""

import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from orchestrator.lab.captive import PLEASE, SIGN_IN, WELCOME, CaptivePortal, OpenPage
from orchestrator.lab.product import ENDPOINT
from orchestrator.wire.control import Verb
from tests.scenarios.conversation import Conversation
from tests.scenarios.world import LIMIT, PEER, QUICK_TIMERS, World, eventually

pytestmark = pytest.mark.long

URL = "http://203.0.113.1/generate_204"
PAGE = "http://login.hotel"
CONFIG = ENDPOINT + QUICK_TIMERS + f'[portal]\nurl = "{URL}"\n'
CURL = ("curl", "--silent", "--show-error", "--noproxy", "*")
PATIENT = ("--max-time", "30")
IMPATIENT = ("--max-time", "4")
SIGN_IN_WAY = ("orchestrator", "portal", "wlan0", "--")
ASKS_TWICE = f"""
curl --silent --max-time 20 {PAGE}/ && echo . && read -r _
curl --silent --max-time 20 {PAGE}/ || echo refused
"""
"""A program that tries once, waits for a line, and tries again."""


@pytest.fixture(scope="module")
def make_world() -> Callable[..., World]:
    return partial(World, endpoint=CONFIG)


@pytest.fixture(scope="module")
def beyond(module_world: World) -> Iterator[None]:
    """What the endpoint asks for is there, as long as nobody is in between."""
    with OpenPage(module_world.lab.host("internet")):
        yield


def hotel(world: World) -> CaptivePortal:
    """What the Wi-Fi becomes that the endpoint is attached over."""
    return CaptivePortal(world.lab.host("ap1"), "wlan0", "192.168.10.1")


@pytest.fixture
def portal(world: World, beyond: None) -> Iterator[CaptivePortal]:
    with hotel(world) as there:
        yield there


def recognised(world: World) -> dict[str, Any]:
    return world.endpoint.wait_for("detached", "portal")


def tried(world: World, *command: str) -> "subprocess.CompletedProcess[str]":
    return world.endpoint.host.run(list(command), check=False)


def signs_in(world: World, url: str = PAGE + SIGN_IN) -> "subprocess.CompletedProcess[str]":
    return tried(world, *SIGN_IN_WAY, *CURL, *PATIENT, url)


def test_is_recognised_and_told(world: World, portal: CaptivePortal) -> None:
    status = recognised(world)
    assert any("orchestrator portal wlan0" in warning for warning in status["warnings"])
    assert status["counters"]["portal"] == 1
    (path,) = eventually(world.endpoint.paths, lambda found: found[0]["state"] != "negotiating")
    assert path["state"] == "portal"
    metrics = world.endpoint.daemon.ask(Verb.METRICS)["text"]
    assert "orchestrator_portals 1.0\n" in metrics


def test_signing_in_brings_the_tunnel_up_and_nothing_else_out(
    world: World, beyond: None
) -> None:
    with (
        world.nothing_in_clear(),
        Conversation.open(world.endpoint.host, PEER) as talk,
        hotel(world),
    ):
        recognised(world)
        # The control: without the way nobody reaches the page; it is there all the same.
        alone = tried(world, *CURL, *IMPATIENT, f"{URL}")
        assert (alone.returncode, alone.stdout) == (28, ""), alone.stderr
        page = signs_in(world, f"{PAGE}/")
        assert page.stdout == PLEASE, page.stderr
        # While the way is open, others have none.
        program = world.endpoint.host.popen(
            [*SIGN_IN_WAY, "sh", "-c", ASKS_TWICE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert program.stdout is not None
        assert program.stdout.readline().decode() == f"{PLEASE}.\n"
        assert world.endpoint.status()["portal_way"]["link"] == "wlan0"
        for bound in ((), ("--interface", "192.168.10.2")):
            other = tried(world, *CURL, *IMPATIENT, *bound, URL)
            assert other.returncode != 0
            assert other.stdout == ""
        talk.stays_silent(1.0)
        again = signs_in(world)
        assert "open already" in again.stderr
        program.kill()
        eventually(world.endpoint.status, lambda status: status["portal_way"] is None)
        # And one program signs in.
        entered = signs_in(world)
        assert entered.stdout == WELCOME, entered.stderr
        world.attached("wifi")
        talk.goes_on()
        talk.ends_well()
    refused = signs_in(world)
    assert "nobody has to sign in" in refused.stderr


def test_the_way_closes_when_the_tunnel_comes_up(world: World, portal: CaptivePortal) -> None:
    recognised(world)
    script = f"curl --silent --max-time 20 {PAGE}{SIGN_IN} && echo . && read -r _"
    program = world.endpoint.host.popen(
        [
            *SIGN_IN_WAY,
            "sh",
            "-c",
            f"{script}; curl --silent --max-time 20 {URL} || echo refused",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert program.stdout is not None
    assert program.stdin is not None
    assert program.stdout.readline().decode() == f"{WELCOME}.\n"
    world.attached("wifi")
    assert world.endpoint.status()["portal_way"] is None
    program.stdin.write(b"\n")
    program.stdin.close()
    assert program.stdout.read() == b"refused\n"
    program.wait(LIMIT)


@pytest.mark.parametrize("end", ["kill", "cleanup"])
def test_the_way_closes_with_the_daemon(world: World, portal: CaptivePortal, end: str) -> None:
    recognised(world)
    program = world.endpoint.host.popen(
        [*SIGN_IN_WAY, "sh", "-c", ASKS_TWICE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert program.stdout is not None
    assert program.stdin is not None
    assert program.stdout.readline().decode() == f"{PLEASE}.\n"
    if end == "kill":
        world.endpoint.kill()
        world.endpoint.start()
        assert world.endpoint.status()["portal_way"] is None
    else:
        world.endpoint.run("orchestrator", "cleanup", "--stop")
    program.stdin.write(b"\n")
    program.stdin.close()
    assert program.stdout.read() == b"refused\n"
    program.wait(LIMIT)


def test_a_network_that_forgets_us_is_recognised_while_we_use_it(
    world: World, portal: CaptivePortal
) -> None:
    recognised(world)
    assert signs_in(world).stdout == WELCOME
    world.attached("wifi")
    portal.forget_everybody()
    recognised(world)
    assert signs_in(world).stdout == WELCOME
    world.attached("wifi")


def test_a_server_that_is_silent_alone_is_no_portal(world: World, beyond: None) -> None:
    world.lab.link("wan").cut()
    asked = int(world.endpoint.status()["counters"].get("portal-probe-open", 0))
    eventually(
        world.endpoint.status,
        lambda status: int(status["counters"].get("portal-probe-open", 0)) > asked,
    )
    status = world.endpoint.wait_for("detached", "server-silent")
    assert "portal" not in status["reasons"]
    world.lab.link("wan").mend()
