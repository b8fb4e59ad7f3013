"""Keeps the daemon in touch with a proxy worker: finds it or starts it, again and again.

A worker that dies is replaced; one that survived the last daemon is taken over with its flows.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from orchestrator.config.server import LanSource, ServerConfig
from orchestrator.core.firewall import ProxyPorts
from orchestrator.core.flows import (
    FlowEvent,
    FlowRecord,
    ProxyCounters,
    ProxySettings,
    SourcePolicy,
)
from orchestrator.core.quantities import IPAddress
from orchestrator.services.proxy_client import ProxyClient, ProxyLost

FIRST_RETRY_SECONDS: Final = 0.2
LAST_RETRY_SECONDS: Final = 5.0
"""New connections of endpoints wait meanwhile: their SYNs are dropped, and tried again."""


def proxy_settings(config: ServerConfig) -> ProxySettings:
    """What the operator wrote, as the worker is told."""
    sources = {LanSource.VIP: SourcePolicy.VIP, LanSource.SERVER: SourcePolicy.SERVER}
    return ProxySettings(
        pools=tuple(config.vip.pools),
        source=sources[config.lan.source],
        ports=proxy_ports(config),
        flows_per_vip=config.proxy.flows_per_session,
        flows=config.proxy.flows,
        octets_per_flow=config.proxy.queue_per_flow,
    )


def proxy_ports(config: ServerConfig) -> ProxyPorts:
    return ProxyPorts(config.proxy.port, config.proxy.port + 1)


class ProxyKeeper:
    """`run` for as long as the daemon lives; the calls raise ProxyLost while there is none."""

    def __init__(
        self,
        path: Path,
        settings: ProxySettings,
        on_event: Callable[[FlowEvent], None],
        on_worker: Callable[[int | None, str], None],
    ) -> None:
        """`on_worker` hears the worker's process id, or None and why there is none."""
        self._path = path
        self._settings = settings
        self._on_event = on_event
        self._on_worker = on_worker
        self._client: ProxyClient | None = None

    async def run(self) -> None:
        """Until cancelled; the worker and its flows go on then."""
        pause = FIRST_RETRY_SECONDS
        while True:
            try:
                async with await ProxyClient.connect_or_start(self._path) as client:
                    await client.configure(self._settings)
                    async with await ProxyClient.connect(self._path) as watcher:
                        self._client = client
                        self._on_worker(client.pid, "")
                        pause = FIRST_RETRY_SECONDS
                        async for event in watcher.events():
                            self._on_event(event)
            except ProxyLost as error:
                self._on_worker(None, str(error))
            finally:
                self._client = None
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_RETRY_SECONDS)

    async def flows(self) -> tuple[FlowRecord, ...]:
        return await self._there().flows()

    async def counters(self) -> ProxyCounters:
        return await self._there().counters()

    async def close_vip(self, vip: IPAddress) -> int:
        """Resets every flow of the VIP; how many there were."""
        return await self._there().close_vip(vip)

    def _there(self) -> ProxyClient:
        if self._client is None:
            raise ProxyLost("there is no proxy worker now; one is being started")
        return self._client
