"""The server daemon's hold on the connection proxy: keeps one running, configured and asked.

The worker outlives this daemon and is found again; one that died is replaced, and what it held
is said to be lost. Its absence costs no more than its flows: the firewall refuses to pass TCP
of virtual addresses by, so that senders try again.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from orchestrator.config.server import LanSource, ServerConfig
from orchestrator.core.firewall import ProxyPorts
from orchestrator.core.flows import (
    FlowOpened,
    FlowRecord,
    FlowRefused,
    ProxySettings,
    SourcePolicy,
)
from orchestrator.core.quantities import IPAddress
from orchestrator.services.journal import Journal
from orchestrator.services.proxy_client import ProxyClient, ProxyLost
from orchestrator.wire.labels import Flow
from orchestrator.wire.segments import TCP

SOCKET: Final = "proxy.sock"
"""Next to the control socket."""
RESUME_LIMIT: Final = 0.25
"""Seconds; the worker answers between two turns of its flows, some milliseconds."""
PAUSE: Final = 1.0
"""Seconds between two tries to have a worker; starting one takes some 0.2 s."""


def proxy_settings(config: ServerConfig) -> ProxySettings:
    source = SourcePolicy.VIP if config.lan.source is LanSource.VIP else SourcePolicy.SERVER
    return ProxySettings(
        pools=config.vip.pools,
        source=source,
        ports=proxy_ports(config),
        flows_per_vip=config.proxy.flows_per_session,
        flows=config.proxy.flows,
        octets_per_flow=config.proxy.queue_per_flow,
    )


def proxy_ports(config: ServerConfig) -> ProxyPorts:
    return ProxyPorts(config.proxy.port, config.proxy.port + 1)


class ProxyLink:
    """Runs beside a server daemon's driver."""

    def __init__(self, config: ServerConfig, journal: Journal) -> None:
        self.path: Final = config.control.socket.with_name(SOCKET)
        self.settings = proxy_settings(config)
        self._journal = journal
        self._client: ProxyClient | None = None
        self.problem: str | None = "the proxy worker is not up yet"

    async def run(self) -> None:
        while True:
            try:
                await self._serve()
            except ProxyLost as lost:
                if self._client is not None or self.problem is None:
                    told = {"detail": str(lost)}
                    self._journal.tell("proxy", ("worker-lost",), told, warning=True)
                self.problem = str(lost)
            finally:
                if self._client is not None:
                    self._client.close()
                    self._client = None
            await asyncio.sleep(PAUSE)

    async def _serve(self) -> None:
        """One worker's life, seen from here."""
        client = await ProxyClient.connect_or_start(self.path)
        self._client = client
        await client.configure(self.settings)
        self._journal.tell("proxy", ("worker-up",), {"pid": client.pid})
        self.problem = None
        async with await ProxyClient.connect(self.path) as watcher:
            async for event in await watcher.watch():
                if isinstance(event, FlowRefused):
                    self._journal.count("flow-refused")
                elif isinstance(event, FlowOpened):
                    self._journal.count("flow-opened")
                else:
                    self._journal.count("flow-ended")

    async def resume(self, vips: Sequence[IPAddress]) -> frozenset[Flow]:
        """What waits at the worker for these endpoints goes now.

        The flows, towards them, that send anew what is held. None when there is no worker, or
        it does not answer soon: then what is held is better than nothing.
        """
        if self._client is None:
            return frozenset()
        try:
            async with asyncio.timeout(RESUME_LIMIT):
                pairs = await self._client.resume(vips)
        except (ProxyLost, TimeoutError):
            return frozenset()
        return frozenset(
            Flow(TCP, peer.host, peer.port, vip.host, vip.port) for peer, vip in pairs
        )

    async def end_flows(self, vips: Sequence[IPAddress]) -> int:
        """Resets what the worker has for these addresses; how many flows. Raises ProxyLost."""
        async with await ProxyClient.connect(self.path) as client:
            return await client.end_flows(vips)

    async def flows(self) -> tuple[FlowRecord, ...]:
        """Raises ProxyLost."""
        if self._client is None:
            raise ProxyLost(self.problem or "the proxy worker is not up yet")
        # On a connection of its own: an answer that comes too late spoils it.
        async with await ProxyClient.connect(self.path) as client:
            return await client.flows()
