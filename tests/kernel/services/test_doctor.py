"""The doctor's readings of a real machine, and what comes of them."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from orchestrator.adapters import diagnosis
from orchestrator.core.diagnosis import NetworkReading, Severity
from orchestrator.core.errors import CharonError
from orchestrator.services.doctor import DaemonReading, _networks, examine
from tests.kernel.netns import Namespace, settled

EVERYTHING = ("ip address", "ip rule", "ip route show table all", "nft list ruleset")
SHIPPED = Path(__file__).parents[3] / "strongswan-conf"


class NoCharon:
    async def version(self) -> str:
        raise CharonError("charon does not answer at /nowhere")


class Charon:
    async def version(self) -> str:
        return "5.9.8"


@pytest.fixture
def host(network_namespace: Namespace) -> Namespace:
    """Two links with gateways of both families, and tables of others."""
    network_namespace.add_pair("eth0", "far0")
    network_namespace.add_pair("wwan0", "far1")
    network_namespace.ip(
        "link add vip0 type veth peer name far2",
        "addr add 192.0.2.2/24 dev eth0",
        "addr add 192.0.2.3/24 dev eth0",
        "addr add 100.64.0.2 peer 100.64.0.1 dev wwan0",
        "addr add 2001:db8::2/64 dev wwan0 nodad",
        "addr add 10.99.0.2/32 dev vip0",
        "route add default via 192.0.2.1 metric 600",
        "route add default via 100.64.0.1 metric 700",
        "route add default via 192.0.2.99 table 77",
        "route add default via 2001:db8::1",
    )
    return network_namespace


def test_both_readings_say_the_same(host: Namespace) -> None:
    first, second = asyncio.run(_networks())
    assert first == NetworkReading(
        frozenset(
            {
                ("eth0", ip_address("192.0.2.2")),
                ("eth0", ip_address("192.0.2.3")),
                ("wwan0", ip_address("100.64.0.2")),
                ("wwan0", ip_address("2001:db8::2")),
            }
        ),
        frozenset(
            {
                ("eth0", ip_address("192.0.2.1")),
                ("wwan0", ip_address("100.64.0.1")),
                ("wwan0", ip_address("2001:db8::1")),
            }
        ),
    )
    assert second.addresses == first.addresses
    assert second.gateways >= first.gateways


def test_reads_this_kernel(host: Namespace) -> None:
    sysctls = diagnosis.sysctls()
    assert sysctls["net/ipv4/ip_no_pmtu_disc"] == "0"
    assert "net/ipv4/conf/eth0/rp_filter" in sysctls
    assert "net/ipv4/conf/lo/disable_xfrm" not in sysctls
    for family in ("ipv4", "ipv6"):
        assert sysctls[f"net/{family}/conf/all/ignore_routes_with_linkdown"] == "0"
    assert diagnosis.links() == {"eth0", "wwan0", "far0", "far1", "far2"}
    assert diagnosis.may_try() == ""
    assert diagnosis.try_in_namespace(["ip", "link", "show", "eth0"]) is not None
    assert diagnosis.try_in_namespace(["ip", "link", "show", "lo"]) is None
    assert diagnosis.try_in_namespace(["no-such-program"]) is not None


def test_finds_what_is_wrong_and_changes_nothing(host: Namespace) -> None:
    host.run("sysctl -qw net.ipv4.conf.eth0.rp_filter=1")
    before = settled(host.run(*EVERYTHING))
    findings = asyncio.run(examine(None, NoCharon(), Path("/nowhere"), None))
    assert settled(host.run(*EVERYTHING)) == before
    errors = [each.what for each in findings if each.severity is Severity.ERROR]
    assert any("rp_filter: is strict on eth0" in what for what in errors)
    assert "does not answer at /nowhere" in errors
    assert not any("rtnetlink" in what for what in errors)


@pytest.fixture(params=["it alone", "included"])
def conf(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What we ship, which includes a file beside it; read at once, or from another folder."""
    if request.param == "it alone":
        return SHIPPED / "endpoint.conf"
    below = tmp_path / "strongswan.d/orchestrator"
    shutil.copytree(SHIPPED, below)
    conf = tmp_path / "strongswan.conf"
    conf.write_text(f"include {below.relative_to(tmp_path)}/endpoint.conf\n")
    return conf


@pytest.fixture
def charon(tmp_path: Path, conf: Path) -> Iterator[Path]:
    """A process with charon's environment that listens where charon would."""
    vici = tmp_path / "charon.vici"
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); "
        "s.listen(); print(flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "STRONGSWAN_CONF": str(conf)}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(vici)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield vici
        process.communicate()


def test_reads_the_settings_of_the_charon_that_runs(charon: Path, conf: Path) -> None:
    reading = diagnosis.charon_settings(charon)
    assert reading.settings is not None
    assert reading.settings["charon.routing_table"] == "0"
    assert reading.settings_file == str(conf)


def test_has_nothing_to_say_against_what_we_ship(host: Namespace, charon: Path) -> None:
    findings = asyncio.run(examine(None, Charon(), charon, None))
    assert not [each for each in findings if each.subject == "charon"]


def test_tells_of_a_daemon_that_is_detached(host: Namespace) -> None:
    daemon = DaemonReading((), (), ("no-link",))
    findings = asyncio.run(examine(None, NoCharon(), Path("/nowhere"), daemon))
    assert "the endpoint is detached: no-link" in [each.what for each in findings]


def test_says_why_settings_cannot_be_read(tmp_path: Path) -> None:
    reading = diagnosis.charon_settings(tmp_path / "none")
    assert reading.settings is None
    assert "No such file" in reading.settings_problem


def test_a_charon_that_accepts_nobody_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "vici"))
        listener.listen(0)
        done: list[str] = []
        asked = threading.Thread(
            target=lambda: done.append(diagnosis.charon_settings(tmp_path / "vici").socket)
        )
        asked.start()
        asked.join(10)
        assert done


def test_the_command_fails_when_it_finds_an_error(host: Namespace) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "doctor", "--json", "--socket", "/nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    answer = json.loads(done.stdout)
    assert answer["errors"] >= 1
    assert done.returncode == 1
    assert done.stderr == ""
    assert all(
        set(each) == {"severity", "subject", "what", "remedy"} for each in answer["findings"]
    )
