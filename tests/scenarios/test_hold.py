"""What applications and peers send while the endpoint is away waits, and arrives."""

import contextlib
import errno
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from orchestrator.core.quantities import IPAddress
from orchestrator.lab.host import Host
from orchestrator.lab.product import ENDPOINT, SERVER
from orchestrator.lab.serve import ECHO_PORT
from orchestrator.wire.control import Verb
from tests.scenarios.conversation import Conversation
from tests.scenarios.world import LIMIT, PEER, World, eventually, for_a_while

PORT: Final = 7071
DATAGRAMS: Final = 60
"""More than leave at once."""
ABSENCE: Final = 10.0
"""Seconds; the server counts an endpoint as away after seven."""
FLAWED: Final = '[hold]\ndatagram_age = "100ms"\nfreeze = false\n'
"""Without what is shown here."""


@pytest.fixture
def flawed(world: World) -> Iterator[World]:
    """Neither side holds datagrams for long, and nobody keeps applications from giving up."""
    with_all = [side.daemon.config for side in world.sides]
    try:
        for side, config in zip(world.sides, (SERVER, ENDPOINT), strict=True):
            side.kill()
            side.daemon.config = config + FLAWED
            side.start()
        world.server.wait_for("serving")
        world.attached("wifi")
        yield world
    finally:
        for side, config in zip(world.sides, with_all, strict=True):
            side.kill()
            side.daemon.config = config
            side.start()


def away(world: World) -> None:
    """Returns when the server knows, too."""
    world.nowhere()
    eventually(world.server.status, lambda status: status["sessions"]["attached"] == 0)


# UDP and ICMP


@dataclass
class Datagrams:
    """A socket in each of two hosts: numbers go from one to the other."""

    sender: socket.socket
    receiver: socket.socket
    to: tuple[str, int]

    @classmethod
    def between(
        cls, sender: Host, source: IPAddress, receiver: Host, destination: IPAddress
    ) -> "Datagrams":
        made = []
        for host, address in ((sender, source), (receiver, destination)):
            opened = host.inside(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
            opened.bind((str(address), PORT))
            opened.settimeout(2.0)
            made.append(opened)
        return cls(made[0], made[1], (str(destination), PORT))

    def send(self) -> None:
        for number in range(DATAGRAMS):
            self.sender.sendto(struct.pack("!I", number), self.to)

    def received(self) -> list[int]:
        numbers: list[int] = []
        with contextlib.suppress(TimeoutError):
            while len(numbers) < DATAGRAMS:
                numbers.append(struct.unpack("!I", self.receiver.recv(4))[0])
        return numbers

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()


def datagrams(world: World, way: str) -> Datagrams:
    ends = (world.endpoint.host, world.vip), (world.lab.host("peer1"), PEER)
    (one, its), (other, others) = ends if way == "up" else ends[::-1]
    return Datagrams.between(one, its, other, others)


@pytest.mark.parametrize("way", ["up", "down"])
def test_datagrams_arrive_once_and_in_order(world: World, way: str) -> None:
    with contextlib.closing(datagrams(world, way)) as sent, world.nothing_in_clear():
        away(world)
        sent.send()
        for_a_while(2.0)
        world.lab.roam("wifi2")
        assert sent.received() == list(range(DATAGRAMS))


@pytest.mark.parametrize("way", ["up", "down"])
def test_without_the_hold_they_are_lost(flawed: World, way: str) -> None:
    with contextlib.closing(datagrams(flawed, way)) as sent:
        away(flawed)
        sent.send()
        for_a_while(2.0)
        flawed.lab.roam("wifi2")
        assert sent.received() == []


def test_pings_are_answered_in_order_when_the_path_is_back(world: World) -> None:
    away(world)
    command = ["ping", "-n", "-c", "5", "-i", "0.2", "-W", "30", "-I", str(world.vip)]
    pings: list[str] = []
    pinging = threading.Thread(
        target=lambda: pings.append(world.endpoint.run(*command, str(PEER), check=False))
    )
    pinging.start()
    for_a_while(3.0)
    world.lab.roam("lte")
    pinging.join(LIMIT)
    answered = [int(number) for number in re.findall(r"icmp_seq=(\d+)", pings[0])]
    assert answered == [1, 2, 3, 4, 5], pings[0]


# Connections that begin meanwhile


def test_a_connection_opened_while_away_is_there_on_the_return(world: World) -> None:
    away(world)
    opened: socket.socket = world.endpoint.host.inside(socket.socket)
    opened.settimeout(LIMIT)
    dialling = threading.Thread(target=opened.connect, args=((str(PEER), ECHO_PORT),))
    dialling.start()
    for_a_while(3.5)
    assert dialling.is_alive()
    began = time.monotonic()
    world.lab.roam("wifi2")
    dialling.join(LIMIT)
    assert time.monotonic() - began < 3, "its next SYN would have come later"
    with Conversation(opened) as talk:
        talk.goes_on()


def test_a_peer_that_calls_an_absent_endpoint_is_served_on_the_return(world: World) -> None:
    listener = world.endpoint.host.inside(socket.create_server, (str(world.vip), PORT))
    with listener:
        listener.settimeout(LIMIT)
        away(world)
        caller = world.lab.host("peer1").inside(
            socket.create_connection, (str(world.vip), PORT), LIMIT
        )
        with caller:
            caller.sendall(b"are you there?")
            world.lab.roam("lte")
            called, peer = listener.accept()
            with called:
                assert peer[0] == str(PEER)
                called.settimeout(LIMIT)
                assert called.recv(100) == b"are you there?"


# Connections that end meanwhile


@dataclass
class Call:
    """A connection from a peer to the endpoint."""

    peer: socket.socket
    endpoint: socket.socket


@pytest.fixture
def call(world: World) -> Iterator[Call]:
    with world.endpoint.host.inside(socket.create_server, (str(world.vip), PORT)) as listener:
        peer = world.lab.host("peer1").inside(
            socket.create_connection, (str(world.vip), PORT), LIMIT
        )
        endpoint, _ = listener.accept()
    endpoint.settimeout(LIMIT)
    with peer, endpoint:
        yield Call(peer, endpoint)


LAST_WORDS: Final = b"so long" * 10_000


def everything(sock: socket.socket) -> bytes:
    octets = b""
    while received := sock.recv(1 << 20):
        octets += received
    return octets


def test_a_peer_that_closes_meanwhile_is_heard_to_the_end(world: World, call: Call) -> None:
    away(world)
    call.peer.sendall(LAST_WORDS)
    call.peer.close()
    world.lab.roam("wifi2")
    assert everything(call.endpoint) == LAST_WORDS


def test_a_peer_that_half_closes_meanwhile_still_listens(world: World, call: Call) -> None:
    away(world)
    call.peer.sendall(LAST_WORDS)
    call.peer.shutdown(socket.SHUT_WR)
    call.endpoint.sendall(b"wait, ")
    world.lab.roam("wifi2")
    assert everything(call.endpoint) == LAST_WORDS
    call.endpoint.sendall(b"there is more")
    call.endpoint.shutdown(socket.SHUT_WR)
    assert everything(call.peer) == b"wait, there is more"


def test_a_peer_that_resets_meanwhile_resets_after_its_last_words(
    world: World, call: Call
) -> None:
    away(world)
    call.peer.sendall(LAST_WORDS)
    # A reset overtakes what its kernel has not sent yet.
    eventually(
        lambda: world.server.daemon.ask(Verb.FLOWS),
        lambda flows: any(flow["queued_to_endpoint"] == len(LAST_WORDS) for flow in flows),
    )
    call.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    call.peer.close()
    world.lab.roam("wifi2")
    heard = b""
    with pytest.raises(ConnectionResetError):  # noqa: PT012 - wherever in it that comes
        while received := call.endpoint.recv(1 << 20):
            heard += received
    assert heard == LAST_WORDS


# Applications that would give up


IMPATIENT: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
USER_TIMEOUT_MS: Final = 4000


def impatient(world: World, *options: tuple[int, int, int]) -> socket.socket:
    opened: socket.socket = world.endpoint.host.inside(
        socket.create_connection, (str(PEER), ECHO_PORT), LIMIT
    )
    for option in options:
        opened.setsockopt(*option)
    opened.sendall(b"before")
    assert opened.recv(100) == b"before"
    return opened


def test_keepalives_do_not_end_a_connection(world: World) -> None:
    with impatient(world, *IMPATIENT) as opened:
        away(world)
        for_a_while(ABSENCE)
        world.lab.roam("wifi2")
        opened.sendall(b"after")
        assert opened.recv(100) == b"after"


def test_without_the_freeze_they_do(flawed: World) -> None:
    with impatient(flawed, *IMPATIENT) as opened:
        away(flawed)
        for_a_while(ABSENCE)
        flawed.lab.roam("wifi2")
        with pytest.raises(TimeoutError) as caught:
            opened.sendall(b"after")
        assert caught.value.errno == errno.ETIMEDOUT


def test_a_user_timeout_does_not_end_a_connection(world: World) -> None:
    timeout = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    with impatient(world, timeout) as opened:
        away(world)
        opened.sendall(b"meanwhile")
        for_a_while(ABSENCE)
        assert world.endpoint.status()["frozen"] >= 1
        world.lab.roam("wifi2")
        assert opened.recv(100) == b"meanwhile"
        eventually(lambda: opened.getsockopt(*timeout[:2]), lambda ms: ms == USER_TIMEOUT_MS)


def test_without_the_freeze_it_does(flawed: World) -> None:
    timeout = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    with impatient(flawed, timeout) as opened:
        away(flawed)
        opened.sendall(b"meanwhile")
        for_a_while(ABSENCE)
        with pytest.raises(TimeoutError) as caught:
            opened.recv(100)
        assert caught.value.errno == errno.ETIMEDOUT


def test_a_limit_is_put_back_although_the_daemon_was_killed(world: World) -> None:
    timeout = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    with impatient(world, timeout) as opened:
        away(world)
        opened.sendall(b"meanwhile")
        eventually(world.endpoint.status, lambda status: status["frozen"] >= 1)
        world.endpoint.kill()
        for_a_while(1.0)
        world.endpoint.start()
        world.lab.roam("wifi2")
        assert opened.recv(100) == b"meanwhile"
        eventually(lambda: opened.getsockopt(*timeout[:2]), lambda ms: ms == USER_TIMEOUT_MS)
