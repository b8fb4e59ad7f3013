"""The lab with both our daemons in it, as stories need it: ask, wait, break, and restore."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from orchestrator.core.quantities import IPAddress
from orchestrator.lab.capture import Capture
from orchestrator.lab.charon import Charon
from orchestrator.lab.host import Host
from orchestrator.lab.internet import INTERNET
from orchestrator.lab.netns import Lab
from orchestrator.lab.peers import Peers
from orchestrator.lab.product import (
    ENDPOINT,
    NOT_RUNNING,
    PATIENCE,
    SERVER,
    STRONGSWAN_CONF,
    Daemon,
)
from orchestrator.wire.control import Verb

LIMIT: Final = PATIENCE
POLL: Final = 0.05
PEER: Final = ip_address("10.51.1.2")
PEER6: Final = ip_address("fd00:51:1::2")
SERVER_ADDRESS: Final = ip_address("203.0.113.10")

QUICK_TIMERS: Final = '[timers]\nattempt = "4s"\nbackoff_max = "2s"\n'
"""So that what is tried again is tried soon; measured by the same rules as the defaults."""
_WATCHED: Final = 6.0
"""Seconds."""
_MOST_ATTEMPTS: Final = 8
"""In that time: pauses of 0.5, 1, 2, 2 seconds, and twice as many to be lenient."""

T = TypeVar("T")
_pause: Final = threading.Event()


def eventually(question: Callable[[], T], good: Callable[[T], bool], limit: float = LIMIT) -> T:
    """The first good answer. Raises AssertionError, with the last one, when none comes."""
    end = time.monotonic() + limit
    while not good(answer := question()):
        assert time.monotonic() < end, f"after {limit:g} s still: {answer!r}"
        _pause.wait(POLL)
    return answer


def for_a_while(seconds: float) -> None:
    """Lets time pass in which something must not happen."""
    _pause.wait(seconds)


class Side:
    """One of our daemons with its charon, on its host."""

    def __init__(
        self,
        lab: Lab,
        role: str,
        config: str,
        files: Mapping[str, str],
        host: str | None = None,
    ) -> None:
        self.host: Final[Host] = lab.host(host or role)
        self.role: Final = role
        self.daemon: Final = Daemon(self.host, role, config, dict(files))
        self.charon: Charon | None = None
        """None: it does not run."""
        self._lab = lab

    def start_charon(self, extra: Mapping[str, str] | None = None) -> None:
        """`extra` are dotted settings that come last."""
        conf = STRONGSWAN_CONF / f"{self.role}.conf"
        self.charon = self._lab.start_charon(self.host.name, conf, extra)

    def kill_charon(self) -> None:
        assert self.charon is not None, "it does not run"
        self.charon.kill()
        self.charon = None

    def start(self) -> None:
        self.daemon.start()
        eventually(self.status, lambda status: status["state"] != NOT_RUNNING)

    def start_cold(
        self, config: str | None = None, files: Mapping[str, str] | None = None
    ) -> None:
        """Starts with nothing in charon or among the SAs to go on with."""
        self.kill()
        if self.charon is not None:
            self.kill_charon()
        self.run("ip", "xfrm", "state", "flush")
        self.daemon.config = config or self.daemon.config
        self.daemon.extra_files = dict(files or {})
        self.start_charon()
        self.start()

    def kill(self) -> None:
        """kill -9"""
        self.daemon.kill()

    def tries_in_measure(self) -> None:
        """Raises AssertionError if it negotiates all the time, or has given up."""

        def attempts() -> int:
            return int(self.status()["counters"].get("negotiating", 0))

        before = attempts()
        for_a_while(_WATCHED)
        eventually(attempts, lambda now: now > before, 20.0)
        assert attempts() - before <= _MOST_ATTEMPTS

    def status(self) -> dict[str, Any]:
        """As `orchestrator status --json`; of a daemon that does not run the state says so."""
        return self.daemon.status()

    def paths(self) -> list[dict[str, Any]]:
        """As `orchestrator paths --json`."""
        paths: list[dict[str, Any]] = self.daemon.ask(Verb.PATHS)
        return paths

    def sessions(self) -> list[dict[str, Any]]:
        """As `orchestrator sessions --json`."""
        sessions: list[dict[str, Any]] = self.daemon.ask(Verb.SESSIONS)
        return sessions

    def wait_for(
        self, state: str, reason: str | None = None, limit: float = LIMIT
    ) -> dict[str, Any]:
        """The status, once it has this state (and this reason)."""
        return self.daemon.wait_for(state, reason, limit)

    def run(self, *command: str, check: bool = True) -> str:
        return self.host.run(list(command), check=check).stdout


class World:
    """Everything that runs from `with` to its end."""

    def __init__(
        self,
        folder: Path,
        endpoint: str = ENDPOINT,
        server: str = SERVER,
        files: Mapping[str, str] | None = None,
        file_bytes: int = 1 << 20,
    ) -> None:
        self.lab: Final = Lab(INTERNET, folder)
        self._stack = ExitStack()
        self._configs = (endpoint, server, dict(files or {}))
        self._file_bytes = file_bytes

    def __enter__(self) -> Self:
        self._stack.enter_context(self.lab)
        endpoint, server, files = self._configs
        try:
            self.endpoint = Side(self.lab, "endpoint", endpoint, files)
            self.server = Side(self.lab, "server", server, files)
            self.peers: Peers = self.lab.start_peers(self._file_bytes)
            self.capture: Capture = self.lab.capture()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def sides(self) -> tuple[Side, Side]:
        return (self.server, self.endpoint)

    def start(self, link: str = "wifi") -> None:
        """Both daemons and both charons, the endpoint attached over this link."""
        self.lab.link(link).attach()
        for side in self.sides:
            side.daemon.configure()
            side.start_charon()
            side.daemon.start()
        self.attached(link)

    @property
    def vip(self) -> IPAddress:
        """The endpoint's IPv4 virtual address."""
        return ip_address(self.endpoint.status()["vip"][0])

    def attached(
        self, link: str | None = None, pop: str | None = None, limit: float = LIMIT
    ) -> dict[str, Any]:
        """The endpoint's status, once it is attached over this link with this address."""

        def good(status: dict[str, Any]) -> bool:
            path = status.get("active_path") or {}
            return bool(
                status["state"] == "attached"
                and (link is None or path.get("link") == self.lab.link(link).device)
                and (pop is None or path.get("pop") == pop)
            )

        return eventually(self.endpoint.status, good, limit)

    def renewed(self, link: str, before: dict[str, Any]) -> dict[str, Any]:
        """The status, once the link has another tunnel than the one of a former status."""
        old = before["active_path"]["spi_out"]
        return eventually(
            lambda: self.attached(link), lambda status: status["active_path"]["spi_out"] != old
        )

    def nowhere(self) -> None:
        """Out of range of everything; returns when the endpoint knows."""
        for link in self.lab.access_links:
            if link.attached:
                link.detach()
        self.endpoint.wait_for("detached")

    def home(self) -> None:
        """Back to the beginning: all running, all links well, attached over Wi-Fi."""
        for link in self.lab.internet.links:
            self.lab.link(link.name).mend()
        for side in self.sides:
            if side.charon is None:
                side.start_charon()
            if side.status()["state"] == NOT_RUNNING:
                side.start()
        wifi = self.lab.link("wifi")
        if not (wifi.attached and wifi.carrier) or any(
            link.attached for link in self.lab.access_links if link is not wifi
        ):
            self.lab.roam("wifi")
        elif wifi.addresses != INTERNET.link("wifi").lease.addresses:  # type: ignore[union-attr]
            wifi.readdress()
        self.attached("wifi", "192.168.10.2")

    @contextmanager
    def nothing_in_clear(self) -> Iterator[None]:
        """Raises AssertionError if a packet of a VIP crossed the underlay in the meantime, or
        if nothing protected did: then the capture would prove nothing."""
        clear, protected = self.capture.in_clear, self.capture.protected
        self.capture.examples()
        yield
        assert self.capture.in_clear == clear, self.capture.examples()
        assert self.capture.protected > protected, "no protected packet crossed the underlay"
