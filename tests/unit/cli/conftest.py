"""A daemon that answers what it is told to, on a real control socket, in a thread."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

import pytest

from orchestrator.config.common import Control
from orchestrator.core.errors import ConfigError, ConfigFault
from orchestrator.core.flows import FlowDirection, FlowRecord, SocketAddress
from orchestrator.core.metric import Metric, counter
from orchestrator.core.quantities import Instant
from orchestrator.core.relay_events import Phase
from orchestrator.faces.control import ControlServer
from orchestrator.faces.lock import DaemonLock
from orchestrator.wire.control import NotThisRole, Refused

STATUS: dict[str, object] = {
    "role": "endpoint",
    "version": "0.1.0",
    "state": "attached",
    "reasons": ["link-up", "negotiated"],
    "since_s": 130.2,
    "uptime_s": 4000,
    "identity": "laptop1@example.org",
    "vip": ["10.99.0.2", "fd00:99::2"],
    "active_path": {
        "link": "wlan0",
        "pop": "192.168.10.2",
        "server": "203.0.113.10",
        "rtt_ms": 21.34,
        "rttvar_ms": 3.5,
        "loss_percent": 0.4,
        "rate_in_bps": 24_000_000,
        "rate_out_bps": 1_300_000,
        "class": 1,
        "metered": False,
        "why_not": [],
    },
    "charon": "strongSwan 5.9.8",
    "held": {
        "packets": 3,
        "bytes": 1843,
        "flows": 2,
        "since_s": 14.3,
        "oldest_s": 12.3,
        "limit_bytes": 4194304,
        "percent": 0.1,
        "dropped": {"full": 2, "too-old": 1},
    },
    "frozen": 2,
    "roams": 3,
    "repairs": 0,
    "warnings": ["the disk is full"],
    "counters": {"attached": 4},
}
PATHS: list[dict[str, object]] = [
    {
        "link": "wlan0",
        "ifindex": 2,
        "pop": "192.168.10.2",
        "gateway": "192.168.10.1",
        "server": "203.0.113.10",
        "state": "active",
        "health": "alive",
        "health_reasons": ["answered"],
        "rtt_ms": 21.34,
        "mtu": 1218,
        "rttvar_ms": 3.5,
        "loss_percent": 0.4,
        "rate_in_bps": 24_000_000,
        "rate_out_bps": 1_300_000,
        "class": 1,
        "metered": False,
        "why_not": [],
        "reasons": [],
        "ike_sa": 7,
        "child_sa": 9,
        "spi_in": "c0ffee01",
        "spi_out": "c0ffee02",
    },
    {
        "link": "wwan0",
        "ifindex": 3,
        "pop": "100.64.0.2",
        "gateway": None,
        "server": "203.0.113.10",
        "state": "usable",
        "rtt_ms": None,
        "mtu": 1380,
        "class": 2,
        "metered": True,
        "why_not": ["metered"],
        "reasons": ["silent"],
        "ike_sa": None,
        "spi_in": None,
    },
]
SESSIONS: list[dict[str, object]] = [
    {
        "identity": "laptop1",
        "vip": ["10.99.0.2"],
        "state": "away",
        "reasons": ["unheard"],
        "since_s": 30605,
        "next": {"state": "asleep", "in_s": 5400},
        "pop": None,
        "flows": 3,
        "queued": {"bytes": 2 << 20, "spooled_bytes": 1 << 30},
        "held": {
            "packets": 9,
            "bytes": 1843,
            "since_s": 30605,
            "limit_bytes": 4194304,
            "percent": 0.1,
            "dropped": {"total": 2, "asleep": 1},
        },
        "roams": 12,
        "lease": {"identity": "laptop1@example.org", "static": False},
    },
    {
        "identity": "x\x1b[2J\u202e",
        "vip": ["10.99.0.3"],
        "state": "attached",
        "reasons": ["followed"],
        "since_s": 0.25,
        "pop": "192.0.2.7:4500",
        "flows": 0,
        "queued": {"bytes": 0, "spooled_bytes": 0},
        "held": {"packets": 0, "bytes": 0},
        "roams": 0,
    },
]
FLOWS = (
    FlowRecord(
        vip=SocketAddress(ip_address("10.99.0.2"), 5),
        peer=SocketAddress(ip_address("fd00:51:1::2"), 22),
        direction=FlowDirection.FROM_ENDPOINT,
        since=Instant(12.5),
        state=Phase.OPEN,
        to_peer=5120,
        to_endpoint=104857600,
        queued_to_peer=0,
        queued_to_endpoint=1048576,
    ),
)
EVENT: dict[str, object] = {
    "at": "2024-05-01T12:34:56.789+00:00",
    "boottime": 12.5,
    "event": "attached",
    "reasons": ["link-up", "negotiated"],
    "path": "wwan0 100.64.0.2 -> 203.0.113.10",
    "outage_ms": 14,
}


REPLACEMENT: dict[str, object] = {
    "connections": 12,
    "lost": 0,
    "standstill_ms": 78.4,
    "elapsed_ms": 300.2,
    "pid": 456,
    "release": "0.2.0",
    "former_pid": 123,
    "former_release": "0.1.0",
}


@dataclass
class FakeDaemon:
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when somebody asked the daemon to stop."""
    talkative: bool = False
    state: str = "attached"
    faults: tuple[ConfigFault, ...] = ()
    """Of the file that it is to read again."""

    def status(self) -> object:
        return {**STATUS, "state": self.state}

    def paths(self) -> object:
        return PATHS

    def sessions(self) -> object:
        return SESSIONS

    def flows(self) -> object:
        return FLOWS

    async def metrics(self) -> tuple[Metric, ...]:
        return (counter("repairs", "Objects that others changed.", 3),)

    def roam(self, link: str | None) -> object:
        if link == "wlan9":
            raise Refused("no usable path over wlan9", "choose one of: wlan0, wwan0")
        return {"asked": link, "state": "moving"}

    def portal(self, link: str | None) -> NoReturn:
        raise Refused(f"there is a tunnel over {link}: nobody has to sign in")

    def reload(self) -> object:
        if self.faults:
            raise ConfigError(self.faults)
        raise NotThisRole("not here")

    def replace_proxy(self) -> object:
        return REPLACEMENT

    async def events(self) -> AsyncIterator[Mapping[str, object]]:
        yield EVENT
        while self.talkative:
            await asyncio.sleep(0.01)
            yield EVENT
        await asyncio.Event().wait()


@dataclass
class Running:
    socket: Path
    daemon: FakeDaemon
    end: Callable[[], None]
    """Ends the daemon."""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A daemon that runs until it is told to stop, or the test is over."""
    socket = tmp_path / "control.sock"
    daemon = FakeDaemon()
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def end() -> None:
        loop.call_soon_threadsafe(stop.set)

    def asked_to_stop() -> None:
        daemon.stopping.set()
        stop.set()

    async def serve() -> None:
        with DaemonLock(socket):
            async with ControlServer(Control(socket), daemon, asked_to_stop):
                ready.set()
                await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="daemon")
    thread.start()
    assert ready.wait(10)
    yield Running(socket, daemon, end)
    end()
    thread.join(10)
    loop.close()
