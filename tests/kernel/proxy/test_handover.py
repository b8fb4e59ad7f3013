"""A worker is replaced while connections run through it."""

import contextlib
import hashlib
import socket
import struct
import subprocess
import time
from collections.abc import Iterator

import pytest

from orchestrator.adapters.transparent import allow_descriptors
from orchestrator.core.quantities import Seconds
from orchestrator.core.relay_events import Outcome, Phase
from tests.kernel.proxy.conftest import Proxied
from tests.kernel.proxy.handing import Replaceable, all_go_on, bulk
from tests.kernel.proxy.lan import (
    PATIENCE,
    PEER,
    VIP,
    connect,
    is_reset,
    limited,
    pair,
    receive,
    serve,
    transfer,
    until,
    worker_command,
)

MIB = 1 << 20
FLOWS = 500
STANDSTILL = 10.0
"""Seconds; some 0.1 on a machine that has nothing else to do. What applications bear."""


@pytest.fixture
def replaceable(own_proxied: Proxied) -> Iterator[Replaceable]:
    worker = Replaceable(own_proxied)
    with worker.stack:
        yield worker


# ---- what goes over


def test_bulk_both_ways_goes_on_in_the_next_worker_and_the_next(
    replaceable: Replaceable,
) -> None:
    proxied = replaceable.proxied
    with bulk(proxied) as streams:
        all_go_on(streams)
        before = proxied.flows()
        for _ in range(4):
            predecessor = replaceable.greeting().pid
            inheritance = replaceable.replace()
            assert inheritance.predecessor == predecessor
            assert (inheritance.flows, inheritance.lost) == (2, 0)
            all_go_on(streams)
        after = proxied.flows()
        assert [(f.vip, f.peer, f.direction, f.since) for f in after] == [
            (f.vip, f.peer, f.direction, f.since) for f in before
        ]
    until(lambda: proxied.counters().open == 0)
    counters = proxied.counters()
    assert counters.accepted == 2
    assert counters.to_peer + counters.to_endpoint == sum(stream.sent for stream in streams)
    assert proxied.tally()[Outcome.FINISHED] == 2


def test_hundreds_of_flows_go_over_with_what_they_have_queued(
    replaceable: Replaceable,
) -> None:
    assert allow_descriptors(3 * FLOWS) >= 3 * FLOWS
    proxied = replaceable.proxied
    proxied.configure(limited(octets_per_flow=128 * 1024))
    with contextlib.ExitStack() as stack:
        with serve(proxied.lan.peer, PEER[4]) as listener:
            made = [pair(proxied.lan.endpoint, listener, VIP[4]) for _ in range(FLOWS)]
        for one in made:
            stack.callback(one.close)
        sent = []
        for number, one in enumerate(made):
            one.near.settimeout(0.0)
            octets = hashlib.sha256(str(number).encode()).digest() * 20_000
            sent.append(octets[: one.near.send(octets)])  # nobody reads it yet
        inheritance = replaceable.replace()
        assert (inheritance.flows, inheritance.lost) == (FLOWS, 0)
        assert inheritance.standstill < STANDSTILL
        for number, (one, octets) in enumerate(zip(made, sent, strict=True)):
            assert receive(one.far, len(octets)) == octets, number
            one.far.sendall(b"back")
            one.near.settimeout(PATIENCE)
            assert receive(one.near, 4) == b"back"
    assert len(proxied.flows()) <= FLOWS


def test_a_half_closed_flow_goes_on(replaceable: Replaceable) -> None:
    proxied = replaceable.proxied
    with serve(proxied.lan.peer, PEER[4]) as listener:
        made = pair(proxied.lan.endpoint, listener, VIP[4])
    made.near.sendall(b"request")
    made.near.shutdown(socket.SHUT_WR)
    assert receive(made.far, 100) == b"request"
    assert replaceable.replace().flows == 1
    assert proxied.flows()[0].state is Phase.HALF_CLOSED
    transfer(made.far, made.near, 4 * MIB)
    made.far.close()
    assert made.near.recv(1) == b""
    made.near.close()
    until(lambda: proxied.counters().open == 0)
    assert proxied.tally()[Outcome.FINISHED] == 1


def test_a_dial_goes_on_with_its_deadline(replaceable: Replaceable) -> None:
    proxied = replaceable.proxied
    with serve(proxied.lan.endpoint, VIP[4]) as listener:
        proxied.lan.detach()
        near = connect(proxied.lan.peer, listener.getsockname())
        near.sendall(b"are you there")
        until(lambda: [flow.state for flow in proxied.flows()] == [Phase.DIALING])
        assert replaceable.replace().flows == 1
        assert proxied.flows()[0].state is Phase.DIALING
        proxied.lan.attach()
        far, _ = listener.accept()
        with far, near:
            assert receive(far, 13) == b"are you there"


def test_a_dial_is_given_up_when_it_would_have_been(replaceable: Replaceable) -> None:
    proxied = replaceable.proxied
    proxied.configure(limited(dial_vip_seconds=Seconds(2.0)))
    proxied.lan.detach()
    with connect(proxied.lan.peer, (VIP[4], 9)) as near:
        began = time.monotonic()
        assert replaceable.replace().flows == 1
        with pytest.raises(ConnectionResetError):
            near.recv(1)
        assert time.monotonic() - began < 4.0
    assert proxied.tally()[Outcome.DIAL_FAILED] == 1


def test_what_ended_while_the_endpoint_is_away_waits_in_the_next_worker(
    replaceable: Replaceable,
) -> None:
    """One flow is closing, the other's reset waits behind bytes."""
    proxied = replaceable.proxied
    with serve(proxied.lan.peer, PEER[4]) as listener:
        closing, resetting = (pair(proxied.lan.endpoint, listener, VIP[4]) for _ in range(2))
    closing.near.shutdown(socket.SHUT_WR)
    assert closing.far.recv(1) == b""
    proxied.lan.detach()
    for one in (closing, resetting):
        one.far.sendall(b"y" * (MIB // 8))
    until(lambda: all(flow.to_endpoint == MIB // 8 for flow in proxied.flows()))
    resetting.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    closing.far.close()
    resetting.far.close()
    states = {Phase.CLOSING, Phase.RESETTING}
    until(lambda: {flow.state for flow in proxied.flows()} == states)
    assert replaceable.replace().flows == 2
    assert {flow.state for flow in proxied.flows()} == states
    proxied.lan.attach()
    for one in (closing, resetting):
        assert receive(one.near, MIB // 8) == b"y" * (MIB // 8)
    assert closing.near.recv(1) == b""
    with pytest.raises(ConnectionResetError):
        resetting.near.recv(1)
    until(lambda: proxied.counters().open == 0)
    tally = proxied.tally()
    assert (tally[Outcome.FINISHED], tally[Outcome.RESET_BY_PEER]) == (1, 1)
    closing.near.close()
    resetting.near.close()


def test_the_next_worker_takes_new_connections_with_the_same_settings(
    replaceable: Replaceable,
) -> None:
    proxied = replaceable.proxied
    proxied.configure(limited(flows_per_vip=1))
    with serve(proxied.lan.peer, PEER[4]) as listener:
        made = pair(proxied.lan.endpoint, listener, VIP[4])
        replaceable.replace()
        assert is_reset(proxied.lan.endpoint, listener.getsockname(), VIP[4])
        made.close()
        until(lambda: proxied.counters().open == 0)
        made = pair(proxied.lan.endpoint, listener, VIP[4])
        transfer(made.near, made.far, MIB)
        made.close()


def test_the_last_worker_leaves_no_file_behind(replaceable: Replaceable) -> None:
    replaceable.replace()
    replaceable.stack.close()
    assert list(replaceable.proxied.path.parent.iterdir()) == []


def test_a_second_worker_is_refused_after_a_handover_too(replaceable: Replaceable) -> None:
    replaceable.replace()
    second = subprocess.run(
        worker_command(replaceable.proxied.path), capture_output=True, text=True, check=False
    )
    assert second.returncode == 3
