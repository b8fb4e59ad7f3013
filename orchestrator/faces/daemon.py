"""Puts a daemon together: its service, its neighbours, and the socket that it is asked at.

The lock next to the control socket comes first: a second daemon ends before it has touched
anything.
"""

from collections.abc import Callable
from typing import Final

from orchestrator.adapters import niceness
from orchestrator.adapters.clock import SYSTEM_CLOCK, Clock
from orchestrator.adapters.rtnetlink import Rtnetlink
from orchestrator.adapters.statefile import StateFile
from orchestrator.adapters.xfrm import Xfrm
from orchestrator.config.endpoint import EndpointConfig
from orchestrator.config.server import ServerConfig
from orchestrator.config.toml import AnyConfig
from orchestrator.faces.control import ControlServer
from orchestrator.faces.lock import DaemonLock
from orchestrator.faces.metrics import MetricsServer
from orchestrator.services.endpoint import Endpoint
from orchestrator.services.server import Server

STATE_FILE: Final = "endpoint.json"
"""In the state folder: what `adapters.statefile` keeps."""


async def run(
    config: AnyConfig, reread: Callable[[], AnyConfig], clock: Clock = SYSTEM_CLOCK
) -> None:
    """The whole daemon, until cancelled. Raises AlreadyRunning and other errors of ours.

    `reread` reads the file again that `config` is from. `clock` is an endpoint's, which sleeps;
    a server does not.
    """
    with DaemonLock(config.control.socket):
        if isinstance(config, EndpointConfig):
            niceness.hurry()
            await _run_endpoint(config, clock)
        else:
            await _run_server(config, reread)


async def _run_endpoint(config: EndpointConfig, clock: Clock) -> None:
    statefile = StateFile(config.state.directory / STATE_FILE)
    async with Rtnetlink() as rtnetlink:
        with Xfrm() as xfrm:
            endpoint = Endpoint(config, statefile, rtnetlink, xfrm, clock)
            async with (
                ControlServer(config.control, endpoint) as control,
                MetricsServer(config.metrics.listen, control.metrics),
            ):
                await endpoint.run()


async def _run_server(config: ServerConfig, reread: Callable[[], AnyConfig]) -> None:
    async with Rtnetlink() as rtnetlink:
        with Xfrm() as xfrm:
            server = Server(config, reread, rtnetlink, xfrm)
            async with (
                ControlServer(config.control, server) as control,
                MetricsServer(config.metrics.listen, control.metrics),
            ):
                await server.run()
