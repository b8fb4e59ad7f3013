"""A connection to an echo: one thread speaks and listens, and it must end in good order."""

import select
import socket
import threading
from typing import Final, Self

from orchestrator.core.quantities import IPAddress
from orchestrator.lab.background import Background
from orchestrator.lab.host import Host
from orchestrator.lab.serve import ECHO_PORT

CONNECT: Final = 20.0
"""Seconds for the three packets, while much else may happen: four repeated SYNs."""
PAUSE: Final = 0.02
"""Seconds between two looks whether all has come back."""
_READ: Final = 1 << 16


class Echoed(Background):
    """What is said from `with` to its end `_speak` decides; what comes back `_hear` judges."""

    def __init__(self, opened: socket.socket) -> None:
        super().__init__(type(self).__name__.lower())
        self.socket: Final = opened
        self.sent = 0
        """Octets, as `received`."""
        self.received = 0
        self.failure: str | None = None
        self._pending = b""
        """Said, and not sent yet."""
        self._quiet = threading.Event()
        opened.setblocking(False)  # noqa: FBT003 - the standard library's signature

    @classmethod
    def open(cls, host: Host, address: IPAddress | str, port: int = ECHO_PORT) -> Self:
        """Connects from a host as any application would: without naming a source."""
        return cls(host.inside(socket.create_connection, (str(address), port), CONNECT))

    def ends_well(self, limit: float = 30.0) -> None:
        """Says no more; all that was said must have come back, then the peer's FIN comes."""
        self._quiet.set()
        self._thread.join(limit)
        assert self.failure is None, self.failure
        assert not self._thread.is_alive(), f"the echo is incomplete: {self}"
        self.socket.settimeout(limit)
        self.socket.shutdown(socket.SHUT_WR)
        assert self.socket.recv(_READ) == b"", "more came back than was said"

    def _speak(self) -> float:
        """Adds what is due to what is pending; returns for how many seconds nothing more is."""
        raise NotImplementedError

    def _hear(self, octets: bytes) -> str | None:
        """What is wrong with them; None: nothing."""
        raise NotImplementedError

    def _close(self) -> None:
        self.socket.close()

    def _work(self) -> None:
        while not self._stop.is_set() and not self._is_complete():
            pause = PAUSE if self._quiet.is_set() else self._speak()
            wants = [self.socket] if self._pending else []
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

    def _is_complete(self) -> bool:
        return self._quiet.is_set() and not self._pending and self.received == self.sent

    def _send(self) -> None:
        gone = self.socket.send(self._pending)
        self._pending = self._pending[gone:]
        self.sent += gone

    def _receive(self) -> bool:
        octets = self.socket.recv(_READ)
        wrong = self._hear(octets) if octets else "the peer closed the connection"
        if wrong is not None:
            self.failure = f"{wrong}; {self}"
            return False
        self.received += len(octets)
        return True
