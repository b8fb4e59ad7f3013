"""What a server daemon says of itself, without a network around it."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest

from orchestrator.adapters.rtnetlink import Rtnetlink
from orchestrator.adapters.tun import TunDevice
from orchestrator.adapters.xfrm import Xfrm
from orchestrator.config.server import ServerConfig
from orchestrator.config.toml import load
from orchestrator.core.errors import ConfigError
from orchestrator.core.ike import CharonGone, CharonUp, Tunnel
from orchestrator.core.quantities import IPAddress, Reqid, Spi, UniqueId
from orchestrator.core.session_events import Admitted, Remembered
from orchestrator.faces.exposition import exposition
from orchestrator.services.hold_report import held_report
from orchestrator.services.server import Server

CONFIG = """
role = "server"
identity = "b"
underlay = { interfaces = ["lo"] }
auth = { kind = "psk", secret_file = "secret" }
vip = { pools = ["10.99.0.0/24"] }
proxy = { enabled = false }
state = { directory = "state" }
"""
LONG = 0.1
"""Seconds in one state; status tells milliseconds."""


TUNNEL = Tunnel(
    ike=UniqueId(1),
    child=UniqueId(1),
    connection="lease anna",
    local=ip_address("203.0.113.10"),
    local_port=4500,
    remote=ip_address("198.51.100.2"),
    remote_port=4500,
    local_id="b",
    remote_id="anna",
    reqid=Reqid(1),
    spi_in=Spi(1),
    spi_out=Spi(2),
    local_ts=(),
    remote_ts=(),
)


def in_a_server(
    folder: Path, work: Callable[[Server], Awaitable[None]], more: str = ""
) -> None:
    (folder / "secret").write_text("a secret\n")
    (folder / "secret").chmod(0o600)
    (folder / "state").mkdir()
    (folder / "server.toml").write_text(CONFIG + more)
    reread = partial(load, folder / "server.toml")
    config = reread()
    assert isinstance(config, ServerConfig)

    async def live() -> None:
        async with Rtnetlink() as rtnetlink:
            with Xfrm() as xfrm:
                server = Server(config, reread, rtnetlink, xfrm)
                try:
                    async with server._tasks:
                        await work(server)
                finally:
                    server._monitor.close()

    asyncio.run(live())


@pytest.mark.usefixtures("network_namespace")
@pytest.mark.parametrize("evict", [True, False])
def test_a_server_that_is_full_refuses_or_evicts(tmp_path: Path, *, evict: bool) -> None:
    async def work(server: Server) -> None:
        for number, name in enumerate(("anna", "bert"), 1):
            fresh = replace(TUNNEL, ike=UniqueId(number), remote_id=name, reqid=Reqid(number))
            vips = (ip_address(f"10.99.0.{number + 1}"),)
            await server._driver.handle(Admitted(name, vips, fresh))
        found = await server.sessions()
        policies = server._xfrm.policies()
        destinations = {str(p.selector.destination) for p in policies}
        if evict:
            assert [session["identity"] for session in found] == ["bert"]
            assert server.journal.counters["evicted"] == 1
            assert "10.99.0.2/32" not in destinations
        else:
            assert [session["identity"] for session in found] == ["anna"]
            assert "evicted" not in server.journal.counters
            assert "10.99.0.3/32" not in destinations
        assert found[0]["state"] == "away"
        assert found[0]["next"] == {"state": "asleep", "in_s": pytest.approx(600, abs=5)}
        status = await server.status()
        assert status["sessions"] == {"attached": 0, "away": 1, "asleep": 0, "all": 1}

    choice = "evict" if evict else "refuse"
    in_a_server(tmp_path, work, f'limits = {{ sessions = 1, when_full = "{choice}" }}\n')


@pytest.mark.usefixtures("network_namespace")
def test_status_says_since_when_it_has_been_in_its_state(tmp_path: Path) -> None:
    async def follow(server: Server) -> None:
        pause = threading.Event()

        async def look() -> tuple[object, float, float]:
            status = await server.status()
            since, uptime = status["since_s"], status["uptime_s"]
            assert isinstance(since, float)
            assert isinstance(uptime, float)
            return status["state"], since, uptime

        pause.wait(LONG)
        server._ike_event(CharonGone("absent"))
        state, since, uptime = await look()
        assert state == "waiting"
        assert uptime - since < LONG <= since, "it has waited since it started"
        assert (await server.status())["proxy"] == "off"
        server._ike_event(CharonUp("5.9.8", ()))
        state, since, uptime = await look()
        assert state == "serving"
        assert since < LONG <= uptime
        pause.wait(LONG)
        server._ike_event(CharonUp("5.9.8", ()))
        assert (await look())[1] >= LONG, "nothing has changed"

    in_a_server(tmp_path, follow)


def datagram(vip: IPAddress) -> bytes:
    """A header of UDP and nothing behind it."""
    addresses = ip_address("192.0.2.1").packed + vip.packed
    return b"\x45\x00\x00\x1c" + bytes(4) + b"\x40\x11" + bytes(2) + addresses + bytes(8)


def arrive(server: Server, packets: Sequence[bytes]) -> None:
    """As if out of the TUN."""
    kernel, daemon = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel, daemon:
        daemon.setblocking(False)  # noqa: FBT003 - the standard library's signature
        for packet in packets:
            kernel.send(packet)
            server._holder._read(TunDevice("vips0", daemon.fileno()))


@pytest.mark.usefixtures("network_namespace")
def test_a_reload_changes_what_is_held_and_loses_nothing_that_fits(tmp_path: Path) -> None:
    """The negative control is bert, who gets limits that do not bear what is held for him."""
    of_bert = "sessions.bert.hold = { max_packets = 16 }\n"
    vips = {name: (ip_address(f"10.99.0.{n}"),) for n, name in ((2, "anna"), (3, "bert"))}

    async def work(server: Server) -> None:
        for name, mine in vips.items():
            await server._driver.handle(Remembered(name, mine))
            arrive(server, [datagram(mine[0])] * 20)
        (tmp_path / "server.toml").write_text(
            CONFIG + of_bert + 'lan = { source = "server" }\n'
        )
        assert await server.reload() == {"taken": ("sessions",), "waiting": ("lan",)}
        held = {name: held_report(server._holder.held(mine)) for name, mine in vips.items()}
        assert held["anna"]["packets"] == 20
        assert (held["bert"]["packets"], held["bert"]["dropped"]) == (16, {"full": 4})
        (tmp_path / "server.toml").write_text(CONFIG + "hold = { max_packets = 0 }\n")
        with pytest.raises(ConfigError, match=r"server\.toml:9: max_packets"):
            await server.reload()
        assert held_report(server._holder.held(vips["anna"]))["packets"] == 20

    in_a_server(tmp_path, work)


@pytest.mark.usefixtures("network_namespace")
@pytest.mark.parametrize("asked", [True, False])
def test_sessions_are_named_only_where_the_operator_asks(
    tmp_path: Path, *, asked: bool
) -> None:
    async def work(server: Server) -> None:
        vip = ip_address("10.99.0.2")
        await server._driver.handle(Remembered("anna", (vip,)))
        arrive(server, [datagram(vip)] * 3)
        found = {metric.name: metric for metric in await server.metrics()}
        assert found["hold_packets"].samples[0].value == 3
        assert found["hold_sessions"].samples[0].value == 1
        away = {each.labels["state"]: each.value for each in found["sessions"].samples}
        assert away == {"attached": 0, "away": 1, "asleep": 0}
        assert ("session_hold_packets" in found) == asked
        labels = [sample.labels for metric in found.values() for sample in metric.samples]
        assert any("identity" in each for each in labels) == asked
        if asked:
            (sample,) = found["session_hold_packets"].samples
            assert (sample.labels, sample.value) == ({"identity": "anna"}, 3)
        exposition(found.values())

    in_a_server(tmp_path, work, f"metrics = {{ per_session = {str(asked).lower()} }}\n")
