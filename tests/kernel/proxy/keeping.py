"""What tests of limits share: a peer that sends until nothing is taken, and who reads it."""

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.adapters.transparent import unacknowledged
from orchestrator.core.flows import ProxySettings, SpoolSettings
from tests.kernel.proxy.conftest import Proxied
from tests.kernel.proxy.lan import PEER, VIP, limited, pair, receive, serve, until

KIB = 1 << 10
MIB = 1 << 20
LIMIT = 512 * KIB
"""Of a flow, in memory."""
STANDSTILL = 1.5
"""Seconds in which nothing is taken any more; the worker looks each second who is away."""
ENOUGH = 60.0
"""Seconds for what takes some of these, on a busy machine."""
PORTION = 64 * KIB
RECEIVED = LIMIT // 4
"""What the kernel takes of a flow that is not read."""


def octets(count: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(count)


@dataclass
class Sender:
    """Sends what it has, as far as it is taken."""

    sock: socket.socket
    content: bytes
    sent: int = 0

    def pour(self) -> None:
        """Until all is taken, or nothing is for a while."""
        self.sock.settimeout(STANDSTILL)
        with contextlib.suppress(TimeoutError):
            while self.sent < len(self.content):
                self.sent += self.sock.send(self.content[self.sent : self.sent + 64 * KIB])

    @property
    def acknowledged(self) -> int:
        return self.sent - unacknowledged(self.sock)

    @property
    def done(self) -> bool:
        return self.acknowledged == len(self.content)


@dataclass
class Stuck:
    """Connections from an endpoint to the peer, which sends on all of them."""

    endpoints: list[socket.socket] = field(default_factory=list)
    senders: list[Sender] = field(default_factory=list)

    @property
    def acknowledged(self) -> int:
        return sum(sender.acknowledged for sender in self.senders)

    def pour(self) -> None:
        threads = [threading.Thread(target=sender.pour) for sender in self.senders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def pour_until(self, condition: Callable[[], bool]) -> None:
        """Pours again and again: somebody may begin to take more only after a while."""

        def pour_and_look() -> bool:
            self.pour()
            return condition()

        until(pour_and_look, ENOUGH)

    def all_arrives(self) -> None:
        """What was sent so far; then each connection goes on, both ways."""
        for endpoint, sender in zip(self.endpoints, self.senders, strict=True):
            assert receive(endpoint, sender.sent) == sender.content[: sender.sent]
        for endpoint, sender in zip(self.endpoints, self.senders, strict=True):
            sender.sock.settimeout(10.0)
            sender.sock.sendall(b"and on")
            assert receive(endpoint, 6) == b"and on"
            endpoint.sendall(b"and back")
            assert receive(sender.sock, 8) == b"and back"


@contextlib.contextmanager
def stuck(
    proxied: Proxied, count: int = 1, size: int = 4 * MIB, vip: str = VIP[4]
) -> Iterator[Stuck]:
    made = Stuck()
    with contextlib.ExitStack() as stack:
        with serve(proxied.lan.peer, PEER[4]) as listener:
            for number in range(count):
                ends = pair(proxied.lan.endpoint, listener, vip)
                stack.callback(ends.close)
                made.endpoints.append(ends.near)
                made.senders.append(Sender(ends.far, octets(size, number)))
        yield made


def spooling(
    folder: Path,
    per_flow: int = 64 * MIB,
    per_vip: int = 256 * MIB,
    in_all: int = 512 * MIB,
) -> ProxySettings:
    spool = SpoolSettings(str(folder), per_flow, per_vip, in_all)
    return limited(octets_per_flow=LIMIT, spool=spool)
