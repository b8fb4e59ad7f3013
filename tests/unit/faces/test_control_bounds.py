"""What clients of the control socket can cost the daemon."""

import asyncio
import json
from pathlib import Path

from orchestrator.wire.control import Verb
from tests.unit.faces.served import QUICK, Silent, ask, close, send, serving
from tests.unit.faces.waiting import run, until


def test_garbage_costs_a_counter(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder) as server:
            for octets in (b"\x00\xff\n", b"{}\n", b'{"v":1,"verb":"status"'):
                reader, writer = await asyncio.open_unix_connection(folder / "control.sock")
                writer.write(octets)
                writer.write_eof()
                assert not json.loads(await reader.read(-1))["ok"]
                await close(writer)
            assert server.counters.malformed == 3
            assert (await ask(folder, Verb.STATUS))["ok"]

    run(story())


def test_an_endless_request_is_cut_off(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder) as server:
            (reply,) = await send(folder, b"x" * 5000)
            assert "more than 4096 octets" in reply["error"]
            assert server.counters.malformed == 1

    run(story())


def test_a_silent_client_is_not_waited_for(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder) as server:
            (reply,) = await send(folder, b'{"v":1,')
            assert "no request within" in reply["error"]
            assert server.counters.timed_out == 1

    run(story())


def test_a_client_that_leaves_silently_is_nothing(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder) as server:
            _, writer = await asyncio.open_unix_connection(folder / "control.sock")
            await close(writer)
            assert (await ask(folder, Verb.STATUS))["ok"]
            assert server.counters.malformed == 0

    run(story())


def test_a_daemon_that_does_not_answer_is_told(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder, Silent()):
            reply = await ask(folder, Verb.PATHS)
            assert "did not answer paths within" in reply["error"]

    run(story())


def test_a_flood_of_clients_is_turned_away(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder, Silent()) as server:
            stalling = [
                asyncio.create_task(ask(folder, Verb.PATHS)) for _ in range(QUICK.clients)
            ]
            await until(lambda: len(server._clients) == QUICK.clients)
            reply = await ask(folder, Verb.STATUS)
            assert reply["error"] == "too many clients"
            assert server.counters.refused_busy == 1
            await asyncio.gather(*stalling)
            assert (await ask(folder, Verb.STATUS))["ok"]

    run(story())
