"""`orchestrator run` as an operator meets it: starts, answers, ends; alone in its namespace."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from orchestrator import __version__
from orchestrator.adapters.niceness import HURRIED, ORDINARY
from orchestrator.faces.client import NoAnswer, ask
from orchestrator.wire.control import Request, Verb
from tests.kernel.netns import Namespace
from tests.kernel.proxy.lan import until

LIBNFTABLES: Final = str(next(Path("/usr").glob("lib*/**/libnftables.so.1")).resolve())
COMMAND: Final = (sys.executable, "-m", "orchestrator")
PATIENCE: Final = 60.0
URL: Final = "http://127.0.0.1:9464/metrics"
SECRET: Final = "open sesame"
ENDPOINT: Final = """
role = "endpoint"
identity = "a"
server = { identity = "b", addresses = ["203.0.113.10"] }
auth = { kind = "psk", secret_file = "secret" }
tunnel = { vips = "10.99.0.2" }
control = { socket = "control.sock" }
charon = { socket = "no-charon" }
state = { directory = "state" }
"""
SERVER: Final = """
role = "server"
identity = "b"
underlay = { interfaces = ["lo"] }
auth = { kind = "psk", secret_file = "secret" }
vip = { pools = ["10.99.0.0/24", "fd00:99::/64"] }
proxy = { enabled = false }
control = { socket = "control.sock" }
charon = { socket = "no-charon" }
state = { directory = "state" }
"""


@pytest.fixture(params=["endpoint", "server"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / "secret").chmod(0o600)
    file = tmp_path / f"{request.param}.toml"
    file.write_text(ENDPOINT if request.param == "endpoint" else SERVER)
    return file


@contextmanager
def running(config: Path) -> Iterator["subprocess.Popen[str]"]:
    """A daemon; it is not known whether it answers yet."""
    with subprocess.Popen(
        [*COMMAND, "run", str(config)], stderr=subprocess.PIPE, text=True
    ) as it:
        try:
            yield it
        finally:
            it.kill()


def orchestrator(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, check=False, timeout=PATIENCE
    )


def clean_up(config: Path) -> "subprocess.CompletedProcess[str]":
    state, charon = str(config.with_name("state")), str(config.with_name("no-charon"))
    socket = str(config.with_name("control.sock"))
    places = ("--socket", socket, "--state", state, "--charon", charon)
    return orchestrator("cleanup", "--stop", *places)


def status(config: Path, daemon: "subprocess.Popen[str]") -> dict[str, Any]:
    """Once it answers; a daemon that ends instead fails the test with its last words.

    Asked from this process: a new one costs a second in a lab kernel.
    """
    pause = threading.Event()
    while True:
        try:
            found = ask(config.with_name("control.sock"), Request(Verb.STATUS))
        except NoAnswer:
            assert daemon.poll() is None, daemon.stderr and daemon.stderr.read()
            pause.wait(0.05)
        else:
            assert isinstance(found, dict)
            return found


def scrape(name: str) -> str:
    """What is served, once it is and this metric is among it: a daemon answers its control
    socket first, and loads its firewall last."""
    pause = threading.Event()
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(URLError), urlopen(URL) as answer:
            found: str = answer.read().decode()
            if name in found:
                return found
        pause.wait(0.05)
    raise AssertionError(f"nobody serves {name}")


def ended(daemon: "subprocess.Popen[str]", number: int) -> str:
    """Ends it with this signal; what it has said."""
    daemon.send_signal(number)
    _, said = daemon.communicate(timeout=PATIENCE)
    assert daemon.returncode == 0, said
    assert "Traceback" not in said
    return said


@pytest.mark.usefixtures("needs_tun", "network_namespace")
class TestRun:
    def test_answers_without_charon_keeps_the_secret_and_ends_when_told(
        self, config: Path
    ) -> None:
        with running(config) as daemon:
            found = status(config, daemon)
            assert found["charon"] == "absent"
            assert found["state"] in ("detached", "waiting")
            assert any("charon does not answer" in text for text in found["warnings"])
            command = Path(f"/proc/{daemon.pid}/cmdline").read_bytes()
            environment = Path(f"/proc/{daemon.pid}/environ").read_bytes()
            said = ended(daemon, signal.SIGTERM)
        assert SECRET.encode() not in command + environment
        assert SECRET not in said + json.dumps(found)

    def test_a_second_one_is_refused_and_the_first_goes_on(self, config: Path) -> None:
        with running(config) as daemon:
            status(config, daemon)
            second = orchestrator("run", str(config))
            assert second.returncode == 1
            assert f"process {daemon.pid}" in second.stderr
            assert status(config, daemon)["uptime_s"] > 0
            ended(daemon, signal.SIGINT)


@pytest.mark.usefixtures("needs_tun")
def test_a_scraper_reads_what_it_counts(config: Path, network_namespace: Namespace) -> None:
    """Negative control: without `[metrics] listen` nobody answers there."""
    network_namespace.run("ip link set lo up")
    text = config.read_text().replace('interfaces = ["lo"]', 'interfaces = ["wan0"]')
    config.write_text(text)
    with running(config) as daemon:
        status(config, daemon)
        with pytest.raises(URLError):
            urlopen(URL)
        ended(daemon, signal.SIGTERM)
    config.write_text(f'{text}metrics = {{ listen = "127.0.0.1:9464" }}\n')
    with running(config) as daemon:
        status(config, daemon)
        scraped = scrape("orchestrator_firewall_packets_total")
        told = ask(config.with_name("control.sock"), Request(Verb.METRICS))
        ended(daemon, signal.SIGTERM)
    assert isinstance(told, dict)
    for found in (scraped, told["text"]):
        families = list(text_string_to_metric_families(found))  # type: ignore[no-untyped-call]
        samples = {
            (each.name, *each.labels.values()): each.value
            for f in families
            for each in f.samples
        }
        assert samples["orchestrator_charon_up",] == 0
        assert samples["orchestrator_hold_dropped_packets_total", "full"] == 0
        assert samples["orchestrator_firewall_packets_total", "leak_stopped"] == 0
        role = "endpoint" if "endpoint" in config.name else "server"
        assert samples["orchestrator_build_info", role, __version__] == 1
        if role == "server":
            assert samples["orchestrator_pool_free_addresses", "10.99.0.0/24"] == 253
            assert samples["orchestrator_hold_memory_limit_bytes",] == 512 * 1024**2
        else:
            assert samples["orchestrator_state", "detached"] == 1


@pytest.mark.usefixtures("needs_tun")
@pytest.mark.parametrize("missing", ["/dev/net/tun", LIBNFTABLES], ids=["tun", "nftables"])
def test_without_what_it_needs_it_says_so_and_opens_nothing(
    config: Path, network_namespace: Namespace, missing: str
) -> None:
    look = ("ip rule", "ip -6 rule", "ip route show table all", "sysctl net.ipv4.ip_forward")
    before = network_namespace.run(*look)
    hide = 'mount --bind /dev/null "$1"; shift; exec "$@"'
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hide, "sh", missing, *COMMAND, "run", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert run.returncode == 1
    assert "error: the kernel refused to" in run.stderr
    assert f"`orchestrator doctor {config}` says what this machine lacks" in run.stderr
    assert "Traceback" not in run.stderr
    assert network_namespace.run(*look) == before


@pytest.mark.usefixtures("needs_tun")
@pytest.mark.parametrize("chosen", [ORDINARY, 5])
def test_only_an_endpoint_goes_before_ordinary_processes_unless_told_otherwise(
    config: Path, network_namespace: Namespace, chosen: int
) -> None:
    hurries = "endpoint" in config.name and chosen == ORDINARY
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, chosen)
    try:
        with running(config) as daemon:
            assert status(config, daemon)["role"] in config.name
            kept = os.getpriority(os.PRIO_PROCESS, daemon.pid)
            assert kept == (HURRIED if hurries else chosen)
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, mine)


@pytest.mark.usefixtures("needs_tun")
def test_cleanup_stops_it_and_leaves_no_trace(
    config: Path, make_namespace: Callable[[], Namespace]
) -> None:
    host = make_namespace()
    look = ("ip rule", "ip -6 rule", "ip route show table all", "ip xfrm policy", "ip link",
            "nft list ruleset", "sysctl net.ipv4.ip_forward")  # fmt: skip
    before = host.run(*look)
    # With the proxy, whose worker outlives the daemon.
    config.write_text(config.read_text().replace("enabled = false", "enabled = true"))
    with host.entered(), running(config) as daemon:
        until(lambda: status(config, daemon).get("proxy", "running") == "running")
        until(lambda: host.run(*look) != before)  # it answers before it has written anything
        done = clean_up(config)
        assert (done.returncode, done.stderr) == (0, "")
        assert daemon.wait(PATIENCE) == 0
    assert host.run(*look) == before
    left = {path.name for path in config.parent.iterdir()}
    assert left == {config.name, "secret", "state"}
