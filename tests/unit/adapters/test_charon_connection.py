"""What a charon can do on the VICI socket without ending the daemon that asks it."""

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from vici.protocol import Message, Packet

from orchestrator.adapters import charon as adapter
from orchestrator.adapters.charon import Charon
from orchestrator.core.errors import CharonError
from orchestrator.core.ike import CharonUp, IkeDown

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
GOOD = {"a": {"uniqueid": b"3"}}


def packet(kind: int, name: str = "", content: object = None) -> bytes:
    named = struct.pack("!B", len(name)) + name.encode() if name else b""
    payload = b"" if content is None else Message.serialize(content)
    body = struct.pack("!B", kind) + named + payload
    return struct.pack("!I", len(body)) + body


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A charon without SAs; whoever listens for events gets a broken one and a good one."""
    registered = 0
    try:
        while True:
            (length,) = struct.unpack("!I", await reader.readexactly(4))
            kind = (await reader.readexactly(length))[0]
            if kind == Packet.EVENT_REGISTER:
                writer.write(packet(Packet.EVENT_CONFIRM))
                registered += 1
            else:
                writer.write(packet(Packet.CMD_RESPONSE, content={"version": b"5.9.8"}))
            if registered == len(adapter.EVENTS):
                broken = {"a": {"uniqueid": b"no number"}}
                writer.write(packet(Packet.EVENT, "ike-updown", broken))
                writer.write(packet(Packet.EVENT, "ike-updown", GOOD))
                registered = 0
    except asyncio.IncompleteReadError:
        await hang_up(writer)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    await hang_up(writer)


def with_charon(
    folder: Path, talk: Talk, work: Callable[[Charon], Awaitable[None]]
) -> list[str]:
    """Returns a word for each thing that made no sense."""
    malformed: list[str] = []

    async def run() -> None:
        async with asyncio.timeout(20), await asyncio.start_unix_server(talk, folder / "vici"):
            await work(Charon(folder / "vici", lambda: malformed.append("one")))

    asyncio.run(run())
    return malformed


def test_an_event_that_makes_no_sense_is_counted_and_the_next_one_heard(tmp_path: Path) -> None:
    async def work(charon: Charon) -> None:
        heard = []
        async with contextlib.aclosing(charon.events()) as events:
            async for event in events:
                heard.append(event)
                if len(heard) == 2:
                    break
        assert heard == [CharonUp("5.9.8", ()), IkeDown(3)]  # type: ignore[arg-type]

    assert with_charon(tmp_path, answer, work) == ["one"]


def test_a_charon_that_does_not_answer_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "COMMAND_TIMEOUT", 0.1)

    async def work(charon: Charon) -> None:
        for ask in (charon.version, charon.tunnels, lambda: anext(charon.events())):
            with pytest.raises(CharonError, match="did not answer"):
                await ask()

    with_charon(tmp_path, say_nothing, work)


def test_a_name_that_vici_cannot_say_is_an_error_of_ours(tmp_path: Path) -> None:
    async def work(charon: Charon) -> None:
        with pytest.raises(CharonError, match="too long"):
            await charon.load_connection("x" * 256, {})
        assert await charon.version() == "5.9.8"

    with_charon(tmp_path, answer, work)
