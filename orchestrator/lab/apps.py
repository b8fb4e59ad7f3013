"""Two real applications on the endpoint, and what they live through: curl and ssh.

Each is one process with one TCP connection; it ends well only if that connection lasted. What
it receives is timed as it comes, so that an outage is what the application saw, not what the
network did.
"""

import hashlib
import re
import subprocess
import threading
import time
from typing import IO, Final

from orchestrator.core.quantities import IPAddress
from orchestrator.lab.host import Host
from orchestrator.lab.peers import Peers
from orchestrator.lab.silence import first_arrival, longest_silence

_CHUNK: Final = 65536
KEYSTROKE: Final = 0.05
"""Seconds between two lines of the interactive session: a fast typist's key repeat."""
_JOIN: Final = 5.0


class _Timed:
    """Reads a pipe to its end in a thread; remembers when something came."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.arrivals: list[float] = []
        self.received = 0
        self._pipe = pipe
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while chunk := self._pipe.read1(_CHUNK):  # type: ignore[attr-defined]
            self.arrivals.append(time.monotonic())
            self.received += len(chunk)
            self.take(chunk)

    def take(self, chunk: bytes) -> None:
        """What came, in order."""

    def join(self) -> None:
        self._thread.join(_JOIN)

    def longest_silence(self, begin: float, end: float) -> tuple[float, float]:
        """The longest time without anything new between two instants: when it began and
        when it ended."""
        return longest_silence(self.arrivals, begin, end)

    def first_since(self, instant: float) -> float | None:
        """When something came at or after an instant; None: nothing has."""
        return first_arrival(self.arrivals, instant)


class Download:
    """curl fetches the peer's file."""

    def __init__(self, host: Host, peers: Peers, peer: IPAddress) -> None:
        self._expected = peers.sha256
        self._process = host.popen(
            [
                "curl", "--silent", "--show-error", "--no-buffer", "--max-time", "600",
                "--write-out", "%{stderr}connects=%{num_connects}\n", Peers.url(peer),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        if self._process.stdout is None:
            raise RuntimeError("popen gave no pipe")
        self.output = _Hashed(self._process.stdout)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def done(self) -> bool:
        return self._process.poll() is not None

    def result(self, limit: float) -> tuple[bool, int]:
        """Whether every byte came once and in order, and how often curl had to connect."""
        try:
            self._process.wait(limit)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.output.join()
        told = self._process.stderr.read() if self._process.stderr is not None else b""
        connects = re.search(rb"connects=(\d+)", told)
        return (
            self._process.returncode == 0 and self.output.sha256 == self._expected,
            int(connects[1]) if connects else 0,
        )


class _Hashed(_Timed):
    def __init__(self, pipe: IO[bytes]) -> None:
        self._hash = hashlib.sha256()
        super().__init__(pipe)

    def take(self, chunk: bytes) -> None:
        self._hash.update(chunk)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


class Session:
    """ssh to the peer, where `cat` answers every line: an interactive session."""

    def __init__(self, host: Host, peers: Peers, peer: IPAddress) -> None:
        self._process = host.popen(
            ["ssh", "-F", str(peers.ssh_config), str(peer), "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if self._process.stdout is None or self._process.stdin is None:
            raise RuntimeError("popen gave no pipes")
        self._input = self._process.stdin
        self.echo = _Lines(self._process.stdout)
        self.typed = 0
        self._stop = threading.Event()
        self._typist = threading.Thread(target=self._type, daemon=True)
        self._typist.start()

    def _type(self) -> None:
        while not self._stop.wait(KEYSTROKE):
            try:
                self._input.write(b"%d\n" % self.typed)
                self._input.flush()
            except (OSError, ValueError):  # it reads no more, or the host closed the pipe
                return
            self.typed += 1

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def result(self, limit: float) -> bool:
        """Whether the one connection lasted and every line came back once and in order."""
        lasted = self.alive
        self._stop.set()
        self._typist.join(_JOIN)
        self._input.close()
        try:
            self._process.wait(limit)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.echo.join()
        return lasted and self._process.returncode == 0 and self.echo.complete(self.typed)


class _Lines(_Timed):
    def __init__(self, pipe: IO[bytes]) -> None:
        self._text = bytearray()
        super().__init__(pipe)

    def take(self, chunk: bytes) -> None:
        self._text += chunk

    def complete(self, typed: int) -> bool:
        return bytes(self._text) == b"".join(b"%d\n" % number for number in range(typed))
