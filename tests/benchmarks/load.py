"""Applications that load a proxy: a peer that serves, and a client that measures.

The peer does what the first octet of a connection asks for:

    D  sends for ever;
    E  echoes messages of 64 octets;
    C  echoes one, and closes.

Each side is one process with one epoll. Neither looks at what it receives: the proxy's work is
to be measured, and they share the cores with it.
"""

import errno
import multiprocessing
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from tests.kernel.netns import Namespace

MESSAGE: Final = 64
"""Octets of a request, and of its answer: less than any proxy waits for."""
SETTLE: Final = 0.4
"""Seconds in which windows open before anything is counted."""
AT_ONCE: Final = 16
"""Connections that the client opens at a time."""
_PORTION: Final = bytes(256 * 1024)
_MOST: Final = 1 << 20
"""Octets that one read takes; with MSG_TRUNC they are not copied (tcp(7))."""
_EVENTS: Final = 256
_PATIENCE: Final = 20.0

_fork: Final = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Measured:
    """What the client saw. `amount` is in octets, round trips or connections."""

    amount: int
    seconds: float
    latencies_us: tuple[float, ...] = ()
    """Of each round trip."""

    @property
    def rate(self) -> float:
        return self.amount / self.seconds


class Process:
    """A function in a process of its own, in a namespace."""

    def __init__(
        self, namespace: Namespace, run: Callable[..., None], *arguments: object
    ) -> None:
        self.pipe, its = _fork.Pipe()
        with namespace.entered():
            self._process = _fork.Process(target=run, args=(its, *arguments), daemon=True)
            self._process.start()
        its.close()

    def answer(self) -> Any:
        """The next thing that it says. Raises TimeoutError, EOFError."""
        if not self.pipe.poll(_PATIENCE):
            raise TimeoutError("a process of the load says nothing")
        return self.pipe.recv()

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


# ---- the peer


def peer(pipe: Connection, address: str, port: int) -> None:
    """Serves for ever; says so when it listens."""
    listener = socket.create_server((address, port), backlog=4096)
    listener.settimeout(0.0)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    asked: dict[int, tuple[socket.socket, bytes]] = {}
    pipe.send("listening")
    while True:
        for descriptor, _ in epoll.poll(maxevents=_EVENTS):
            if descriptor == listener.fileno():
                _take(listener, epoll, asked)
                continue
            sock, kind = asked[descriptor]
            kind, stays = _serve(sock, kind)
            if not stays:
                del asked[descriptor]
                sock.close()
            elif kind != asked[descriptor][1]:
                asked[descriptor] = sock, kind
                if kind == b"D":
                    epoll.modify(descriptor, select.EPOLLOUT)


def _take(
    listener: socket.socket, epoll: select.epoll, asked: dict[int, tuple[socket.socket, bytes]]
) -> None:
    with suppress(BlockingIOError):
        while True:
            sock, _ = listener.accept()
            sock.settimeout(0.0)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asked[sock.fileno()] = sock, b""
            epoll.register(sock, select.EPOLLIN)


def _serve(sock: socket.socket, kind: bytes) -> tuple[bytes, bool]:
    """What it is asked for by now, and whether the connection goes on."""
    try:
        if kind == b"D":
            sock.send(_PORTION)
            return kind, True
        received = sock.recv(4096)
        kind = kind or received[:1]
        if kind != b"D":
            sock.sendall(received)
    except BlockingIOError:
        return kind, True
    except OSError:
        return kind, False
    return kind, bool(received) and kind != b"C"


# ---- the client


def client(pipe: Connection, to: tuple[str, int]) -> None:
    """Does what it is told: (case, connections, seconds); answers with what it measured."""
    while True:
        case, connections, seconds = pipe.recv()
        pipe.send(_CASES[case](to, connections, seconds))


def _open(to: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(_PATIENCE)
    sock.connect(to)
    return sock


def _bulk(to: tuple[str, int], connections: int, seconds: float) -> Measured:
    epoll = select.epoll()
    socks: dict[int, socket.socket] = {}
    for _ in range(connections):
        sock = _open(to)
        sock.sendall(b"D")
        sock.settimeout(0.0)
        socks[sock.fileno()] = sock
        epoll.register(sock, select.EPOLLIN)
    begins = time.monotonic() + SETTLE
    ends, amount, began = begins + seconds, 0, 0.0
    while (now := time.monotonic()) < ends:
        if not began and now >= begins:
            amount, began = 0, now
        for descriptor, _ in epoll.poll(0.1):
            with suppress(BlockingIOError):
                amount += _drop(socks[descriptor])
    for sock in socks.values():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    return Measured(amount, now - began)


_scratch: Final = bytearray(_MOST)


def _drop(sock: socket.socket) -> int:
    """Takes what is there; how many octets."""
    count = sock.recv_into(_scratch, _MOST, socket.MSG_TRUNC)
    if not count:
        raise ConnectionResetError(errno.ECONNRESET, "the download ended")
    return count


def _round_trips(to: tuple[str, int], connections: int, seconds: float) -> Measured:
    epoll = select.epoll()
    message = b"E" + bytes(MESSAGE - 1)
    socks, sent = {}, {}
    for _ in range(connections):
        sock = _open(to)
        socks[sock.fileno()] = sock
        epoll.register(sock, select.EPOLLIN)
    clock = time.monotonic
    for descriptor, sock in socks.items():
        sent[descriptor] = clock()
        sock.sendall(message)
    begins = clock() + SETTLE
    ends = begins + seconds
    latencies: list[float] = []
    while (now := clock()) < ends:
        for descriptor, _ in epoll.poll(0.1):
            sock = socks[descriptor]
            # 64 octets never come in parts: they were sent at once, with nothing before them.
            sock.recv(MESSAGE)
            now = clock()
            if now >= begins:
                latencies.append(1e6 * (now - sent[descriptor]))
            sent[descriptor] = now
            sock.sendall(message)
    for sock in socks.values():
        sock.close()
    return Measured(len(latencies), now - begins, tuple(latencies))


def _connects(to: tuple[str, int], connections: int, seconds: float) -> Measured:
    """Opens, asks, is answered, and hears the end: so many at a time."""
    epoll = select.epoll()
    message = b"C" + bytes(MESSAGE - 1)
    standing: dict[int, socket.socket] = {}
    done = 0

    def begin() -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(BlockingIOError):
            sock.connect(to)
        standing[sock.fileno()] = sock
        epoll.register(sock, select.EPOLLOUT)

    for _ in range(connections):
        begin()
    clock = time.monotonic
    begins = clock() + SETTLE
    ends, began = begins + seconds, 0.0
    while (now := clock()) < ends:
        if not began and now >= begins:
            done, began = 0, now
        for descriptor, mask in epoll.poll(0.1):
            sock = standing[descriptor]
            if mask & select.EPOLLOUT:
                sock.send(message)
                epoll.modify(descriptor, select.EPOLLIN)
                continue
            if sock.recv(MESSAGE):
                continue
            del standing[descriptor]
            sock.close()
            done += 1
            begin()
    for sock in standing.values():
        sock.close()
    return Measured(done, now - began)


_CASES: Final[dict[str, Callable[[tuple[str, int], int, float], Measured]]] = {
    "bulk": _bulk,
    "rr": _round_trips,
    "connect": _connects,
}
