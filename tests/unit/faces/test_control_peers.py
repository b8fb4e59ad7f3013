"""Who may ask at the control socket, and who is not answered."""

import asyncio
import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.common import Control
from orchestrator.core.errors import OrchestratorError
from orchestrator.faces.control import ControlServer, Peer
from orchestrator.wire.control import Request, Verb, encode_request
from tests.unit.faces.served import FakeDaemon, as_root, serving
from tests.unit.faces.waiting import run

NOBODY = 65534
GROUP = "daemon"
GID = 1


def as_user(uid: int, groups: list[int], path: Path) -> Callable[[], Any]:
    """A process of another user, asking for the status; call to let it go and have its answer.

    It is made before there is an event loop, and waits.
    """
    go, said = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.read(go[0], 1)
            os.setgroups(groups[1:])
            os.setgid(groups[0])
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(encode_request(Request(Verb.STATUS)))
                os.write(said[1], client.makefile("rb").read())
        except OSError as error:
            os.write(said[1], json.dumps(type(error).__name__).encode())
        finally:
            os._exit(0)
    os.close(go[0])
    os.close(said[1])

    def answer() -> Any:
        os.write(go[1], b"!")
        with os.fdopen(said[0], "rb") as pipe:
            told = pipe.read()
        os.close(go[1])
        os.waitpid(pid, 0)
        return json.loads(told)

    return answer


def test_the_socket_is_closed_to_others(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder):
            found = (folder / "control.sock").stat()
            assert stat.S_IMODE(found.st_mode) == 0o600

    run(story())


@as_root
def test_the_socket_is_open_to_the_group_alone(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder, group=GROUP):
            found = (folder / "control.sock").stat()
            assert stat.S_IMODE(found.st_mode) == 0o660
            assert (found.st_uid, found.st_gid) == (os.geteuid(), GID)

    run(story())


@as_root
@pytest.mark.parametrize("groups", [[GID], [NOBODY, GID]])
def test_members_of_the_group_are_answered(folder: Path, groups: list[int]) -> None:
    client = as_user(NOBODY, groups, folder / "control.sock")

    async def story() -> None:
        async with serving(folder, group=GROUP) as server:
            assert (await asyncio.to_thread(client))["ok"]
            assert server.counters.refused_peer == 0

    run(story())


@as_root
def test_others_cannot_even_connect(folder: Path) -> None:
    client = as_user(NOBODY, [NOBODY], folder / "control.sock")

    async def story() -> None:
        async with serving(folder, group=GROUP):
            assert await asyncio.to_thread(client) == "PermissionError"

    run(story())


@as_root
@pytest.mark.parametrize("group", [None, GROUP])
def test_others_who_can_connect_are_not_answered(folder: Path, group: str | None) -> None:
    """The mode of a file is easily changed; the kernel's word on the peer is not."""
    client = as_user(NOBODY, [NOBODY], folder / "control.sock")

    async def story() -> None:
        async with serving(folder, group=group) as server:
            (folder / "control.sock").chmod(0o666)
            answer = await asyncio.to_thread(client)
            assert not answer["ok"]
            assert answer["error"] == f"user {NOBODY} may not administer"
            assert answer["remedy"].startswith("run it as root")
            assert server.counters.refused_peer == 1
            assert server.counters.answered == 0

    run(story())


@as_root
def test_without_the_look_at_the_peer_others_would_be_answered(folder: Path) -> None:
    """The test above can fail: it is the check that keeps them out."""
    client = as_user(NOBODY, [NOBODY], folder / "control.sock")

    class Careless(ControlServer):
        def may_administer(self, peer: Peer) -> bool:
            return True

    async def story() -> None:
        async with Careless(Control(folder / "control.sock"), FakeDaemon()):
            (folder / "control.sock").chmod(0o666)
            assert (await asyncio.to_thread(client))["ok"]

    run(story())


def test_an_unknown_group_is_an_error(folder: Path) -> None:
    async def story() -> None:
        with pytest.raises(OrchestratorError, match="groupadd"):
            async with serving(folder, group="no-such-group"):
                pass

    run(story())
