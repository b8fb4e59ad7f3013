"""Out of range, and peers that send until no limit lets them: they wait, nothing is lost."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pytest

from orchestrator.lab.product import SERVER
from orchestrator.lab.serve import content
from tests.scenarios.pouring import PORT, POURED, Pouring
from tests.scenarios.world import World, eventually

KIB, MIB = 1 << 10, 1 << 20
OF_FLOW = 256 * KIB
OF_SESSION = MIB
FLOWS = 8
PORTION = 64 * KIB
RECEIVED = OF_FLOW // 4
"""What the kernel takes of a flow that is not read."""
LIMITED = f"""{SERVER}
[proxy]
queue_per_flow = "256KiB"
queue_per_session = "1MiB"
queue_limit = "1MiB"
"""
SPOOL = MIB
SPOOLING = f"""{LIMITED}
spool = "/run/orchestrator-spool"
spool_per_flow = "1MiB"
spool_per_session = "1MiB"
spool_limit = "1MiB"
"""


@pytest.fixture(scope="module")
def make_world() -> Callable[..., World]:
    return partial(World, server=LIMITED)


@contextmanager
def server_with(world: World, config: str) -> Iterator[None]:
    before, world.server.daemon.config = world.server.daemon.config, config
    world.server.daemon.restart()
    try:
        world.server.wait_for("serving")
        world.attached("wifi")
        yield
    finally:
        world.server.daemon.config = before
        world.server.daemon.restart()


def away(world: World) -> None:
    world.nowhere()
    eventually(world.server.status, lambda status: status["sessions"]["attached"] == 0)


def all_pour(pourings: Sequence[Pouring]) -> None:
    threads = [threading.Thread(target=pouring.pour) for pouring in pourings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_all_connections_of_an_absent_endpoint_meet_its_limit_and_go_on(world: World) -> None:
    pourings = [Pouring(world, PORT + number) for number in range(FLOWS)]
    away(world)
    all_pour(pourings)
    acknowledged = sum(pouring.acknowledged() for pouring in pourings)
    assert OF_SESSION // 2 < acknowledged <= OF_SESSION + FLOWS * (PORTION + RECEIVED)
    queued = world.server.status()["queued"]["memory"]
    assert queued["limit_bytes"] == OF_SESSION
    assert queued["waiting"] > 0
    (session,) = world.server.sessions()
    assert session["queued"]["waiting"] > 0
    assert session["queued"]["waiting_since_s"] > 0
    world.lab.roam("lte")
    for pouring in pourings:
        assert pouring.received() == content(POURED)[: pouring.sent]
        pouring.goes_on()
        pouring.close()
    eventually(world.server.status, lambda status: not status["queued"]["memory"]["waiting"])


def test_with_a_spool_the_window_closes_when_that_is_full_and_all_arrives(
    world: World,
) -> None:
    with server_with(world, SPOOLING), world.nothing_in_clear():
        pouring = Pouring(world)
        away(world)
        pouring.pour()
        eventually(world.server.status, lambda status: status["queued"]["disk"]["waiting"] == 1)
        pouring.pour()
        assert SPOOL < pouring.acknowledged() <= SPOOL + OF_FLOW < pouring.sent
        (session,) = world.server.sessions()
        assert SPOOL // 2 < session["queued"]["spooled_bytes"] <= SPOOL
        world.lab.roam("lte")
        assert pouring.received() == content(POURED)[: pouring.sent]
        pouring.goes_on()
        assert world.server.status()["queued"]["disk"]["bytes"] == 0
        pouring.close()


def test_without_a_spool_it_closes_when_memory_is_full(world: World) -> None:
    pouring = Pouring(world)
    away(world)
    pouring.pour()
    assert 0 < pouring.acknowledged() <= OF_FLOW < pouring.sent
    assert world.server.status()["queued"]["disk"]["limit_bytes"] == 0
    world.lab.roam("lte")
    assert pouring.received() == content(POURED)[: pouring.sent]
    pouring.goes_on()
    pouring.close()
