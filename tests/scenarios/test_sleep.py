"""The device sleeps: nothing of it runs, its links go, and it wakes minutes or hours later.

Processes are frozen by SIGSTOP, links are detached, logind is `tests.logind` on a real bus. The
clock is faked at the daemon's port (`tests.scenarios.sleepy`): charon's, the kernel's and the
server's go on as ever.
"""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.lab.apps import Download
from orchestrator.lab.product import ENDPOINT, SERVER
from tests.logind import FakeLogind
from tests.scenarios.conversation import Conversation
from tests.scenarios.sleepy import JUMP
from tests.scenarios.world import PEER, World, eventually, for_a_while

LIMIT = 60.0
PORT = 7071
FROZEN = 4.0
"""Seconds that a sleep takes in truth."""
FILE_BYTES = 6 << 20
RATE_MBIT = 8.0
BUS = Path("/run/dbus/system_bus_socket")
PATIENT = ENDPOINT + '[timers]\ndead_after = "10s"\n'
"""So that an unanswered probe does not end the doubt while it is looked at."""
IMPATIENT = SERVER + '[timers]\ndetach_after = "3s"\nasleep_after = "1s"\nexpire_after = "2s"\n'


@pytest.fixture(scope="module")
def make_world() -> Callable[..., World]:
    return partial(World, endpoint=PATIENT, file_bytes=FILE_BYTES)


@pytest.fixture(scope="module", autouse=True)
def logind(module_world: World) -> Iterator[FakeLogind]:
    """The endpoint's daemon finds one, and has a clock that can be made to jump."""
    endpoint = module_world.endpoint
    made = FakeLogind.started(BUS, endpoint.host.popen)
    endpoint.daemon.program = ("tests.scenarios.sleepy",)
    endpoint.kill()
    endpoint.start()
    yield made
    made.end()


class Device:
    """The endpoint, and what runs on it."""

    def __init__(self, world: World, *applications: int) -> None:
        daemon, charon = world.endpoint.daemon.process, world.endpoint.charon
        assert daemon is not None
        assert charon is not None
        self._world = world
        self._daemon = daemon.pid
        self._all = (daemon.pid, charon.pid, *applications)

    @contextmanager
    def frozen(self, slept: float | None) -> Iterator[None]:
        """Until the end of the block; then as many seconds seem to have passed. None: it was
        no sleep, only nobody ran."""
        for pid in self._all:
            os.kill(pid, signal.SIGSTOP)
        yield
        if slept is not None:
            self._world.endpoint.host.inside(JUMP.write_text, str(slept))
            os.kill(self._daemon, signal.SIGUSR1)
        for pid in reversed(self._all):
            os.kill(pid, signal.SIGCONT)


def session(world: World) -> dict[str, Any]:
    (found,) = world.server.sessions()
    return found


def count(world: World, event: str) -> int:
    return int(world.endpoint.status()["counters"].get(event, 0))


@pytest.mark.parametrize(
    ("slept", "wakes_at"), [(60.0, "wifi"), (15 * 60.0, "lte"), (8 * 3600.0, "wifi2")]
)
def test_connections_go_on_after_a_sleep(
    world: World, logind: FakeLogind, slept: float, wakes_at: str
) -> None:
    for link in world.lab.access_links:
        link.set(rate_mbit=RATE_MBIT)
    woken = count(world, "woke")
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        download = Download(world.endpoint.host, world.peers, PEER)
        eventually(lambda: download.output.received, bool)
        talk.goes_on()
        logind.sleep()
        told = session(world)
        assert (told["state"], told["reasons"]) == ("asleep", ["said-that-it-sleeps"])
        with Device(world, download.pid).frozen(slept):
            world.lab.link("wifi").detach()
            for_a_while(FROZEN)
            assert session(world)["state"] == "asleep"
            assert not download.done
            world.lab.link(wakes_at).attach()
        world.attached(wakes_at)
        talk.goes_on()
        logind.wake()
        assert download.result(LIMIT) == (True, 1)
        talk.ends_well()
    assert count(world, "woke") == woken + 1
    assert session(world)["state"] == "attached"


def test_of_a_sleep_that_nobody_announces_the_server_finds_out_by_itself(world: World) -> None:
    with Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        with Device(world).frozen(60.0):
            world.lab.link("wifi").detach()
            assert session(world)["state"] == "attached", "nobody has told it"
            for_a_while(FROZEN)
            world.lab.link("wifi").attach()
        talk.goes_on()
        talk.ends_well()


@pytest.mark.parametrize("slept", [60.0, None], ids=["after a sleep", "without one"])
def test_only_probes_leave_before_the_path_is_proven(world: World, slept: float | None) -> None:
    """Nothing is answered: the wan is cut. What was no sleep is the negative control."""
    with Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        with Device(world).frozen(slept):
            world.lab.link("wan").cut()
            for_a_while(0.5)
        for_a_while(1.5)
        status = world.endpoint.status()
        assert bool(status["held"]["packets"]) == (slept is not None)
        assert status["state"] == ("attached" if slept is None else "moving")
        assert status["active_path"] is not None
        world.lab.link("wan").mend()
        talk.goes_on()
        world.attached("wifi")
        talk.ends_well()


def test_a_session_that_expires_takes_its_connections_along_and_leaves_the_lease(
    world: World,
) -> None:
    before, vip = world.server.daemon.config, world.vip
    world.server.daemon.config = IMPATIENT
    try:
        world.server.daemon.restart()
        world.server.wait_for("serving")
        world.attached("wifi")
        eventually(lambda: session(world)["state"], lambda state: state == "attached")
        listener = world.endpoint.host.inside(socket.create_server, (str(vip), PORT))
        peer = world.lab.host("peer1").inside(socket.create_connection, (str(vip), PORT), LIMIT)
        ours, _ = listener.accept()
        ours.settimeout(LIMIT)
        world.nowhere()
        with peer, pytest.raises(ConnectionResetError):
            peer.recv(1)
        assert world.server.sessions() == []
        assert world.server.status()["counters"]["expired"] == 1
        world.lab.roam("wifi")
        world.attached("wifi")
        assert world.vip == vip
        ours.sendall(b"are you there")
        with listener, ours, pytest.raises(ConnectionResetError):
            ours.recv(1)
        with Conversation.open(world.endpoint.host, PEER) as talk:
            talk.goes_on()
            talk.ends_well()
    finally:
        world.server.daemon.config = before
        world.server.daemon.restart()
