"""`orchestrator cleanup` from cold: the kernel is as it was found, compared as text."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from orchestrator.adapters.applications import UNLIMITED_MS
from orchestrator.adapters.rtnetlink import Rtnetlink
from orchestrator.adapters.xfrm import Xfrm
from orchestrator.core.endpoint_state import EndpointState, Inner, endpoint_objects
from orchestrator.core.kernel import ENDPOINT_REQID, KernelObject, Template
from orchestrator.core.paths import Path as Way
from orchestrator.core.quantities import LinkIndex, Reqid, Spi, TableId
from orchestrator.core.server_state import ServerState, server_objects, session_objects
from orchestrator.services.freezer import FILE
from orchestrator.services.journal import Journal
from orchestrator.services.reconciler import Reconciler
from tests.kernel.netns import Namespace, settled
from tests.kernel.proxy.lan import load_rules

POP, SERVER, VIP = (ip_address(each) for each in ("192.0.2.2", "203.0.113.10", "10.99.0.2"))
VIP6 = ip_address("fd00:99::2")
WAY_BACK = Template(SERVER, POP, Reqid(7), Spi(0xB1))
FOREIGN = "table inet foreign {\n chain input { counter; }\n}\n"
"""Somebody else's; it must stay as it is."""
SETTINGS = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")


@pytest.fixture
def host(network_namespace: Namespace) -> Namespace:
    """A host with a link, and with policies, rules, routes and tables of others."""
    network_namespace.add_pair("eth0", "far0")
    network_namespace.ip(
        "addr add 192.0.2.2/24 dev eth0",
        "route add default via 192.0.2.1",
        "route add 198.51.100.0/24 via 192.0.2.1 table 11100 proto static",
        "rule add priority 11150 from 198.51.100.7 lookup 11100",
        "xfrm policy add src 198.51.100.7 dst 198.51.100.8 dir out priority 9 action block",
    )
    load_rules(network_namespace, FOREIGN)
    return network_namespace


def kernel_state(host: Namespace) -> str:
    said = host.run(
        "ip rule",
        "ip -6 rule",
        "ip route show table all",
        "ip -6 route show table all",
        "ip xfrm policy",
        "ip xfrm state",
        "ip -oneline address",
        "nft list ruleset",
        f"sysctl {' '.join(SETTINGS)}",
    )
    return settled(said)


def put(state: Path, *scopes: tuple[KernelObject, ...]) -> None:
    """As a daemon that was killed leaves them."""

    async def apply() -> None:
        async with Rtnetlink() as rtnetlink:
            with Xfrm() as xfrm:
                reconciler = Reconciler(rtnetlink, xfrm, state, Journal())
                for number, objects in enumerate(scopes):
                    await reconciler.apply(f"scope {number}", objects)
                assert not reconciler.failures

    asyncio.run(apply())


def endpoint() -> tuple[KernelObject, ...]:
    way = Way(LinkIndex(2), "eth0", POP, ip_address("192.0.2.1"), SERVER)
    return endpoint_objects(
        EndpointState(
            Inner(), (VIP, VIP6), {way: TableId(11101)}, Template(POP, SERVER, ENDPOINT_REQID)
        )
    )


def cleanup(host: Namespace, folder: Path, *options: str) -> Any:
    command = [
        *(sys.executable, "-m", "orchestrator", "cleanup", "--json", *options),
        *("--socket", str(folder / "control.sock"), "--state", str(folder)),
        *("--charon", str(folder / "charon.vici")),
    ]
    with host.entered():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    return json.loads(done.stdout)


@pytest.mark.usefixtures("needs_tun")
def test_an_endpoint_leaves_no_trace(host: Namespace, tmp_path: Path) -> None:
    before = kernel_state(host)
    put(tmp_path, endpoint())
    during = kernel_state(host)
    assert during != before

    would = cleanup(host, tmp_path, "--dry-run")
    assert kernel_state(host) == during, "a dry run changed something"
    did = cleanup(host, tmp_path)
    assert kernel_state(host) == before
    assert did["operations"] == would["operations"]
    assert len(did["operations"]) >= 10
    assert {
        "drop the policy out 10.99.0.2/32 -> 0.0.0.0/0",
        "drop the address 10.99.0.2 on vip0",
        "drop the route default dev vip0 table 11100",
        "drop the firewall table inet orchestrator",
    } <= set(did["operations"])
    assert not [sentence for sentence in did["operations"] if "(" in sentence]

    assert cleanup(host, tmp_path)["operations"] == []
    assert kernel_state(host) == before


@pytest.mark.usefixtures("needs_tun")
def test_a_server_leaves_no_trace(host: Namespace, tmp_path: Path) -> None:
    before = kernel_state(host)
    pools = (ip_network("10.99.0.0/24"), ip_network("fd00:99::/64"))
    ruleset = "table inet orchestrator {\n chain input { counter; }\n}\n"
    put(
        tmp_path,
        server_objects(ServerState(pools, ruleset)),
        session_objects((VIP, VIP6), None, None, {0: WAY_BACK}),
    )
    assert "net.ipv4.ip_forward = 1" in kernel_state(host)
    cleanup(host, tmp_path)
    assert kernel_state(host) == before
    assert cleanup(host, tmp_path)["operations"] == []


@pytest.mark.usefixtures("needs_esp")
def test_forgotten_sas_of_the_endpoint_go_and_others_stay(
    host: Namespace, tmp_path: Path
) -> None:
    key = "aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128"
    ends = "xfrm state add src 192.0.2.2 dst 203.0.113.10 proto esp"
    host.ip(f"{ends} spi 0x200 mode tunnel reqid 7 {key}")
    before = host.run("ip xfrm state")
    host.ip(f"{ends} spi 0x100 mode tunnel reqid {ENDPOINT_REQID} {key}")
    assert cleanup(host, tmp_path)["operations"] == ["drop the SA 00000100 to 203.0.113.10"]
    assert host.run("ip xfrm state") == before


def test_an_applications_limit_that_was_lifted_is_put_back(
    host: Namespace, tmp_path: Path
) -> None:
    """This process is the application; the daemon was killed during an outage."""
    option = socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT
    record = tmp_path / FILE
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as connection,
    ):
        connection.setsockopt(*option, UNLIMITED_MS)
        record.write_text(json.dumps({os.fstat(connection.fileno()).st_ino: 4000}))
        cleanup(host, tmp_path, "--dry-run")
        assert connection.getsockopt(*option) == UNLIMITED_MS
        cleanup(host, tmp_path)
        assert connection.getsockopt(*option) == 4000
        assert not record.exists()
