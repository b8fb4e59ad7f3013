"""A steady stream through an echo: bulk both ways on one connection, and its checksum."""

import select
import socket
import threading
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Self

from orchestrator.core.quantities import IPAddress
from orchestrator.lab.background import Background
from orchestrator.lab.host import Host
from orchestrator.lab.serve import ECHO_PORT, content
from orchestrator.lab.silence import longest_silence
from tests.scenarios.conversation import CONNECT

PIECE: Final = 16 << 10
"""Octets."""
BEAT: Final = 0.1
"""Seconds between two pieces: 1.3 Mbit/s each way leave the lab's one CPU time for more."""
BACKLOG: Final = 1 << 20
"""Octets that wait to be sent, after which nothing is added: as much as applications keep."""
_READ: Final = 1 << 16
_PIECES: Final = content(64 * PIECE)


@dataclass(frozen=True, slots=True)
class Stall:
    """All in seconds."""

    since: float
    """From the beginning of what was looked at."""
    lasted: float

    def __str__(self) -> str:
        return f"{self.lasted:.1f} s from {self.since:.1f} s on"


class Bulk(Background):
    """Pours from `with` to its end."""

    def __init__(self, opened: socket.socket) -> None:
        super().__init__("bulk")
        self.socket: Final = opened
        self.sent = 0
        self.received = 0
        self.arrivals: list[float] = []
        """When something came; seconds of CLOCK_MONOTONIC."""
        self.failure: str | None = None
        self._pieces = 0
        self._pending = b""
        self._hashes = {"sent": sha256(), "received": sha256()}
        self._quiet = threading.Event()
        opened.setblocking(False)  # noqa: FBT003 - the standard library's signature

    @classmethod
    def open(cls, host: Host, address: IPAddress | str, port: int = ECHO_PORT) -> Self:
        return cls(host.inside(socket.create_connection, (str(address), port), CONNECT))

    def _close(self) -> None:
        self.socket.close()

    def ends_well(self, limit: float = 60.0) -> None:
        """All that was sent has come back, once and in order, and then the peer's FIN."""
        self._quiet.set()
        self._thread.join(limit)
        assert self.failure is None, self.failure
        assert not self._thread.is_alive(), f"the echo is incomplete: {self}"
        digests = {name: each.hexdigest() for name, each in self._hashes.items()}
        assert digests["sent"] == digests["received"], f"not what was sent: {self}"
        self.socket.settimeout(limit)
        self.socket.shutdown(socket.SHUT_WR)
        assert self.socket.recv(_READ) == b"", "more came back than was sent"

    def longest_stall(self, begin: float, end: float) -> "Stall":
        silent, heard = longest_silence(self.arrivals, begin, end)
        return Stall(silent - begin, heard - silent)

    def __str__(self) -> str:
        return f"{self.sent} octets sent, {self.received} received"

    def _work(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            if self._quiet.is_set() and not self._pending and self.received == self.sent:
                return
            now = time.monotonic()
            if now >= due and not self._quiet.is_set() and len(self._pending) < BACKLOG:
                begin = self._pieces % 64 * PIECE
                self._pending += self._pieces.to_bytes(8) + _PIECES[begin : begin + PIECE - 8]
                self._pieces += 1
                due = max(due + BEAT, now)
            wants = [self.socket] if self._pending else []
            pause = BEAT if self._quiet.is_set() else max(due - now, BEAT / 10)
            readable, writable, _ = select.select([self.socket], wants, [], pause)
            try:
                if writable:
                    self._send()
                if readable and not self._receive():
                    return
            except BlockingIOError:
                continue
            except OSError as error:
                self.failure = f"the connection broke: {error}; {self}"
                return

    def _send(self) -> None:
        gone = self.socket.send(self._pending)
        self._hashes["sent"].update(self._pending[:gone])
        self._pending = self._pending[gone:]
        self.sent += gone

    def _receive(self) -> bool:
        octets = self.socket.recv(_READ)
        if not octets:
            self.failure = f"the peer closed the connection; {self}"
            return False
        self._hashes["received"].update(octets)
        self.received += len(octets)
        self.arrivals.append(time.monotonic())
        return True
