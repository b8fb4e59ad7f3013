"""A hotel's network, a daemon and its command: one program signs in, others wait.

There is no charon: IKE could not get through anyway.
"""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import OrchestratorError
from orchestrator.faces.client import NoAnswer, ask
from orchestrator.wire.control import Request, Verb
from tests.kernel.access import PAGE, PATIENCE, POP, attached
from tests.kernel.netns import Namespace

COMMAND = (sys.executable, "-m", "orchestrator")
CURL = ("curl", "--silent", "--show-error", "--noproxy", "*", "--max-time")
URL = f"http://{PAGE}/generate_204"
CONFIG = f"""
role = "endpoint"
identity = "a"
server = {{ identity = "b", addresses = ["203.0.113.10"] }}
auth = {{ kind = "psk", secret_file = "secret" }}
tunnel = {{ vips = "10.99.0.2" }}
portal = {{ url = "{URL}" }}
control = {{ socket = "control.sock" }}
charon = {{ socket = "no-charon" }}
state = {{ directory = "state" }}
"""
ASKS_TWICE = f"""
curl --silent --max-time 20 {URL} && echo && read -r _
curl --silent --max-time 20 {URL} || echo refused
"""
"""A program that tries once, waits for a line, and tries again."""


class Device:
    """A daemon on it, and what its user types."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "endpoint.toml"
        self.config.write_text(CONFIG)
        (folder / "secret").write_text("open sesame\n")
        (folder / "secret").chmod(0o600)
        self.socket = folder / "control.sock"
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.daemon = subprocess.Popen([*COMMAND, "run", str(self.config)])

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def portal(self, *program: str) -> "subprocess.Popen[str]":
        ours = [*COMMAND, "portal", "wlan0", "--socket", str(self.socket), "--", *program]
        return subprocess.Popen(
            ours,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        pause, end = threading.Event(), time.monotonic() + PATIENCE
        found: Any = None
        while time.monotonic() < end:
            with contextlib.suppress(NoAnswer):
                found = ask(self.socket, Request(Verb.STATUS))
                if good(found):
                    assert isinstance(found, dict)
                    return found
            pause.wait(0.05)
        raise OrchestratorError(f"still {found}")


def at_a_portal(status: dict[str, Any]) -> bool:
    return "portal" in status["reasons"]


@pytest.fixture
def device(
    network_namespace: Namespace,
    make_namespace: Callable[[], Namespace],
    needs_tun: None,
    tmp_path: Path,
) -> Iterator[Device]:
    made = Device(tmp_path)
    with attached(network_namespace, make_namespace):
        made.start()
        try:
            made.wait_for(at_a_portal)
            yield made
        finally:
            made.kill()


def test_it_is_told_and_one_program_reaches_the_page(device: Device) -> None:
    (warning,) = (w for w in device.wait_for(at_a_portal)["warnings"] if "sign-in" in w)
    assert "orchestrator portal wlan0 -- " in warning
    others = subprocess.run([*CURL, "3", URL], capture_output=True, text=True, check=False)
    assert (others.returncode, others.stdout) == (28, ""), "it waits for the tunnel"
    said, talk = device.portal(*CURL, "20", URL).communicate(timeout=PATIENCE)
    assert said == f"{POP} /generate_204", talk
    device.wait_for(lambda status: status["portal_way"] is None)


def test_while_it_is_open_others_wait_all_the_same(device: Device) -> None:
    with device.portal("sh", "-c", ASKS_TWICE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == f"{POP} /generate_204\n"
        device.wait_for(lambda status: status["portal_way"] is not None)
        for way in ((), ("--interface", "wlan0"), ("--interface", POP)):
            others = subprocess.run([*CURL, "3", *way, URL], capture_output=True, check=False)
            assert others.returncode != 0
            assert others.stdout == b""
        second, talk = device.portal(*CURL, "20", URL).communicate(timeout=PATIENCE)
        assert second == ""
        assert "open already" in talk
        rest, _ = program.communicate("\n", PATIENCE)
        assert rest.startswith(POP), "the first one goes on"


@pytest.mark.parametrize("end", ["kill", "cleanup"])
def test_it_closes_with_the_daemon_and_leaves_nothing(device: Device, end: str) -> None:
    with device.portal("sh", "-c", ASKS_TWICE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == f"{POP} /generate_204\n"
        if end == "kill":
            device.kill()
            device.start()
            assert device.wait_for(at_a_portal)["portal_way"] is None
        else:
            state = device.config.with_name("state")
            options = ["--socket", str(device.socket), "--state", str(state)]
            subprocess.run([*COMMAND, "cleanup", "--stop", *options], check=True)
            # Where nothing of ours is left, others reach the page by themselves.
            done = subprocess.run([*CURL, "20", URL], capture_output=True, check=True)
            assert done.stdout.startswith(POP.encode())
        rest, talk = program.communicate("\n", PATIENCE)
        assert rest == "refused\n"
        assert "closed (daemon-ended)" in talk
