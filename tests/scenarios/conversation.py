"""TCP connections that notice everything: what was said must come back once and in order."""

import select
import socket
import threading
import time
from types import TracebackType
from typing import Final, Self

from orchestrator.core.quantities import IPAddress
from orchestrator.lab.background import Background
from orchestrator.lab.host import Host
from orchestrator.lab.serve import ECHO_PORT

BEAT: Final = 0.02
"""Seconds between two sentences."""
SENTENCE: Final = 64
"""Octets; the first eight number it."""
ON_ITS_WAY: Final = 0.3
"""Seconds that answers take which were given before the silence: an RTT, and slow threads."""
CONNECT: Final = 20.0
"""Seconds for the three packets, while much else may happen: four repeated SYNs."""
_READ: Final = 65536


class Conversation(Background):
    """Speaks to an echo on one TCP connection, from `with` to its end."""

    def __init__(self, opened: socket.socket) -> None:
        super().__init__("conversation")
        self.socket: Final = opened
        self.local: Final = str(opened.getsockname()[0])
        self.said = 0
        """Sentences."""
        self.heard = 0
        """Sentences that came back, all in order."""
        self.failure: str | None = None
        self._heard_at: list[float] = []
        self._pending = b""
        self._received = b""
        self._quiet = threading.Event()
        opened.setblocking(False)  # noqa: FBT003 - the standard library's signature
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @classmethod
    def open(cls, host: Host, address: IPAddress | str, port: int = ECHO_PORT) -> Self:
        """Connects from a host as any application would: without naming a source."""
        return cls(host.inside(socket.create_connection, (str(address), port), CONNECT))

    def _close(self) -> None:
        self.socket.close()

    def goes_on(self, limit: float = 30.0) -> float:
        """Waits until something said from now on has come back; returns how long it took.

        Raises AssertionError when the connection broke, or says nothing for too long.
        """
        began, mark = time.monotonic(), self.said + 1
        while self.heard <= mark:
            assert self.failure is None, self.failure
            waited = time.monotonic() - began
            assert waited < limit, f"silent for {waited:.1f} s: {self}"
            self._stop.wait(BEAT)
        return time.monotonic() - began

    def stays_silent(self, seconds: float) -> None:
        """Raises AssertionError if anything comes back meanwhile, or the connection breaks."""
        self._stop.wait(ON_ITS_WAY)
        before = self.heard
        self._stop.wait(seconds)
        assert self.failure is None, self.failure
        assert self.heard == before, f"{self.heard - before} sentences came back"

    def ends_well(self, limit: float = 30.0) -> None:
        """Says no more; all that was said must have come back, then the peer's FIN comes."""
        self._quiet.set()
        end = time.monotonic() + limit
        while self.heard < self.said and time.monotonic() < end and self.failure is None:
            self._stop.wait(BEAT)
        self._stop.set()
        self._thread.join()
        assert self.failure is None, self.failure
        assert self.heard == self.said, f"the echo is incomplete: {self}"
        self.socket.settimeout(limit)
        self.socket.shutdown(socket.SHUT_WR)
        assert self.socket.recv(_READ) == b"", "more came back than was said"

    def __str__(self) -> str:
        return f"{self.said} sentences said, {self.heard} heard"

    def _work(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            if time.monotonic() >= due and not self._quiet.is_set():
                self._pending += _sentence(self.said)
                self.said += 1
                due = time.monotonic() + BEAT
            wants = [self.socket] if self._pending else []
            pause = BEAT if self._quiet.is_set() else max(due - time.monotonic(), 0)
            readable, writable, _ = select.select([self.socket], wants, [], pause)
            try:
                if writable:
                    self._pending = self._pending[self.socket.send(self._pending) :]
                if readable and not self._read():
                    return
            except BlockingIOError:
                continue
            except OSError as error:
                self.failure = f"the connection broke: {error}; {self}"
                return

    def _read(self) -> bool:
        octets = self.socket.recv(_READ)
        if not octets:
            self.failure = f"the peer closed the connection; {self}"
            return False
        self._received += octets
        while len(self._received) >= SENTENCE:
            if self._received[:SENTENCE] != _sentence(self.heard):
                self.failure = f"not what was said next: {self._received[:8].hex()}; {self}"
                return False
            self._received = self._received[SENTENCE:]
            self.heard += 1
        return True


class Echo:
    """An echo for one connection after the other on an address of a host, in a thread."""

    def __init__(self, host: Host, address: IPAddress, port: int) -> None:
        family = {4: socket.AF_INET, 6: socket.AF_INET6}[address.version]
        self._listener: socket.socket = host.inside(
            socket.create_server, (str(address), port), family=family
        )
        self.clients: list[str] = []
        """Where connections came from."""
        self._thread = threading.Thread(target=self._serve, name="echo", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                client, address = self._listener.accept()
            except OSError:
                return
            self.clients.append(str(address[0]))
            with client:
                try:
                    while octets := client.recv(_READ):
                        client.sendall(octets)
                except OSError:
                    continue


def _sentence(number: int) -> bytes:
    return number.to_bytes(8, "big").ljust(SENTENCE, b".")
