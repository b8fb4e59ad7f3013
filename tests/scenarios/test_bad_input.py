"""What goes wrong has a clear word in `status`, is retried in measure, and is over when its
cause is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from orchestrator.lab.product import ENDPOINT, SERVER
from tests.scenarios.conversation import Conversation
from tests.scenarios.world import PEER, QUICK_TIMERS, Side, World, eventually

OWN = ENDPOINT + QUICK_TIMERS
ONE_KEY = 'secret_file = "/etc/orchestrator/secret"\n'
KEYS = """\
[auth.secrets]
"carol@example.org" = "/etc/orchestrator/carols"
"dave@example.org" = "/etc/orchestrator/daves"
"""
WITH_DAVES_ADDRESS = OWN + '[tunnel]\nvips = ["10.99.0.50"]\n'
DAVE_HAS_IT = SERVER + '[vip.static]\n"dave@example.org" = ["10.99.0.50"]\n'


@pytest.fixture(scope="module")
def make_world() -> Callable[..., World]:
    return partial(World, endpoint=OWN)


@contextmanager
def as_it_was(side: Side) -> Iterator[None]:
    """Gives the side its configuration back."""
    config, files = side.daemon.config, side.daemon.extra_files
    yield
    side.kill()
    side.daemon.config, side.daemon.extra_files = config, files


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


def test_without_charon_connections_wait(world: World) -> None:
    """The socket by which the kernel takes ESP out of UDP was charon's."""
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        world.endpoint.kill_charon()
        status = world.endpoint.wait_for("detached", "charon-absent")
        assert any("start strongSwan" in warning for warning in status["warnings"])
        talk.stays_silent(2.0)
        world.endpoint.start_charon()
        talk.goes_on()
        assert world.attached()["warnings"] == []
        talk.ends_well()


def test_the_vici_socket_is_gone_while_charon_runs(world: World) -> None:
    endpoint, vici = world.endpoint, Path("/run/charon.vici")
    with world.nothing_in_clear(), Conversation.open(endpoint.host, PEER) as talk:
        talk.goes_on()
        endpoint.kill()
        endpoint.host.inside(vici.rename, vici.with_suffix(".away"))
        endpoint.start()
        status = world.attached("wifi")
        assert status["charon"] == "absent"
        assert any(str(vici) in warning for warning in status["warnings"])
        world.lab.link("wifi").readdress("192.168.10.3")
        talk.goes_on()  # moved, though nothing can be negotiated
        endpoint.host.inside(vici.with_suffix(".away").rename, vici)
        eventually(endpoint.status, lambda status: status["charon"] != "absent")
        talk.goes_on()
        assert world.attached("wifi", "192.168.10.3")["warnings"] == []
        talk.ends_well()


def test_wrong_psk(world: World) -> None:
    with as_it_was(world.endpoint):
        world.endpoint.start_cold(files={"secret": "not what the server has\n"})
        world.endpoint.wait_for("detached", "authentication-failed")
        world.endpoint.tries_in_measure()
    world.endpoint.start_cold()
    world.attached()


def test_ones_own_key_proves_nobody_elses_identity(world: World) -> None:
    endpoint, server = world.endpoint, world.server
    keys = {"carols": "the key of carol\n", "daves": "the key of dave\n"}
    with as_it_was(endpoint), as_it_was(server):
        server.start_cold(SERVER.replace(ONE_KEY, KEYS), keys)
        endpoint.start_cold(files={"secret": keys["carols"]})
        world.attached()
        dave = OWN.replace("carol@", "dave@")
        endpoint.start_cold(dave, {"secret": keys["carols"]})
        endpoint.wait_for("detached", "authentication-failed")
        assert "dave@example.org" not in {s["identity"] for s in server.sessions()}
        endpoint.start_cold(dave, {"secret": keys["daves"]})
        world.attached()
    server.start_cold()
    endpoint.start_cold()
    world.attached()


def test_a_silent_server(world: World) -> None:
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        world.lab.link("wan").cut()
        world.endpoint.wait_for("detached", "path-dead")
        world.endpoint.wait_for("detached", "server-silent")
        world.endpoint.tries_in_measure()
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
        world.server.start_cold(DAVE_HAS_IT)
        world.endpoint.start_cold(WITH_DAVES_ADDRESS)
        world.endpoint.wait_for("detached", "traffic-selectors-refused")
        world.endpoint.tries_in_measure()
        sessions = {s["identity"]: s["state"] for s in world.server.sessions()}
        assert sessions["dave@example.org"] == "away"
    world.server.start_cold()
    world.endpoint.start_cold()
    assert world.attached()["vip"][0] != "10.99.0.50"


@pytest.mark.parametrize("role", ["endpoint", "server"])
def test_a_wrong_configuration_is_told_with_its_line(world: World, role: str) -> None:
    side: Side = getattr(world, role)
    wrong = side.daemon.config.replace("identity", "identiti", 1)
    side.host.inside(side.daemon.config_file.with_name("wrong.toml").write_text, wrong)
    answer = side.host.run(["orchestrator", "run", "/etc/orchestrator/wrong.toml"], check=False)
    assert answer.returncode == 1
    assert "/etc/orchestrator/wrong.toml:2: " in answer.stderr
    assert "Traceback" not in answer.stderr
