"""A server with the proxy running, between an endpoint and a peer.

Starting one costs more than most tests, so those of a module share one, cleaned up in between.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest

from orchestrator.core.flows import FlowRecord, ProxyCounters, ProxySettings
from orchestrator.services.proxy_client import ProxyClient
from tests.kernel.netns import Namespace
from tests.kernel.proxy.lan import SETTINGS, Lan, esp_works, until, worker

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Proxied:
    """The LAN, and a worker that is asked from the test's own thread."""

    lan: Lan
    path: Path
    pid: int
    before: ProxyCounters | None = None
    """What had happened when the test began."""

    def ask(self, question: Callable[[ProxyClient], Awaitable[_Answer]]) -> _Answer:
        async def ask() -> _Answer:
            async with await ProxyClient.connect(self.path) as client:
                return await question(client)

        return asyncio.run(ask())

    def configure(self, settings: ProxySettings) -> None:
        self.ask(lambda client: client.configure(settings))

    def descriptors(self) -> dict[Path, Path]:
        """What the worker has open: of each the link in /proc, and where it leads."""
        found: dict[Path, Path] = {}
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found[link] = link.readlink()
        return found

    def flows(self) -> tuple[FlowRecord, ...]:
        return self.ask(lambda client: client.flows())

    def counters(self) -> ProxyCounters:
        return self.ask(lambda client: client.counters())

    def tally(self) -> Counter[str]:
        """Refusals, dial failures and outcomes since the test began."""
        tally = _tally(self.counters())
        if self.before is not None:
            tally.subtract(_tally(self.before))
        return tally

    def clean(self) -> "Proxied":
        """As after the start: no flow stands, nothing is limited, nobody is away."""
        self.lan.load()
        self.lan.attach()
        self.configure(SETTINGS)
        # The test before has closed its sockets: what stands ends when it hears of that.
        until(lambda: self.counters().open == 0)
        return replace(self, before=self.counters())


def _tally(counters: ProxyCounters) -> Counter[str]:
    return Counter(dict((*counters.refused, *counters.dial_failures, *counters.ended)))


@pytest.fixture(scope="session")
def kernel_has_esp() -> bool:
    """Then the tunnel is IPsec; else an interface stands for it."""
    try:
        return esp_works()
    except PermissionError:
        pytest.skip("network namespaces take CAP_SYS_ADMIN: run as root")


@pytest.fixture
def lan(make_namespace: Callable[[], Namespace], kernel_has_esp: bool) -> Lan:
    return Lan(make_namespace, esp=kernel_has_esp)


@contextlib.contextmanager
def _proxied(lan: Lan, folder: Path) -> Iterator[Proxied]:
    path = folder / "proxy.sock"
    with worker(lan.server, path) as process:
        yield Proxied(lan, path, process.pid)


@pytest.fixture
def own_proxied(lan: Lan, tmp_path: Path) -> Iterator[Proxied]:
    """A worker, and namespaces, that the test may leave as it likes."""
    with _proxied(lan, tmp_path) as proxied:
        yield proxied.clean()


@pytest.fixture(scope="module")
def _standing(
    kernel_has_esp: bool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxied]:
    with contextlib.ExitStack() as made:
        lan = Lan(
            lambda: made.enter_context(contextlib.closing(Namespace.create())),
            esp=kernel_has_esp,
        )
        yield made.enter_context(_proxied(lan, tmp_path_factory.mktemp("proxy")))


@pytest.fixture
def proxied(_standing: Proxied) -> Proxied:
    """The module's worker, clean."""
    return _standing.clean()
