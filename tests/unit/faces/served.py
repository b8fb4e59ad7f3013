"""A fake daemon that is asked at a control socket, and those who ask it."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from orchestrator.config.common import Control
from orchestrator.core.errors import CharonError
from orchestrator.core.metric import Metric, counter
from orchestrator.core.quantities import Seconds
from orchestrator.faces.control import ControlLimits, ControlServer
from orchestrator.faces.lock import DaemonLock
from orchestrator.wire.control import NotThisRole, Refused, Request, Verb, encode_request

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, as root")
QUICK = ControlLimits(
    clients=8,
    watchers=2,
    request=Seconds(0.3),
    answer=Seconds(0.3),
    write=Seconds(0.3),
    linger=Seconds(0.2),
)


class FakeWay:
    """Nothing goes this way."""

    terms: Mapping[str, object] = MappingProxyType({"event": "granted"})

    async def events(
        self, listeners: Sequence[socket.socket]
    ) -> AsyncIterator[Mapping[str, object]]:
        assert not listeners, "they were taken"
        yield {}


@dataclass
class FakeDaemon:
    """A daemon that says what it is told to."""

    roamed: list[str | None] = field(default_factory=list)
    watching: set["asyncio.Queue[Mapping[str, object] | None]"] = field(default_factory=set)

    def status(self) -> object:
        return {"role": "endpoint", "vip": [ip_address("10.99.0.2")]}

    def paths(self) -> object:
        return ({"link": "wlan0"}, {"link": "wwan0"})

    def sessions(self) -> object:
        raise NotThisRole("sessions are the server's")

    async def flows(self) -> object:
        await asyncio.sleep(0)
        return []

    async def metrics(self) -> tuple[Metric, ...]:
        return (counter("repairs", "Objects that others changed.", 3),)

    async def roam(self, link: str | None) -> object:
        if link == "wlan9":
            raise Refused("no usable path over wlan9", "choose one of: wlan0, wwan0")
        self.roamed.append(link)
        return {"asked": link}

    @asynccontextmanager
    async def portal(self, link: str | None) -> AsyncIterator["FakeWay"]:
        if link == "wlan9":
            raise Refused("no usable path over wlan9")
        try:
            yield FakeWay()
        finally:
            self.roamed.append(link)

    async def reload(self) -> object:
        raise CharonError("charon does not answer")

    def replace_proxy(self) -> object:
        raise NotThisRole("the proxy is the server's")

    def tell(self, event: str) -> None:
        for queue in self.watching:
            queue.put_nowait({"event": event, "vip": ip_address("10.99.0.2")})

    async def events(self) -> AsyncIterator[Mapping[str, object]]:
        queue: asyncio.Queue[Mapping[str, object] | None] = asyncio.Queue()
        self.watching.add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self.watching.discard(queue)


class Silent(FakeDaemon):
    async def paths(self) -> object:
        await asyncio.Event().wait()
        return None


def _unexpected_stop() -> None:
    raise AssertionError("stopped")


@asynccontextmanager
async def serving(
    folder: Path,
    daemon: FakeDaemon | None = None,
    *,
    group: str | None = None,
    stop: Callable[[], None] = _unexpected_stop,
) -> AsyncIterator[ControlServer]:
    config = Control(folder / "control.sock", group)
    control = ControlServer(config, daemon or FakeDaemon(), stop, QUICK)
    with DaemonLock(config.socket):
        async with control as server:
            yield server


async def send(folder: Path, octets: bytes) -> list[dict[str, Any]]:
    """What the daemon answers to these octets, until it closes."""
    reader, writer = await asyncio.open_unix_connection(folder / "control.sock", limit=2**24)
    writer.write(octets)
    answer = await reader.read(-1)
    await close(writer)
    return [json.loads(line) for line in answer.splitlines()]


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def ask(folder: Path, verb: Verb, link: str | None = None) -> dict[str, Any]:
    (reply,) = await send(folder, encode_request(Request(verb, link)))
    return reply
