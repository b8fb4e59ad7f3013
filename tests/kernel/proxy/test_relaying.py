"""Real bytes through a real worker: what applications on both sides see."""

import contextlib
import os
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.adapters.transparent import unacknowledged
from orchestrator.core.firewall import server_ruleset
from orchestrator.core.flows import DialFailure, FlowDirection, Refusal, SourcePolicy
from orchestrator.core.relay_events import Outcome, Phase
from tests.kernel.netns import Namespace
from tests.kernel.proxy.conftest import Proxied
from tests.kernel.proxy.lan import (
    OTHER_VIP,
    PEER,
    SERVER,
    VIP,
    Pair,
    is_reset,
    limited,
    load_rules,
    pair,
    receive,
    serve,
    transfer,
    until,
)

MIB = 1 << 20
ON_THE_WAY = 1 << 16
"""Octets that queues on the way take before anybody reads."""
MUCH = 256 * 1024
"""What the endpoint's leg receives though nobody reads, four times what makes a flow bulk."""
BOTH_WAYS = pytest.mark.parametrize("direction", list(FlowDirection))
BOTH_FAMILIES = pytest.mark.parametrize("version", [4, 6])


@contextlib.contextmanager
def connection(
    proxied: Proxied, direction: FlowDirection, version: int = 4, port: int = 0
) -> Iterator[Pair]:
    lan = proxied.lan
    outward = direction is FlowDirection.FROM_ENDPOINT
    client, host, address, source = (
        (lan.endpoint, lan.peer, PEER[version], VIP[version])
        if outward
        else (lan.peer, lan.endpoint, VIP[version], PEER[version])
    )
    with serve(host, address) as listener:
        made = pair(client, listener, source, port)
        try:
            yield made
        finally:
            made.close()


def linger(sock: socket.socket) -> None:
    """close() will send an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@BOTH_WAYS
@BOTH_FAMILIES
def test_carries_bytes_both_ways_and_keeps_the_source(
    proxied: Proxied, direction: FlowDirection, version: int
) -> None:
    with connection(proxied, direction, version) as made:
        assert made.seen == made.near.getsockname()[:2]
        made.near.sendall(b"question")
        assert made.far.recv(100) == b"question"
        made.far.sendall(b"answer")
        assert made.near.recv(100) == b"answer"
        (record,) = proxied.flows()
    assert record.direction is direction
    assert str(record.vip.host) == VIP[version]
    assert str(record.peer.host) == PEER[version]
    assert record.state is Phase.OPEN
    assert {record.to_peer, record.to_endpoint} == {len(b"question"), len(b"answer")}
    assert record.queued_to_peer == record.queued_to_endpoint == 0


@BOTH_WAYS
def test_carries_20_mb_each_way_at_once(proxied: Proxied, direction: FlowDirection) -> None:
    with connection(proxied, direction) as made, ThreadPoolExecutor() as threads:
        there = threads.submit(transfer, made.near, made.far, 20 * MIB)
        back = threads.submit(transfer, made.far, made.near, 20 * MIB)
        there.result()
        back.result()


def test_bulk_goes_through_a_pipe_and_small_messages_do_not(own_proxied: Proxied) -> None:
    with connection(own_proxied, FlowDirection.FROM_ENDPOINT) as made:
        made.near.sendall(b"question")
        assert made.far.recv(100) == b"question"
        before = pipes_of(own_proxied)
        # Much arrives at a time, however slow this machine is.
        os.kill(own_proxied.pid, signal.SIGSTOP)
        try:
            made.near.sendall(b"!" * MUCH)
            until(lambda: unacknowledged(made.near) == 0)
        finally:
            os.kill(own_proxied.pid, signal.SIGCONT)
        assert receive(made.far, MUCH) == b"!" * MUCH
        until(lambda: pipes_of(own_proxied) == before + 1)
        transfer(made.near, made.far, 20 * MIB)
        # An urgent byte stops a pipe; it passes as ever, and what comes behind it.
        made.near.send(b"!", socket.MSG_OOB)
        made.near.sendall(b"answer")
        assert receive(made.far, 7) == b"!answer"
        transfer(made.near, made.far, MIB)


def pipes_of(proxied: Proxied) -> int:
    """Those of which the worker has both ends."""
    ends = Counter(target.name for target in proxied.descriptors().values())
    return sum(name.startswith("pipe:") and count == 2 for name, count in ends.items())


def test_uses_the_servers_address_where_the_lan_has_no_route_to_vips(proxied: Proxied) -> None:
    proxied.configure(limited(source=SourcePolicy.SERVER))
    with connection(proxied, FlowDirection.FROM_ENDPOINT) as made:
        assert made.seen[0] == SERVER[4]
        transfer(made.near, made.far, MIB)


def test_relays_between_two_endpoints(own_proxied: Proxied) -> None:
    lan = own_proxied.lan
    # Both live in one namespace here; what it sends to the pool must go over the wire.
    lan.endpoint.run(
        "ip rule del priority 0",
        "ip rule add priority 0 iif vip0 lookup local",
        "ip rule add priority 1 to 10.99.0.0/24 lookup 100",
        "ip rule add priority 2 lookup local",
        "ip route add default via 192.0.2.1 dev vip0 onlink table 100",
        "sysctl -qw net.ipv4.conf.all.accept_local=1",
    )
    with serve(lan.endpoint, OTHER_VIP) as listener:
        made = pair(lan.endpoint, listener, VIP[4])
        transfer(made.near, made.far, MIB)
        (record,) = own_proxied.flows()
        assert (str(record.vip.host), str(record.peer.host)) == (VIP[4], OTHER_VIP)
        made.close()


@BOTH_WAYS
def test_passes_a_fin_on_after_the_bytes_and_the_other_way_stays_open(
    proxied: Proxied, direction: FlowDirection
) -> None:
    with connection(proxied, direction) as made:
        made.near.sendall(b"x" * ON_THE_WAY)
        made.near.shutdown(socket.SHUT_WR)
        assert len(receive(made.far, ON_THE_WAY)) == ON_THE_WAY
        assert made.far.recv(1) == b""
        (record,) = proxied.flows()
        assert record.state is Phase.HALF_CLOSED
        transfer(made.far, made.near, MIB)
        made.far.shutdown(socket.SHUT_WR)
        assert made.near.recv(1) == b""
    until(lambda: proxied.counters().open == 0)
    assert proxied.tally()[Outcome.FINISHED] == 1


@BOTH_WAYS
def test_passes_a_reset_on(proxied: Proxied, direction: FlowDirection) -> None:
    for first, second in ((0, 1), (1, 0)):
        with connection(proxied, direction) as made:
            ends = (made.near, made.far)
            linger(ends[first])
            ends[first].close()
            with pytest.raises(ConnectionResetError):
                ends[second].recv(1)
    until(lambda: proxied.counters().open == 0)


def test_a_refusal_reaches_the_endpoint_as_a_reset_at_once(proxied: Proxied) -> None:
    with serve(proxied.lan.peer, PEER[4]) as listener:
        nobody = listener.getsockname()
    begun = time.monotonic()
    assert is_reset(proxied.lan.endpoint, nobody)
    assert time.monotonic() - begun < 1.0
    assert proxied.tally()[DialFailure.REFUSED] == 1


def test_a_silent_peer_is_given_up_in_bounded_time(proxied: Proxied) -> None:
    proxied.configure(limited(dial_seconds=1.0))
    # An address of the LAN that answers no ARP is unreachable after three seconds of asking.
    assert is_reset(proxied.lan.endpoint, ("10.50.0.77", 80))
    assert proxied.tally()[DialFailure.TIMED_OUT] == 1


def test_nobody_can_make_the_proxy_dial_a_place_that_makes_no_sense(proxied: Proxied) -> None:
    assert is_reset(proxied.lan.server, ("127.0.0.1", 11110))
    assert proxied.tally()[Refusal.FOREIGN] == 1
    assert proxied.counters().open == 0


def test_a_flow_beyond_the_limit_of_a_vip_is_reset_and_the_others_go_on(
    proxied: Proxied,
) -> None:
    proxied.configure(limited(flows_per_vip=2))
    with (
        connection(proxied, FlowDirection.FROM_ENDPOINT) as first,
        connection(proxied, FlowDirection.TO_ENDPOINT) as second,
    ):
        with serve(proxied.lan.peer, PEER[4]) as listener:
            assert is_reset(proxied.lan.endpoint, listener.getsockname())
            assert proxied.tally()[Refusal.VIP_FULL] == 1
            pair(proxied.lan.endpoint, listener, OTHER_VIP).close()
        transfer(first.near, first.far, MIB)
        transfer(second.near, second.far, MIB)


def test_a_flow_beyond_the_limit_of_the_server_is_reset(proxied: Proxied) -> None:
    proxied.configure(limited(flows=1))
    with (
        connection(proxied, FlowDirection.FROM_ENDPOINT),
        serve(proxied.lan.peer, PEER[4]) as listener,
    ):
        assert is_reset(proxied.lan.endpoint, listener.getsockname(), OTHER_VIP)
        assert proxied.tally()[Refusal.SERVER_FULL] == 1


def test_an_urgent_byte_is_a_byte_of_the_stream(proxied: Proxied) -> None:
    with connection(proxied, FlowDirection.FROM_ENDPOINT) as made:
        made.near.sendall(b"before")
        made.near.send(b"!", socket.MSG_OOB)
        made.near.sendall(b"after")
        assert receive(made.far, 12) == b"before!after"


def syns_to_connect_again(proxied: Proxied) -> int:
    """From the same port, while the proxy's socket of the first time is in TIME_WAIT."""
    with serve(proxied.lan.peer, PEER[4]) as listener:
        first = pair(proxied.lan.endpoint, listener, VIP[4])
        port = first.near.getsockname()[1]
        first.far.close()  # so the proxy sends the first FIN towards the endpoint
        assert first.near.recv(1) == b""
        first.near.close()
        until(lambda: proxied.counters().open == 0)
        assert f"{VIP[4]}:{port}" in proxied.lan.server.run("ss -Htan state time-wait")
        before = retransmissions(proxied.lan.endpoint)
        second = pair(proxied.lan.endpoint, listener, VIP[4], port)
        syns = 1 + retransmissions(proxied.lan.endpoint) - before
        transfer(second.near, second.far, MIB)
        second.close()
    return syns


def retransmissions(namespace: Namespace) -> int:
    with namespace.entered():
        names, values = [
            line.split()
            for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()
            if line.startswith("Tcp:")
        ]
    return int(values[names.index("RetransSegs")])


def test_a_syn_that_hits_time_wait_is_answered(proxied: Proxied) -> None:
    assert syns_to_connect_again(proxied) == 1


def test_it_would_be_lost_if_syns_took_the_short_cut_too(proxied: Proxied) -> None:
    careful = "tcp flags & (syn | ack) != syn socket transparent 1"
    rules = server_ruleset(proxied.lan.firewall)
    assert careful in rules
    load_rules(proxied.lan.server, rules.replace(careful, "socket transparent 1"))
    assert syns_to_connect_again(proxied) > 1
