"""Runs our two daemons on the lab's endpoint and server, as an operator would.

Each gets strongSwan with the configuration that we ship, and a configuration file of its own;
then `orchestrator run`. Nothing here is known to the daemons but what stands in those files.
"""

import json
import subprocess
import threading
import time
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.quantities import IPAddress
from orchestrator.lab.charon import Charon
from orchestrator.lab.host import Host
from orchestrator.lab.netns import Lab

STRONGSWAN_CONF: Final = Path(__file__).parents[2] / "strongswan-conf"
CONFIG_FOLDER: Final = Path("/etc/orchestrator")
SECRET: Final = "the-lab-is-not-a-secret\n"  # noqa: S105 - indeed it is not
_PATIENCE: Final = 60.0
_POLL: Final = 0.1

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
        self.process = self.host.spawn_python("orchestrator", "run", str(self.config_file))

    def kill(self) -> None:
        """As a crash: at whatever instruction it is."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()

    def ask(self, *words: str) -> Any:
        """What `orchestrator WORDS --json` prints. Raises CalledProcessError."""
        return json.loads(self.host.run(["orchestrator", *words, "--json"]).stdout)

    def wait_for(self, state: str, patience: float = _PATIENCE) -> dict[str, Any]:
        """The status, once the state is this one. Raises OrchestratorError."""
        pause = threading.Event()
        end = time.monotonic() + patience
        status: dict[str, Any] = {}
        while time.monotonic() < end:
            answer = self.host.run(["orchestrator", "status", "--json"], check=False)
            if answer.returncode == 0:
                status = json.loads(answer.stdout)
                if status["state"] == state:
                    return status
            elif self.process is not None and self.process.poll() is not None:
                break
            pause.wait(_POLL)
        raise OrchestratorError(
            f"{self.role} is not {state}: {status or answer.stderr.strip()}; "
            f"its log is in {self.host.folder}"
        )


class Product:
    """Both daemons; they live as long as the lab."""

    def __init__(self, lab: Lab, endpoint: str = ENDPOINT, server: str = SERVER) -> None:
        self.endpoint = Daemon(lab.host("endpoint"), "endpoint", endpoint)
        self.server = Daemon(lab.host("server"), "server", server)
        self._lab = lab

    def start(self) -> IPAddress:
        """Both up, the endpoint attached; returns its IPv4 virtual address."""
        for daemon in (self.server, self.endpoint):
            daemon.configure()
            daemon.charon = self._lab.start_charon(
                daemon.role, STRONGSWAN_CONF / f"{daemon.role}.conf"
            )
            daemon.start()
        status = self.endpoint.wait_for("attached")
        return ip_address(status["vip"][0])


def _write(files: dict[str, str]) -> None:
    for name, text in files.items():
        path = CONFIG_FOLDER / name
        path.touch(mode=0o600)
        path.write_text(text)
