"""The control socket, over a real one: what is answered, and one daemon at a time."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from orchestrator.config.common import Control
from orchestrator.core.errors import OrchestratorError
from orchestrator.faces.control import ControlServer
from orchestrator.faces.lock import AlreadyRunning
from orchestrator.wire.control import Verb
from tests.unit.faces.served import FakeDaemon, ask, send, serving
from tests.unit.faces.waiting import run


class TestAnswers:
    def test_what_the_daemon_says(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder):
                assert await ask(folder, Verb.PATHS) == {
                    "ok": True,
                    "result": [{"link": "wlan0"}, {"link": "wwan0"}],
                }
                assert (await ask(folder, Verb.FLOWS))["result"] == []

        run(story())

    def test_status_has_the_sockets_own_counters(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder):
                await send(folder, b"garbage\n")
                result = (await ask(folder, Verb.STATUS))["result"]
                assert result["vip"] == ["10.99.0.2"]
                assert result["control"]["malformed"] == 1

        run(story())

    def test_roams_where_it_is_told_to(self, folder: Path) -> None:
        async def story() -> None:
            daemon = FakeDaemon()
            async with serving(folder, daemon):
                assert (await ask(folder, Verb.ROAM, "wwan0"))["result"] == {"asked": "wwan0"}
                assert (await ask(folder, Verb.ROAM))["ok"]
                assert daemon.roamed == ["wwan0", None]
                assert await ask(folder, Verb.ROAM, "wlan9") == {
                    "ok": False,
                    "error": "no usable path over wlan9",
                    "remedy": "choose one of: wlan0, wwan0",
                }

        run(story())

    def test_refusals_and_errors_are_sentences(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder):
                assert (await ask(folder, Verb.SESSIONS))[
                    "error"
                ] == "sessions are the server's"
                assert (await ask(folder, Verb.RELOAD))["error"] == "charon does not answer"

        run(story())

    def test_stops_when_it_is_told_to(self, folder: Path) -> None:
        async def story() -> None:
            stopped: list[bool] = []
            async with serving(folder, stop=lambda: stopped.append(True)):
                assert (await ask(folder, Verb.STOP))["ok"]
            assert stopped == [True]

        run(story())

    def test_stops_as_systemd_stops_it(self, folder: Path) -> None:
        async def story() -> None:
            terminated = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
            control = ControlServer(Control(folder / "control.sock"), FakeDaemon())
            async with control:
                await ask(folder, Verb.STOP)
                await terminated.wait()

        run(story())


class TestOneDaemon:
    def test_a_second_one_is_refused_and_the_first_goes_on(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder):
                with pytest.raises(AlreadyRunning, match=f"process {os.getpid()} has"):
                    async with serving(folder):
                        pass
                assert (await ask(folder, Verb.STATUS))["ok"]

        run(story())

    def test_a_socket_left_by_a_dead_daemon_is_replaced(self, folder: Path) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(folder / "control.sock"))

        async def story() -> None:
            async with serving(folder):
                assert (await ask(folder, Verb.STATUS))["ok"]

        run(story())

    def test_nothing_but_the_lock_file_stays(self, folder: Path) -> None:
        async def story() -> None:
            async with serving(folder):
                pass

        for _ in range(2):
            run(story())
            assert [path.name for path in folder.iterdir()] == ["control.sock.lock"]

    def test_a_place_where_no_socket_can_be_is_an_error(self, folder: Path) -> None:
        (folder / "control.sock").mkdir()

        async def story() -> None:
            with pytest.raises(OrchestratorError, match="cannot serve"):
                async with serving(folder):
                    pass
            (folder / "control.sock").rmdir()
            async with serving(folder):
                pass  # the lock was given back

        run(story())
