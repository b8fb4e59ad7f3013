"""What is echoed after an outage, and what TCP makes of it: real sockets, and the real ruleset.

The sender's acknowledgments are lost for a while, and what it sent is not. The answer to its
repetition then echoes the time of before the outage: a segment that ends before the last one is
no news, whatever its time (tcp_validate_incoming, net/ipv4/tcp_input.c).
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

import pytest

from orchestrator.adapters.nftables import Nftables
from orchestrator.core.firewall import (
    ECHOING,
    HIDDEN_ECHOES,
    endpoint_ruleset,
    tunnel_interface,
)
from orchestrator.core.kernel import TUN_ENDPOINT, Ruleset
from orchestrator.core.quantities import IPAddress
from tests.kernel.netns import Namespace
from tests.kernel.proxy.lan import add_rules, pair, serve, until

OUTAGE: Final = 0.7
"""Seconds; the sender tries after 0.2, 0.6 and 1.4 s."""
SEVERAL: Final = 6000
"""Octets, as many segments as Linux does not put together when it repeats them."""
MOST: Final = 0.05
"""Seconds of smoothed round trip, for an answer that came within microseconds."""
LOSES: Final = """
table inet loses {
    chain arriving {
        type filter hook prerouting priority raw; policy accept;
        meta l4proto tcp drop
    }
}
"""
_UNACKED, _RTT = 24, 68
"""Where they are in struct tcp_info (include/uapi/linux/tcp.h); packets, and microseconds."""


@dataclass(frozen=True, slots=True)
class Host:
    namespace: Namespace
    address: IPAddress


@pytest.fixture
def ends(make_namespace: Callable[[], Namespace], version: int) -> tuple[Host, Host]:
    """An endpoint with its ruleset, and whom it talks to; the link between is its tunnel."""
    endpoint, peer = make_namespace(), make_namespace()
    vip, other, width = {
        4: ("10.99.0.7", "10.99.0.1", 24),
        6: ("fd00:99::7", "fd00:99::1", 64),
    }[version]
    endpoint.run(f"ip link add out0 type veth peer name in0 netns {peer.path}")
    for namespace, device, address in ((endpoint, "out0", vip), (peer, "in0", other)):
        namespace.run(f"ip addr add {address}/{width} dev {device}", f"ip link set {device} up")
    return Host(endpoint, ip_address(vip)), Host(peer, ip_address(other))


def srtt(sock: socket.socket) -> float:
    """Seconds."""
    (microseconds,) = struct.unpack_from("=I", _tcp_info(sock), _RTT)
    return float(microseconds) * 1e-6


def all_is_acknowledged(sock: socket.socket) -> bool:
    return _tcp_info(sock)[_UNACKED : _UNACKED + 4] == bytes(4)


def _tcp_info(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)


def measured_after_an_outage(sender: Host, receiver: Host) -> float:
    """The sender's round trip after it."""
    with serve(receiver.namespace, str(receiver.address)) as listener:
        # Of a neighbour that was not known yet the round trip is a long one.
        pair(sender.namespace, listener).close()
        ends = pair(sender.namespace, listener)
        with contextlib.closing(ends):
            sock = ends.near
            sock.send(b"before")
            until(lambda: all_is_acknowledged(sock))
            add_rules(sender.namespace, LOSES)
            sock.send(bytes(SEVERAL))
            threading.Event().wait(OUTAGE)
            sender.namespace.run("nft delete table inet loses")
            until(lambda: all_is_acknowledged(sock))
            return srtt(sock)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("hidden", [True, False], ids=["hidden", "control"])
def test_an_echo_from_before_an_outage_is_no_round_trip(
    ends: tuple[Host, Host], way: str, *, hidden: bool
) -> None:
    endpoint, _ = ends
    ruleset = endpoint_ruleset([endpoint.address], TUN_ENDPOINT, tunnel_interface("out0"))

    async def load() -> None:
        nftables = Nftables()
        await nftables.apply(Ruleset(ruleset))
        await nftables.fill(HIDDEN_ECHOES, ECHOING if hidden else ())

    with endpoint.namespace.entered():
        asyncio.run(load())
    measured = measured_after_an_outage(*(ends if way == "up" else ends[::-1]))
    assert measured < MOST if hidden else measured > 2 * MOST


@pytest.mark.parametrize("version", [4])
def test_echoes_of_others_are_left_alone(ends: tuple[Host, Host]) -> None:
    """Another tunnel of this host, whose addresses are not ours."""
    endpoint, peer = ends
    ruleset = endpoint_ruleset([peer.address + 100], TUN_ENDPOINT, tunnel_interface("out0"))

    async def load() -> None:
        nftables = Nftables()
        await nftables.apply(Ruleset(ruleset))
        await nftables.fill(HIDDEN_ECHOES, ECHOING)

    with endpoint.namespace.entered():
        asyncio.run(load())
    assert measured_after_an_outage(endpoint, peer) > 2 * MOST
