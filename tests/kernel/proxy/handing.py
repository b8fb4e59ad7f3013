"""What tests of a handover share: a worker that is replaced, and traffic that notices all."""

import contextlib
import hashlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.services.proxy_client import ProxyClient
from orchestrator.wire.proxy_control import (
    Greeting,
    Inheritance,
)
from tests.kernel.proxy.conftest import Proxied
from tests.kernel.proxy.lan import (
    PATIENCE,
    PEER,
    VIP,
    pair,
    serve,
    until,
    worker_command,
)

MIB = 1 << 20


@contextlib.contextmanager
def successor(proxied: Proxied, path: Path | None = None) -> Iterator["subprocess.Popen[str]"]:
    """A new worker takes over from the one that is there; it has when it says ready, which it
    does before the block begins, or it ended."""
    ready, its = os.pipe()
    command = [*worker_command(path or proxied.path), "--take-over", "--ready-fd", str(its)]
    with proxied.lan.server.entered():
        process = subprocess.Popen(command, pass_fds=(its,), stderr=subprocess.PIPE, text=True)
    os.close(its)
    try:
        assert os.read(ready, 16) in (b"ready\n", b"")
        yield process
    finally:
        os.close(ready)
        process.terminate()
        process.communicate(timeout=PATIENCE)


@dataclass
class Replaceable:
    """A worker that is replaced now and then."""

    proxied: Proxied
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def replace(self) -> Inheritance:
        process = self.stack.enter_context(successor(self.proxied))
        greeting = self.greeting()
        assert greeting.pid == process.pid
        assert greeting.inheritance is not None
        return greeting.inheritance

    def greeting(self) -> Greeting:
        async def greet(client: ProxyClient) -> Greeting:
            return client.greeting

        return self.proxied.ask(greet)


class Stream:
    """Sends one way until it is told to stop; the end must have all that was sent, in order."""

    def __init__(self, sender: socket.socket, receiver: socket.socket) -> None:
        self._ends = (sender, receiver)
        self._stopped = threading.Event()
        self._sent, self._received = hashlib.sha256(), hashlib.sha256()
        self.sent = 0
        self.received = 0
        self._threads = [threading.Thread(target=each) for each in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def ends_well(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        assert self.received == self.sent
        assert self._received.digest() == self._sent.digest()

    def _send(self) -> None:
        sender, _ = self._ends
        random = os.urandom(1 << 16)
        while not self._stopped.is_set():
            chunk = random[: 1 + self.sent % len(random)]
            sender.sendall(chunk)
            self._sent.update(chunk)
            self.sent += len(chunk)
        sender.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        _, receiver = self._ends
        while part := receiver.recv(1 << 16):
            self._received.update(part)
            self.received += len(part)


@contextlib.contextmanager
def bulk(proxied: Proxied, count: int = 2) -> Iterator[list[Stream]]:
    """Connections in the middle of bulk transfers both ways, which must end well."""
    with serve(proxied.lan.peer, PEER[4]) as listener:
        pairs = [pair(proxied.lan.endpoint, listener, VIP[4]) for _ in range(count)]
    streams = [
        Stream(*ends) for one in pairs for ends in ((one.near, one.far), (one.far, one.near))
    ]
    try:
        yield streams
    finally:
        for stream in streams:
            stream.ends_well()
        for one in pairs:
            one.close()


def all_go_on(streams: list[Stream]) -> None:
    before = [stream.received for stream in streams]
    until(
        lambda: all(
            stream.received > was + MIB for stream, was in zip(streams, before, strict=True)
        )
    )
