"""kill -9 of either daemon, in each state: what is open goes on when it is started again."""

from collections.abc import Callable

import pytest

from tests.scenarios.conversation import Conversation
from tests.scenarios.world import PEER, Side, World, for_a_while

LINK_AFTERWARDS = "wifi2"


def attached(world: World) -> None:
    """Data flows."""
    world.attached()


def moving(world: World) -> None:
    """The traffic was sent another way, which has not answered yet and cannot."""
    world.lab.link("wan").cut()
    world.lab.roam("lte")
    world.endpoint.wait_for("moving", limit=10.0)


def detached(world: World) -> None:
    """No network at all."""
    world.nowhere()


SITUATIONS = (attached, moving, detached)


@pytest.fixture(params=["endpoint", "server"])
def victim(request: pytest.FixtureRequest, world: World) -> Side:
    side: Side = getattr(world, request.param)
    return side


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
def test_a_connection_outlives_kill_9(
    world: World, victim: Side, situation: Callable[[World], None]
) -> None:
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        situation(world)
        victim.kill()
        if situation is attached:
            talk.goes_on()  # the kernels do not need us for that
        else:
            talk.stays_silent(1.0)
        world.lab.link("wan").mend()
        victim.start()
        if situation is detached:
            world.lab.roam(LINK_AFTERWARDS)
        talk.goes_on()
        world.attached()
        talk.ends_well()


def test_a_move_between_death_and_return_is_caught_up_with(world: World, victim: Side) -> None:
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        victim.kill()
        world.lab.roam("lte")
        for_a_while(1.0)
        world.lab.roam(LINK_AFTERWARDS)
        talk.stays_silent(1.0)
        victim.start()
        talk.goes_on()
        talk.ends_well()


def test_a_second_daemon_is_refused_and_the_first_is_unharmed(
    world: World, victim: Side
) -> None:
    before = victim.status()
    with Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        second = victim.host.run(
            ["orchestrator", "run", str(victim.daemon.config_file)], check=False
        )
        assert second.returncode == 1
        assert "running already" in second.stderr
        assert "Traceback" not in second.stderr
        talk.goes_on()
        after = victim.status()
        assert after["repairs"] == before["repairs"]
        # It may still be on its way to a fresh tunnel.
        assert after["state"] in {"serving", "attached", "moving"}
        assert after["uptime_s"] > before["uptime_s"]
        talk.ends_well()
