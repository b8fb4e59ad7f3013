"""A steady stream through an echo: bulk both ways on one connection, and its checksum."""

import socket
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from orchestrator.lab.serve import content
from orchestrator.lab.silence import longest_silence
from tests.scenarios.echoed import Echoed

PIECE: Final = 16 << 10
"""Octets."""
BEAT: Final = 0.1
"""Seconds between two pieces: 1.3 Mbit/s each way leave the lab's one CPU time for more."""
BACKLOG: Final = 1 << 20
"""Octets that wait to be sent, after which nothing is added: as much as applications keep."""
_PIECES: Final = content(64 * PIECE)


@dataclass(frozen=True, slots=True)
class Stall:
    """All in seconds."""

    since: float
    """From the beginning of what was looked at."""
    lasted: float

    def __str__(self) -> str:
        return f"{self.lasted:.1f} s from {self.since:.1f} s on"


class Bulk(Echoed):
    """Pours from `with` to its end."""

    def __init__(self, opened: socket.socket) -> None:
        super().__init__(opened)
        self.arrivals: list[float] = []
        """When something came; seconds of CLOCK_MONOTONIC."""
        self._pieces = 0
        self._due = time.monotonic()
        self._said, self._heard = sha256(), sha256()

    def ends_well(self, limit: float = 60.0) -> None:
        super().ends_well(limit)
        assert self._heard.digest() == self._said.digest(), f"not what was sent: {self}"

    def longest_stall(self, begin: float, end: float) -> "Stall":
        silent, heard = longest_silence(self.arrivals, begin, end)
        return Stall(silent - begin, heard - silent)

    def __str__(self) -> str:
        return f"{self.sent} octets sent, {self.received} received"

    def _speak(self) -> float:
        now = time.monotonic()
        if now >= self._due and len(self._pending) < BACKLOG:
            begin = self._pieces % 64 * PIECE
            piece = self._pieces.to_bytes(8) + _PIECES[begin : begin + PIECE - 8]
            self._said.update(piece)
            self._pending += piece
            self._pieces += 1
            self._due = max(self._due + BEAT, now)
        return max(self._due - now, BEAT / 10)

    def _hear(self, octets: bytes) -> str | None:
        self._heard.update(octets)
        self.arrivals.append(time.monotonic())
        return None
