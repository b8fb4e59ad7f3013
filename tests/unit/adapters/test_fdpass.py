"""Messages and descriptors between two ends of a socket, and ends that misbehave."""

import os
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from orchestrator.adapters.fdpass import Channel, ChannelEnded, Process
from orchestrator.core.errors import PeerError
from orchestrator.core.quantities import Seconds

MOST = 1 << 20
STEP = Seconds(0.2)


class Ends:
    def __init__(self, whole: float = 10.0) -> None:
        self.sockets = socket.socketpair()
        self.ours, self.its = (
            Channel(sock, MOST, STEP, Seconds(whole)) for sock in self.sockets
        )


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    for sock in ends.sockets:
        sock.close()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the names are descriptors


@contextmanager
def no_room_for_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open("/dev/null") as last:  # noqa: PTH123 - a descriptor is wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_octets_and_open_files_arrive(ends: Ends) -> None:
    reader, writer = os.pipe()
    ends.ours.send(b"take this", (writer,))
    os.close(writer)
    octets, (received,) = ends.its.receive()
    assert octets == b"take this"
    assert not os.get_inheritable(received)
    os.write(received, b"x")
    assert os.read(reader, 10) == b"x"
    os.close(received)
    os.close(reader)


def test_messages_stay_apart(ends: Ends) -> None:
    for octets in (b"", b"one", b"two" * 10_000):
        ends.ours.send(octets)
    assert [ends.its.receive()[0] for _ in range(3)] == [b"", b"one", b"two" * 10_000]


def test_what_was_sent_before_the_end_arrives_then_comes_the_end(ends: Ends) -> None:
    ends.ours.send(b"last words")
    ends.sockets[0].close()
    assert ends.its.receive() == (b"last words", ())
    with pytest.raises(ChannelEnded):
        ends.its.receive()
    with pytest.raises(ChannelEnded):
        ends.its.send(b"are you there")


@pytest.mark.parametrize("octets", [b"\x00", b"\x00\x00\x00\x05abc"])
def test_half_a_message_is_an_end(ends: Ends, octets: bytes) -> None:
    ends.sockets[0].sendall(octets)
    ends.sockets[0].close()
    with pytest.raises(ChannelEnded):
        ends.its.receive()


def test_silence_is_borne_for_a_while(ends: Ends) -> None:
    with pytest.raises(TimeoutError):
        ends.its.receive()


def test_everything_together_has_its_time(ends: Ends) -> None:
    hurried = Ends(whole=0.0)
    with pytest.raises(TimeoutError):
        hurried.ours.send(b"too late")
    for sock in hurried.sockets:
        sock.close()


def test_a_message_that_is_too_long_is_refused_and_its_files_are_closed(ends: Ends) -> None:
    before = open_files()
    socket.send_fds(ends.sockets[0], [struct.pack("!I", MOST + 1)], [0, 1])
    with pytest.raises(PeerError, match="at most are read"):
        ends.its.receive()
    assert open_files() == before


def test_files_that_do_not_fit_are_said_and_none_is_kept(ends: Ends) -> None:
    ends.ours.send(b"many", tuple([0] * 20))
    before = open_files()
    with no_room_for_files(), pytest.raises(PeerError, match="no room for the descriptors"):
        ends.its.receive()
    assert open_files() == before


def test_after_a_refusal_the_other_end_cannot_speak_but_what_it_said_is_heard(
    ends: Ends,
) -> None:
    ends.its.send(b"said before")
    ends.ours.refuse_more()
    with pytest.raises(ChannelEnded):
        ends.its.send(b"said after")
    assert ends.ours.receive()[0] == b"said before"
    with pytest.raises(ChannelEnded):
        ends.ours.receive()


def test_the_end_of_a_process_is_seen() -> None:
    child = os.fork()
    if not child:
        os.read(os.pipe()[0], 1)
        os._exit(0)
    process = Process(child)
    assert not process.has_ended(Seconds(0.05))
    os.kill(child, 9)
    assert process.has_ended(Seconds(5.0))
    process.close()
    os.waitpid(child, 0)
