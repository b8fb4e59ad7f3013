"""Who watches at the control socket: what is told, and when it ends."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.wire.control import Request, Verb, encode_request
from tests.unit.faces.served import QUICK, FakeDaemon, ask, close, serving
from tests.unit.faces.waiting import run, until


class Chatterbox(FakeDaemon):
    """More events than anybody reads."""

    async def events(self) -> AsyncIterator[Mapping[str, object]]:
        while True:
            yield {"event": "x" * 4096}


class Watcher:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def begin(cls, folder: Path) -> "Watcher":
        watcher = cls(*await asyncio.open_unix_connection(folder / "control.sock"))
        watcher.writer.write(encode_request(Request(Verb.WATCH)))
        return watcher

    async def next(self) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(await self.reader.readline())
        return reply

    async def leave(self) -> None:
        await close(self.writer)


def test_every_event_from_the_first_reply_on(folder: Path) -> None:
    async def story() -> None:
        daemon = FakeDaemon()
        async with serving(folder, daemon):
            watcher = await Watcher.begin(folder)
            assert (await watcher.next())["result"] == {"event": "watching"}
            for event in ("detached", "moving", "attached"):
                daemon.tell(event)
            for event in ("detached", "moving", "attached"):
                told = (await watcher.next())["result"]
                assert told == {"event": event, "vip": "10.99.0.2"}
            await watcher.leave()

    run(story())


def test_a_watcher_that_leaves_is_forgotten(folder: Path) -> None:
    async def story() -> None:
        daemon = FakeDaemon()
        async with serving(folder, daemon) as server:
            watcher = await Watcher.begin(folder)
            await watcher.next()
            await watcher.leave()
            await until(lambda: not server._clients)
            assert not daemon.watching
            assert server.counters.slow_watchers == 0

    run(story())


def test_a_slow_watcher_is_told_and_dropped(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder, Chatterbox()) as server:
            watcher = await Watcher.begin(folder)
            await until(lambda: server.counters.slow_watchers)
            told = (await watcher.reader.read(-1)).splitlines()
            assert json.loads(told[-1])["error"].startswith("this watcher is too slow")
            await watcher.leave()
            assert (await ask(folder, Verb.STATUS))["ok"]

    run(story())


def test_a_watcher_that_never_reads_again_costs_nothing_for_long(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder, Chatterbox()) as server:
            watcher = await Watcher.begin(folder)
            await until(lambda: server.counters.slow_watchers and not server._clients)
            await watcher.leave()

    run(story())


def test_a_watcher_for_whom_the_daemon_dropped_events_is_told(folder: Path) -> None:
    async def story() -> None:
        daemon = FakeDaemon()
        async with serving(folder, daemon):
            watcher = await Watcher.begin(folder)
            await watcher.next()
            for queue in daemon.watching:
                queue.put_nowait(None)
            assert "too slow" in (await watcher.next())["error"]
            await watcher.leave()

    run(story())


def test_watchers_leave_room_for_questions(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder):
            watchers = [await Watcher.begin(folder) for _ in range(QUICK.watchers)]
            for watcher in watchers:
                await watcher.next()
            assert (await ask(folder, Verb.WATCH))["error"] == "too many watchers"
            assert (await ask(folder, Verb.STATUS))["ok"]
            for watcher in watchers:
                await watcher.leave()

    run(story())


def test_the_end_of_the_daemon_is_the_end_of_the_watch(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder):
            watcher = await Watcher.begin(folder)
            await watcher.next()
        assert await watcher.reader.read(-1) == b""
        await watcher.leave()

    run(story())
