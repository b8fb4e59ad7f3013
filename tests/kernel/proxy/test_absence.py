"""An endpoint that is away, a reader that does not read: what is kept, and how much."""

import contextlib
import socket
import struct
import threading
from ipaddress import ip_address

import pytest

from orchestrator.adapters.transparent import unacknowledged, unread
from orchestrator.core.flows import FlowDirection
from orchestrator.core.relay_events import Outcome, Phase
from tests.kernel.proxy.conftest import Proxied
from tests.kernel.proxy.lan import (
    PEER,
    VIP,
    Pair,
    connect,
    limited,
    pair,
    receive,
    serve,
    transfer,
    until,
)

MIB = 1 << 20
LIMIT = MIB // 2


def acknowledged(sender: socket.socket) -> int:
    """Writes until nothing more is taken for a while; how much of it was acknowledged."""
    sender.settimeout(1.0)
    written = 0
    with contextlib.suppress(TimeoutError):
        while True:
            written += sender.send(b"x" * 65536)
    return written - unacknowledged(sender)


def between(proxied: Proxied, direction: FlowDirection, version: int = 4) -> Pair:
    lan = proxied.lan
    if direction is FlowDirection.FROM_ENDPOINT:
        with serve(lan.peer, PEER[version]) as listener:
            return pair(lan.endpoint, listener, VIP[version])
    with serve(lan.endpoint, VIP[version]) as listener:
        return pair(lan.peer, listener, PEER[version])


def endpoint_and_peer(
    proxied: Proxied,
    direction: FlowDirection = FlowDirection.FROM_ENDPOINT,
    version: int = 4,
) -> tuple[socket.socket, socket.socket]:
    made = between(proxied, direction, version)
    outward = direction is FlowDirection.FROM_ENDPOINT
    return (made.near, made.far) if outward else (made.far, made.near)


@pytest.mark.parametrize("direction", list(FlowDirection))
@pytest.mark.parametrize("stalled", ["endpoint", "peer"])
def test_a_reader_that_does_not_read_costs_no_more_than_the_limit(
    proxied: Proxied, direction: FlowDirection, stalled: str
) -> None:
    proxied.configure(limited(octets_per_flow=LIMIT))
    endpoint, peer = endpoint_and_peer(proxied, direction)
    reader, writer = (endpoint, peer) if stalled == "endpoint" else (peer, endpoint)
    with reader, writer:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        taken = acknowledged(writer)
        held = taken - unread(reader)
        (flow,) = proxied.flows()
        queued = flow.queued_to_endpoint if stalled == "endpoint" else flow.queued_to_peer
        assert LIMIT // 8 < held <= LIMIT
        assert queued <= LIMIT
        assert abs(queued - held) <= 65536  # what is on the wire is counted on both sides
        # The window opens again, and nothing is lost.
        assert receive(reader, taken) == b"x" * taken


def test_an_absent_endpoints_peer_is_acknowledged_up_to_the_limit(proxied: Proxied) -> None:
    proxied.configure(limited(octets_per_flow=LIMIT))
    endpoint, peer = endpoint_and_peer(proxied)
    with endpoint, peer:
        proxied.lan.detach()
        taken = acknowledged(peer)
        assert LIMIT // 8 < taken <= LIMIT
        proxied.lan.attach()
        assert receive(endpoint, taken) == b"x" * taken


def test_a_connection_survives_absence_in_the_middle_of_a_transfer(proxied: Proxied) -> None:
    endpoint, peer = endpoint_and_peer(proxied)
    with endpoint, peer:
        thread = threading.Thread(target=transfer, args=(peer, endpoint, 50 * MIB))
        thread.start()
        until(lambda: proxied.flows()[0].to_endpoint > MIB)
        proxied.lan.detach()
        threading.Event().wait(2.0)
        assert thread.is_alive()
        proxied.lan.attach()
        thread.join()


def test_what_a_peer_sent_before_it_ended_waits_for_the_absent_endpoint(
    proxied: Proxied,
) -> None:
    endpoint, peer = endpoint_and_peer(proxied)
    endpoint.sendall(b"request")
    endpoint.shutdown(socket.SHUT_WR)
    assert receive(peer, 100) == b"request"
    proxied.lan.detach()
    peer.sendall(b"y" * (MIB // 8))
    peer.close()
    until(lambda: proxied.flows()[0].state is Phase.CLOSING)
    proxied.lan.attach()
    with endpoint:
        assert receive(endpoint, MIB) == b"y" * (MIB // 8)
    until(lambda: proxied.counters().open == 0)
    assert proxied.tally()[Outcome.FINISHED] == 1


def test_a_peers_reset_waits_behind_its_bytes_for_the_absent_endpoint(
    proxied: Proxied,
) -> None:
    endpoint, peer = endpoint_and_peer(proxied)
    proxied.lan.detach()
    peer.sendall(b"y" * (MIB // 8))
    until(lambda: proxied.flows()[0].to_endpoint == MIB // 8)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    until(lambda: proxied.flows()[0].state is Phase.RESETTING)
    proxied.lan.attach()
    with endpoint:
        assert receive(endpoint, MIB // 8) == b"y" * (MIB // 8)
        with pytest.raises(ConnectionResetError):
            endpoint.recv(1)
    until(lambda: proxied.counters().open == 0)
    assert proxied.tally()[Outcome.RESET_BY_PEER] == 1


def test_a_peer_can_connect_to_an_absent_endpoint_and_is_served_when_it_returns(
    proxied: Proxied,
) -> None:
    lan = proxied.lan
    with serve(lan.endpoint, VIP[4]) as listener:
        lan.detach()
        made = []

        def dial() -> None:
            made.append(connect(lan.peer, listener.getsockname()))
            made[0].sendall(b"are you there")

        thread = threading.Thread(target=dial)
        thread.start()
        thread.join()  # connected, although nobody is there
        (flow,) = proxied.flows()
        assert flow.state is Phase.DIALING
        lan.attach()
        far, _ = listener.accept()
        with far, made[0]:
            assert receive(far, 13) == b"are you there"


def test_the_kernel_is_told_to_wait_for_the_endpoint_and_not_to_ask(proxied: Proxied) -> None:
    endpoint, peer = endpoint_and_peer(proxied)
    with endpoint, peer:
        proxied.lan.detach()
        peer.sendall(b"y" * 1000)
        until(lambda: proxied.flows()[0].to_endpoint == 1000)
        legs = proxied.lan.server.run("ss -Htnoe state established").splitlines()
        inner = [leg for leg in legs if f"{VIP[4]}:" in leg.split()[3]]
        outer = [leg for leg in legs if f"{PEER[4]}:" in leg.split()[3]]
        assert len(inner) == len(outer) == 1
        assert "timer:(on" in inner[0]
        assert "timer:(keepalive" not in inner[0]
        assert "timer:(keepalive" in outer[0]


@pytest.mark.parametrize("direction", list(FlowDirection))
def test_a_session_that_is_over_takes_its_connections_along(
    proxied: Proxied, direction: FlowDirection
) -> None:
    endpoint, peer = endpoint_and_peer(proxied, direction)
    with endpoint, peer:
        other = (ip_address("10.99.0.254"),)
        assert proxied.ask(lambda client: client.end_flows(other)) == 0
        assert proxied.counters().open == 1
        proxied.lan.detach()
        peer.sendall(b"for somebody who does not come back")
        vip = (ip_address(VIP[4]),)
        assert proxied.ask(lambda client: client.end_flows(vip)) == 1
        with pytest.raises(ConnectionResetError):
            peer.recv(1)
        until(lambda: proxied.counters().open == 0)
        assert proxied.tally()[Outcome.ABORTED] == 1
