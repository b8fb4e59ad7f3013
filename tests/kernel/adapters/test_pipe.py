"""Octets through pipes of the real kernel, from socket to socket."""

import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from orchestrator.adapters.pipe import MOST_FREE, MOST_PIPES, Pipe, Pipes
from tests.kernel.netns import Namespace

KIB = 1024
PATIENCE = 10.0
"""Seconds for what takes none, on a busy machine."""
Sockets = tuple[socket.socket, socket.socket]


def tcp_pair(namespace: Namespace) -> Sockets:
    with namespace.entered(), socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for sock in (near, far):
        sock.settimeout(0.0)
    return near, far


@pytest.fixture
def namespace(make_namespace: Callable[[], Namespace]) -> Namespace:
    return make_namespace()


@pytest.fixture
def source(namespace: Namespace) -> Iterator[Sockets]:
    """Who sends, and where it arrives."""
    near, far = tcp_pair(namespace)
    yield near, far
    near.close()
    far.close()


@pytest.fixture
def destination(namespace: Namespace) -> Iterator[Sockets]:
    """Where it goes to, and who receives."""
    near, far = tcp_pair(namespace)
    yield near, far
    near.close()
    far.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def arrives(sock: socket.socket) -> None:
    """Waits until there is something to read, or the end."""
    assert select.select((sock,), (), (), PATIENCE)[0]


def test_carries_octets_from_socket_to_socket_in_order(
    pipe: Pipe, source: Sockets, destination: Sockets
) -> None:
    octets = os.urandom(100 * KIB)
    left, received = memoryview(octets), b""
    while len(received) < len(octets):
        with suppress(BlockingIOError):  # what was sent has not arrived, or nothing fits in
            left = left[source[0].send(left) :] if left else left
        with suppress(BlockingIOError):
            if not len(pipe):
                assert 0 < pipe.fill(source[1], 64 * KIB) <= 64 * KIB
            pipe.drain(destination[0])
        with suppress(BlockingIOError):
            received += destination[1].recv(64 * KIB)
    assert received == octets


def test_keeps_what_the_destination_does_not_take(
    pipe: Pipe, source: Sockets, destination: Sockets
) -> None:
    with suppress(BlockingIOError):
        while True:  # until it is full
            destination[0].send(bytes(64 * KIB))
    source[0].sendall(b"x" * 1000)
    arrives(source[1])
    assert pipe.fill(source[1], 64 * KIB) == len(pipe) == 1000
    with pytest.raises(BlockingIOError):
        pipe.drain(destination[0])
    assert pipe.take() == b"x" * 1000
    assert len(pipe) == 0


def test_says_that_nothing_is_there_and_then_the_end(pipe: Pipe, source: Sockets) -> None:
    with pytest.raises(BlockingIOError):
        pipe.fill(source[1], KIB)
    source[0].close()
    arrives(source[1])
    assert pipe.fill(source[1], KIB) == 0


def test_urgent_data_is_not_passed_over(pipe: Pipe, source: Sockets) -> None:
    source[1].setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    source[0].send(b"!", socket.MSG_OOB)
    select.select((), (), (source[1],), PATIENCE)
    with pytest.raises(BlockingIOError):
        pipe.fill(source[1], KIB)
    assert source[1].recv(KIB) == b"!"


def test_a_process_has_so_many_and_gets_them_back() -> None:
    pipes = Pipes()
    taken = [pipe for _ in range(MOST_PIPES + 1) if (pipe := pipes.get()) is not None]
    assert len(taken) == MOST_PIPES
    for pipe in taken:
        pipes.put(pipe)
    assert pipes.get() in taken[:MOST_FREE]
    for pipe in taken[:MOST_FREE]:
        pipe.close()


def test_one_that_holds_something_is_not_given_to_the_next(source: Sockets) -> None:
    pipes = Pipes()
    first = pipes.get()
    assert first is not None
    source[0].sendall(b"of another connection")
    arrives(source[1])
    first.fill(source[1], KIB)
    pipes.put(first)
    second = pipes.get()
    assert second is not None
    assert second is not first
    assert second.take() == b""
    pipes.put(second)
    pipes.close()
