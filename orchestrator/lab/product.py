"""Runs our two daemons on the lab's endpoint and server, as an operator would.

Each gets strongSwan with the configuration that we ship, and a configuration file of its own;
then `orchestrator run`. Nothing here is known to the daemons but what stands in those files.
"""

import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from orchestrator.config.common import Control
from orchestrator.core.errors import OrchestratorError
from orchestrator.core.quantities import IPAddress
from orchestrator.faces.client import NoAnswer, ask
from orchestrator.lab.charon import Charon
from orchestrator.lab.host import Host
from orchestrator.lab.netns import Lab
from orchestrator.wire.control import Request, Verb

STRONGSWAN_CONF: Final = Path(__file__).parents[2] / "strongswan-conf"
CONFIG_FOLDER: Final = Path("/etc/orchestrator")
SECRET: Final = "the-lab-is-not-a-secret\n"  # noqa: S105 - indeed it is not
CONTROL_SOCKET: Final = Control().socket
NOT_RUNNING: Final = "not running"
"""The state of a daemon that does not answer."""
PATIENCE: Final = 60.0
"""Seconds to wait for what must happen; the lab's kernel has one slow CPU."""
_POLL: Final = 0.05

ENDPOINT: Final = """\
role = "endpoint"
identity = "carol@example.org"

[server]
identity = "gateway.example.org"
addresses = ["203.0.113.10", "2001:db8:113::10"]

[auth]
kind = "psk"
secret_file = "/etc/orchestrator/secret"
"""
SERVER: Final = """\
role = "server"
identity = "gateway.example.org"

[underlay]
interfaces = ["wan0"]

[auth]
kind = "psk"
secret_file = "/etc/orchestrator/secret"

[vip]
pools = ["10.99.0.0/24", "fd00:99::/64"]
"""


@dataclass(slots=True)
class Daemon:
    """One of our daemons on its host, with its charon."""

    host: Host
    role: str
    config: str
    extra_files: dict[str, str] = field(default_factory=dict)
    """More files for /etc/orchestrator, by name; all are root's own."""
    program: tuple[str, ...] = ("orchestrator", "run")
    """A module and its arguments before the configuration file."""
    charon: Charon | None = None
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def config_file(self) -> Path:
        return CONFIG_FOLDER / f"{self.role}.toml"

    def configure(self) -> None:
        files = {"secret": SECRET, **self.extra_files, self.config_file.name: self.config}
        self.host.inside(_write, files)

    def start(self) -> None:
        self.configure()
        self.process = self.host.spawn_python(*self.program, str(self.config_file))

    def kill(self) -> None:
        """As a crash: at whatever instruction it is."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()

    def ask(self, verb: Verb, link: str | None = None) -> Any:
        """What `orchestrator VERB --json` prints. Raises NotRunning, NoAnswer, Refused."""
        return self.host.inside(ask, CONTROL_SOCKET, Request(verb, link))

    def status(self) -> dict[str, Any]:
        """The state of a daemon that does not answer says so. Raises OrchestratorError when it
        has given up."""
        try:
            status: dict[str, Any] = self.ask(Verb.STATUS)
        except NoAnswer as error:
            if self.process is not None and (self.process.poll() or 0) > 0:
                raise OrchestratorError(f"{self.role} gave up; {self._logs}") from error
            return {"state": NOT_RUNNING, "reasons": [str(error)], "warnings": []}
        return status

    @property
    def state(self) -> str:
        """NOT_RUNNING also of one that has given up."""
        try:
            return str(self.status()["state"])
        except OrchestratorError:
            return NOT_RUNNING

    def wait_for(
        self, state: str, reason: str | None = None, limit: float = PATIENCE
    ) -> dict[str, Any]:
        """The status, once it has this state (and this reason). Raises OrchestratorError."""

        def is_wanted(status: dict[str, Any]) -> bool:
            return status["state"] == state and (reason is None or reason in status["reasons"])

        return self._wait(f"{state} ({reason})" if reason else state, is_wanted, limit)

    def start_again(self) -> None:
        """Runs when this returns, with its charon; what runs is left alone. Raises
        OrchestratorError."""
        if self.charon is not None and not self.charon.runs:
            self.charon.restart()
        if self.state == NOT_RUNNING:
            self.restart()
            self._wait("running", lambda status: status["state"] != NOT_RUNNING, PATIENCE)

    def _wait(
        self, wanted: str, is_wanted: Callable[[dict[str, Any]], bool], limit: float
    ) -> dict[str, Any]:
        pause = threading.Event()
        end = time.monotonic() + limit
        while True:
            status = self.status()
            if is_wanted(status):
                return status
            if time.monotonic() >= end:
                raise OrchestratorError(f"{self.role} is not {wanted}: {status}; {self._logs}")
            pause.wait(_POLL)

    @property
    def _logs(self) -> str:
        return f"its log is in {self.host.folder}"


class Product:
    """Both daemons; they live as long as the lab."""

    def __init__(self, lab: Lab, endpoint: str = ENDPOINT, server: str = SERVER) -> None:
        self.endpoint = Daemon(lab.host("endpoint"), "endpoint", endpoint)
        self.server = Daemon(lab.host("server"), "server", server)
        self._lab = lab

    def start(self) -> IPAddress:
        """Both up, the endpoint attached; returns its IPv4 virtual address."""
        # An endpoint that calls before is refused, and waits before it calls again.
        self.start_server()
        self._start(self.endpoint)
        status = self.endpoint.wait_for("attached")
        return ip_address(status["vip"][0])

    @property
    def daemons(self) -> tuple[Daemon, ...]:
        return (self.endpoint, self.server)

    def start_again(self) -> None:
        """Both run when this returns; what runs already is left alone. Raises
        OrchestratorError."""
        self.server.start_again()
        self.endpoint.start_again()

    def start_server(self) -> None:
        """The server alone: it serves when this returns."""
        self._start(self.server)
        self.server.wait_for("serving")

    def _start(self, daemon: Daemon) -> None:
        daemon.configure()
        daemon.charon = self._lab.start_charon(
            daemon.role, STRONGSWAN_CONF / f"{daemon.role}.conf"
        )
        daemon.start()


def _write(files: dict[str, str]) -> None:
    for name, text in files.items():
        path = CONFIG_FOLDER / name
        path.touch(mode=0o600)
        path.write_text(text)
