"""The server's program is replaced, daemon and proxy worker, in the middle of connections."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator import __version__
from orchestrator.lab.apps import Download
from orchestrator.lab.watch import Watch
from tests.releases import another_release
from tests.scenarios.conversation import Conversation
from tests.scenarios.world import LIMIT, PEER, World, eventually

FILE_BYTES = 12 << 20
RATE_MBIT = 4.0
"""25 seconds for the file: a daemon and a worker start meanwhile, on a slow machine, too."""
FORMER = "0.0.9"


@pytest.fixture(scope="module")
def make_world() -> Callable[..., World]:
    return partial(World, file_bytes=FILE_BYTES)


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return another_release(tmp_path_factory.mktemp("former"), FORMER)


def worker(world: World) -> dict[str, Any]:
    """The proxy worker, once it serves."""

    def running(status: dict[str, Any]) -> bool:
        return status.get("proxy") == "running"

    found: dict[str, Any] = eventually(world.server.status, running)["proxy_worker"]
    return found


def kill_worker(world: World) -> int:
    pid = int(worker(world)["pid"])
    os.kill(pid, signal.SIGKILL)
    return pid


def run_former(world: World, former: Path) -> None:
    """The server runs the former release, worker and daemon, and has run nothing else."""
    side = world.server
    old = kill_worker(world)
    side.kill()
    side.daemon.process = side.host.popen(
        [sys.executable, "-u", "-m", "orchestrator", "run", str(side.daemon.config_file)],
        env={"PYTHONPATH": str(former)},
        cwd=former,
    )
    eventually(
        lambda: (side.status().get("version"), worker(world)["release"]),
        lambda releases: releases == (FORMER, FORMER),
    )
    assert worker(world)["pid"] != old
    world.attached("wifi")


@pytest.fixture
def download(world: World) -> Iterator[Download]:
    """In the middle of the peer's file."""
    for link in world.lab.access_links:
        link.set(rate_mbit=RATE_MBIT)
    download = Download(world.endpoint.host, world.peers, PEER)
    eventually(lambda: download.output.received, bool)
    yield download
    download.result(LIMIT)


def test_an_upgrade_of_daemon_and_worker_closes_nothing(world: World, former: Path) -> None:
    run_former(world, former)
    for link in world.lab.access_links:
        link.set(rate_mbit=RATE_MBIT)
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        download = Download(world.endpoint.host, world.peers, PEER)
        eventually(lambda: download.output.received, bool)
        old = worker(world)
        world.server.kill()
        world.server.start()
        new = worker(world)
        assert (new["release"], new["took_over"]) == (__version__, 2)
        assert new["pid"] != old["pid"]
        assert not download.done
        talk.goes_on()
        world.attached("wifi")
        assert download.result(LIMIT) == (True, 1)
        talk.ends_well()


def test_an_operator_replaces_the_worker_and_is_told_what_went_over(
    world: World, download: Download
) -> None:
    with Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        old = worker(world)
        told = json.loads(world.server.run("orchestrator", "replace-proxy", "--json"))
        assert (told["connections"], told["lost"]) == (2, 0)
        assert told["former_pid"] == old["pid"]
        assert worker(world)["pid"] == told["pid"]
        assert not download.done
        talk.goes_on()
        assert download.result(LIMIT) == (True, 1)
        talk.ends_well()


def test_a_worker_that_is_killed_instead_takes_its_connections_along_and_they_are_counted(
    world: World, download: Download
) -> None:
    side = world.server
    watching = Watch(side.host, lambda: side.run("orchestrator", "replace-proxy"))
    with watching as watch, Conversation.open(world.endpoint.host, PEER) as talk:
        talk.goes_on()
        eventually(world.server.sessions, lambda sessions: sessions[0]["flows"] == 2)
        pid = kill_worker(world)
        lost = eventually(lambda: watch.told("worker-lost"), bool)[0]
        assert (lost["pid"], lost["connections"]) == (pid, 2)
        assert lost["sessions"] == {world.server.sessions()[0]["identity"]: 2}
        assert worker(world)["pid"] != pid
        eventually(lambda: talk.failure, bool)
        assert download.result(LIMIT) == (False, 1)
