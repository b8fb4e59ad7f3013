"""Hosts have what is theirs to themselves; what runs on them is real."""

import os
import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path

import pytest

from orchestrator.core.errors import CharonError
from orchestrator.lab.internet import INTERNET
from orchestrator.lab.namespaces import PINS, PRIVATE_FOLDERS
from orchestrator.lab.netns import Lab
from orchestrator.lab.peers import Peers

CONF = Path(__file__).parents[3] / "strongswan-conf" / "endpoint.conf"


@contextmanager
def started_process(number: str) -> Iterator[int]:
    """A descriptor that is readable when the process has ended."""
    descriptor = os.pidfd_open(int(number))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture(scope="module")
def peers(standing_lab: Lab) -> Peers:
    return standing_lab.start_peers(100_000)


@pytest.mark.parametrize("folder", PRIVATE_FOLDERS, ids=str)
def test_hosts_do_not_meet_in_folders(lab: Lab, folder: Path) -> None:
    lab.host("endpoint").inside((folder / "mine").write_text, "endpoint")
    assert not lab.host("server").inside((folder / "mine").exists)
    assert not (folder / "mine").exists()


def test_a_host_knows_its_name_and_the_others(lab: Lab) -> None:
    endpoint = lab.host("endpoint")
    assert endpoint.inside(socket.gethostname) == "endpoint"
    address, *names = endpoint.run(["getent", "hosts", "server"]).stdout.split()
    assert "server" in names
    ends = INTERNET.ends_of("server")
    assert ip_address(address) in {each.ip for end in ends for each in end.addresses}


def test_a_host_can_be_entered_by_its_name(lab: Lab) -> None:
    lab.host("server").inside(Path("/run/mark").write_text, "here")
    names = [f"--{kind}={folder / 'server'}" for kind, folder in PINS.items()]
    seen = subprocess.run(
        ["nsenter", *(name.replace("--mnt", "--mount") for name in names), "cat", "/run/mark"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout == "here"


def test_a_failed_command_says_what_it_said(lab: Lab) -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        lab.host("peer1").run(["sh", "-c", "echo because >&2; exit 3"])
    assert raised.value.returncode == 3
    assert "on peer1: because" in raised.value.__notes__


def test_input_goes_in_and_output_comes_out(lab: Lab) -> None:
    assert lab.host("peer1").run(["tr", "a-z", "A-Z"], input="abc").stdout == "ABC"


def test_what_a_daemon_prints_is_in_its_log(lab: Lab) -> None:
    peer = lab.host("peer1")
    process = peer.popen(["sh", "-c", "echo out; echo err >&2"])
    assert process.wait() == 0
    logs = [log.read_text() for log in peer.folder.glob("*-sh.log")]
    assert "out\nerr\n" in logs


def test_killing_a_host_ends_processes_that_went_their_own_way(lab: Lab) -> None:
    host = lab.host("peer2")
    started = host.run(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!"])
    with started_process(started.stdout) as process:
        assert not select.select([process], [], [], 0)[0], "it runs"
        host.kill_all()
        assert select.select([process], [], [], 0)[0], "it has ended"


def test_peers_serve_the_file_whose_checksum_is_known(lab: Lab, peers: Peers) -> None:
    for version in (4, 6):
        url = peers.url(INTERNET.address("peer1", version))
        fetched = lab.folder / f"fetched-{version}"
        lab.host("server").run(["curl", "-sSgf", "-o", str(fetched), url])
        assert sha256(fetched.read_bytes()).hexdigest() == peers.sha256
        assert fetched.stat().st_size == peers.file_bytes == 100_000


def test_peers_let_in_who_has_the_key(lab: Lab, peers: Peers) -> None:
    ssh = ["ssh", "-F", str(peers.ssh_config)]
    assert lab.host("server").run([*ssh, "peer2", "hostname"]).stdout == "peer2\n"
    keyless = ["-o", "PubkeyAuthentication=no"]
    refused = lab.host("server").run([*ssh, *keyless, "peer2", "hostname"], check=False)
    assert "Permission denied" in refused.stderr


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_peers_echo(lab: Lab, peers: Peers, kind: socket.SocketKind) -> None:
    del peers
    with lab.host("server").inside(socket.socket, socket.AF_INET, kind) as tried:
        tried.settimeout(10)
        tried.connect((str(INTERNET.address("peer1")), 7))
        tried.send(b"hello")
        assert tried.recv(100) == b"hello"


def test_charon_is_ready_killed_and_started_again(lab: Lab) -> None:
    charon = lab.start_charon("endpoint", CONF)
    first = charon.pid
    charon.restart()
    assert charon.pid != first
    assert "Starting IKE charon daemon" in charon.log.read_text()
    charon.kill()


def test_a_charon_without_vici_is_said_to_have_failed(lab: Lab, tmp_path: Path) -> None:
    conf = tmp_path / "broken.conf"
    conf.write_text("charon {\n")
    with pytest.raises(CharonError, match="charon on server"):
        lab.start_charon("server", conf)
