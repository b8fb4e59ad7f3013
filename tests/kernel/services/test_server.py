"""What a server daemon says of itself, without a network around it."""

import asyncio
import threading
from pathlib import Path

import pytest

from orchestrator.adapters.rtnetlink import Rtnetlink
from orchestrator.adapters.xfrm import Xfrm
from orchestrator.config.server import ServerConfig
from orchestrator.config.toml import load
from orchestrator.core.ike import CharonGone, CharonUp
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


@pytest.mark.usefixtures("network_namespace")
def test_status_says_since_when_it_has_been_in_its_state(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret\n")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "state").mkdir()
    (tmp_path / "server.toml").write_text(CONFIG)
    config = load(tmp_path / "server.toml")
    assert isinstance(config, ServerConfig)

    async def live() -> None:
        async with Rtnetlink() as rtnetlink:
            with Xfrm() as xfrm:
                server = Server(config, rtnetlink, xfrm)
                try:
                    await follow(server)
                finally:
                    server._monitor.close()

    async def follow(server: Server) -> None:
        pause = threading.Event()

        def look() -> tuple[object, float, float]:
            status = server.status()
            since, uptime = status["since_s"], status["uptime_s"]
            assert isinstance(since, float)
            assert isinstance(uptime, float)
            return status["state"], since, uptime

        pause.wait(LONG)
        server._ike_event(CharonGone("absent"))
        state, since, uptime = look()
        assert state == "waiting"
        assert uptime - since < LONG <= since, "it has waited since it started"
        assert server.status()["proxy"] == "off"
        server._ike_event(CharonUp("5.9.8", ()))
        state, since, uptime = look()
        assert state == "serving"
        assert since < LONG <= uptime
        pause.wait(LONG)
        server._ike_event(CharonUp("5.9.8", ()))
        assert look()[1] >= LONG, "nothing has changed"

    asyncio.run(live())
