"""A server with the proxy running, between an endpoint and a peer."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from orchestrator.core.flows import FlowRecord, ProxyCounters, ProxySettings
from orchestrator.services.proxy_client import ProxyClient
from tests.kernel.netns import Namespace
from tests.kernel.proxy.lan import SETTINGS, Lan, worker

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Proxied:
    """The LAN, and a worker that is asked from the test's own thread."""

    lan: Lan
    path: Path
    pid: int

    def ask(self, question: Callable[[ProxyClient], Awaitable[_Answer]]) -> _Answer:
        async def ask() -> _Answer:
            async with await ProxyClient.connect(self.path) as client:
                return await question(client)

        return asyncio.run(ask())

    def configure(self, settings: ProxySettings) -> None:
        self.ask(lambda client: client.configure(settings))

    def flows(self) -> tuple[FlowRecord, ...]:
        return self.ask(lambda client: client.flows())

    def counters(self) -> ProxyCounters:
        return self.ask(lambda client: client.counters())


@pytest.fixture(params=["esp", "interface"])
def esp(request: pytest.FixtureRequest) -> bool:
    """Whether the tunnel is IPsec; each test runs both ways, where the kernel can."""
    if request.param == "esp":
        request.getfixturevalue("needs_esp")
    return bool(request.param == "esp")


@pytest.fixture
def lan(make_namespace: Callable[[], Namespace], esp: bool) -> Lan:
    return Lan(make_namespace, esp=esp)


@pytest.fixture
def proxied(lan: Lan, tmp_path: Path) -> Iterator[Proxied]:
    lan.load()
    path = tmp_path / "proxy.sock"
    with worker(lan.server, path) as process:
        proxied = Proxied(lan, path, process.pid)
        proxied.configure(SETTINGS)
        yield proxied
