"""TCP connections that notice everything: what was said must come back once and in order."""

import socket
import threading
import time
from types import TracebackType
from typing import Final, Self

from orchestrator.core.quantities import IPAddress
from orchestrator.lab.host import Host
from tests.scenarios.echoed import Echoed

BEAT: Final = 0.02
"""Seconds between two sentences."""
SENTENCE: Final = 64
"""Octets; the first eight number it."""
ON_ITS_WAY: Final = 0.3
"""Seconds that answers take which were given before the silence: an RTT, and slow threads."""
_READ: Final = 65536


class Conversation(Echoed):
    """Speaks to an echo on one TCP connection, from `with` to its end."""

    def __init__(self, opened: socket.socket) -> None:
        super().__init__(opened)
        self.local: Final = str(opened.getsockname()[0])
        self.said = 0
        """Sentences."""
        self.heard = 0
        """Sentences that came back, all in order."""
        self._due = time.monotonic()
        self._begun = b""
        """Of a sentence whose end has not come back yet."""
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

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

    def __str__(self) -> str:
        return f"{self.said} sentences said, {self.heard} heard"

    def _speak(self) -> float:
        if time.monotonic() >= self._due:
            self._pending += _sentence(self.said)
            self.said += 1
            self._due = time.monotonic() + BEAT
        return max(self._due - time.monotonic(), 0)

    def _hear(self, octets: bytes) -> str | None:
        self._begun += octets
        while len(self._begun) >= SENTENCE:
            if self._begun[:SENTENCE] != _sentence(self.heard):
                return f"not what was said next: {self._begun[:8].hex()}"
            self._begun = self._begun[SENTENCE:]
            self.heard += 1
        return None


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
