"""What goes wrong has a clear word in `status`, is retried in measure, and is over when its
cause is.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import pytest

from orchestrator.lab.product import ENDPOINT, SERVER
from tests.scenarios.conversation import Conversation
from tests.scenarios.world import PEER, Side, World, eventually, for_a_while

QUICK_TIMERS = '[timers]\nattempt = "4s"\nbackoff_max = "2s"\n'
"""So that what is tried again is tried soon; measured by the same rules as the defaults."""
WATCHED = 6.0
"""Seconds."""
MOST_ATTEMPTS = 8
"""In that time: pauses of 0.5, 1, 2, 2 seconds, and twice as many to be lenient."""
OWN = ENDPOINT + QUICK_TIMERS
SMALL_POOL = SERVER.replace(
    'pools = ["10.99.0.0/24", "fd00:99::/64"]', 'pools = ["10.99.0.0/30"]'
)
LARGER_POOL = SMALL_POOL.replace("/30", "/29")
DAVE = OWN.replace("carol@", "dave@") + (
    '[tunnel]\nmode = "split"\nprefixes = ["10.51.0.0/16"]\n'
)
WITH_DAVES_ADDRESS = OWN + '[tunnel]\nvips = ["10.99.0.50"]\n'
DAVE_HAS_IT = SERVER + '[vip.static]\n"dave@example.org" = ["10.99.0.50"]\n'


@pytest.fixture(scope="module")
def make_world() -> Callable[..., World]:
    return partial(World, endpoint=OWN)


def start_cold(
    side: Side, config: str | None = None, files: Mapping[str, str] | None = None
) -> None:
    """Starts a daemon with nothing in the kernel or in charon to go on with."""
    side.kill()
    if side.charon is not None:
        side.kill_charon()
    side.run("ip", "xfrm", "state", "flush")
    side.daemon.config = config or side.daemon.config
    side.daemon.extra_files = dict(files or {})
    side.start_charon()
    side.start()


@contextmanager
def as_it_was(side: Side) -> Iterator[None]:
    """Gives the side its configuration back."""
    config, files = side.daemon.config, side.daemon.extra_files
    yield
    side.kill()
    side.daemon.config, side.daemon.extra_files = config, files


def tried_in_measure(side: Side) -> None:
    """Raises AssertionError if it negotiates all the time, or has given up."""

    def attempts() -> int:
        return int(side.status()["counters"].get("negotiating", 0))

    before = attempts()
    for_a_while(WATCHED)
    eventually(attempts, lambda now: now > before, 20.0)
    assert attempts() - before <= MOST_ATTEMPTS


def test_charon_absent_at_the_start(world: World) -> None:
    endpoint = world.endpoint
    endpoint.kill()
    endpoint.kill_charon()
    endpoint.run("ip", "xfrm", "state", "flush")
    endpoint.start()
    status = endpoint.wait_for("detached", "charon-absent")
    assert status["charon"] == "absent"
    assert any("start strongSwan" in warning for warning in status["warnings"])
    endpoint.start_charon()
    assert world.attached()["warnings"] == []


@pytest.mark.parametrize("role", ["endpoint", "server"])
def test_charon_restarted_while_attached(world: World, role: str) -> None:
    side: Side = getattr(world, role)
    before = world.attached()
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        side.kill_charon()
        eventually(side.status, lambda status: status["charon"] == "absent")
        side.start_charon()
        talk.goes_on()
        world.renewed("wifi", before)
        talk.goes_on()
        talk.ends_well()


def test_traffic_goes_on_without_charon(world: World) -> None:
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        world.endpoint.kill_charon()
        eventually(world.endpoint.status, lambda status: status["charon"] == "absent")
        talk.goes_on()
        for_a_while(5.0)  # probes must be answered too
        talk.goes_on()
        assert world.endpoint.status()["state"] == "attached"
        talk.ends_well()


def test_wrong_psk(world: World) -> None:
    with as_it_was(world.endpoint):
        start_cold(world.endpoint, files={"secret": "not what the server has\n"})
        world.endpoint.wait_for("detached", "authentication-failed")
        tried_in_measure(world.endpoint)
    start_cold(world.endpoint)
    world.attached()


def test_a_silent_server(world: World) -> None:
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        world.lab.link("wan").cut()
        world.endpoint.wait_for("detached", "path-dead")
        world.endpoint.wait_for("detached", "server-silent")
        tried_in_measure(world.endpoint)
        world.lab.link("wan").mend()
        talk.goes_on()
        world.attached()
        talk.ends_well()


def test_an_unreachable_server(world: World) -> None:
    """Routers on the way say so: the last link is gone."""
    with Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        world.lab.link("wan").down()
        world.endpoint.wait_for("detached", "server-silent")
        world.lab.link("wan").up()
        talk.goes_on()
        world.attached()
        talk.ends_well()


def test_the_address_disappears_during_ike(world: World) -> None:
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        world.lab.link("wan").cut()
        world.lab.roam("lte")
        eventually(world.endpoint.paths, _negotiating)
        world.lab.link("lte").detach()
        world.endpoint.wait_for("detached", "no-carrier")
        assert world.endpoint.paths() == []
        world.lab.link("wan").mend()
        world.lab.link("wifi2").attach()
        talk.goes_on()
        world.attached("wifi2")
        talk.ends_well()


def _negotiating(paths: list[dict[str, object]]) -> bool:
    return any(path["state"] == "negotiating" for path in paths)


def test_a_virtual_address_of_somebody_else(world: World) -> None:
    with as_it_was(world.endpoint), as_it_was(world.server):
        start_cold(world.server, DAVE_HAS_IT)
        start_cold(world.endpoint, WITH_DAVES_ADDRESS)
        world.endpoint.wait_for("detached", "traffic-selectors-refused")
        tried_in_measure(world.endpoint)
        sessions = {s["identity"]: s["state"] for s in world.server.sessions()}
        assert sessions["dave@example.org"] == "detached"
    start_cold(world.server)
    start_cold(world.endpoint)
    assert world.attached()["vip"][0] != "10.99.0.50"


def test_an_exhausted_pool(cold_world: World) -> None:
    world = cold_world
    world.server.daemon.config = SMALL_POOL
    world.start()
    dave = Side(world.lab, "endpoint", DAVE, {}, host="ap2")
    dave.start_charon()
    dave.start()
    dave.wait_for("detached", "no-virtual-address-left")
    assert world.server.status()["counters"]["pool-exhausted"] >= 1
    world.attached()  # who has an address keeps it
    tried_in_measure(dave)
    world.server.kill()
    world.server.daemon.config = LARGER_POOL
    world.server.start()
    assert dave.wait_for("attached")["vip"] == ["10.99.0.3"]
    assert world.attached()["vip"] == ["10.99.0.2"]


@pytest.mark.parametrize("role", ["endpoint", "server"])
def test_a_wrong_configuration_is_told_with_its_line(world: World, role: str) -> None:
    side: Side = getattr(world, role)
    wrong = side.daemon.config.replace("identity", "identiti", 1)
    side.host.inside(side.daemon.config_file.with_name("wrong.toml").write_text, wrong)
    answer = side.host.run(["orchestrator", "run", "/etc/orchestrator/wrong.toml"], check=False)
    assert answer.returncode == 1
    assert "/etc/orchestrator/wrong.toml:2: " in answer.stderr
    assert "Traceback" not in answer.stderr
