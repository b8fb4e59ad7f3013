"""Pipes through which bulk goes from one socket to another without a copy (splice(2)).

A pipe is empty before it is filled, and what it holds is in the order in which it came. The
kernel counts its room in fragments, not in octets: whoever fills it says how much it takes.
"""

import fcntl
import os
import socket
from typing import Final

PIPE_OCTETS: Final = 256 * 1024
"""Room for 64 fragments: as many as two full trains of segments have. A pipe takes memory only
for what it holds."""
MOST_PIPES: Final = 256
"""Of a process: as many as are likely to be bulk at a time; two descriptors each."""
MOST_FREE: Final = 16
"""Kept for the next ones that need one."""
_HOW: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Pipe:
    """`len` is the number of octets that it holds."""

    __slots__ = ("_held", "_reader", "_writer")

    def __init__(self) -> None:
        """Raises OSError."""
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._held = 0
        try:
            fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, PIPE_OCTETS)
        except OSError:
            self.close()
            raise

    def __len__(self) -> int:
        return self._held

    def fill(self, source: socket.socket, most: int) -> int:
        """So many octets, `most` at most, come from the socket; 0: its end.

        The pipe must be empty. Raises BlockingIOError when there is nothing, or urgent data is
        next, which splice(2) does not take; OSError.
        """
        self._held = os.splice(source.fileno(), self._writer, most, flags=_HOW)
        return self._held

    def drain(self, destination: socket.socket) -> int:
        """So many octets go to the socket. Raises BlockingIOError, OSError."""
        count = os.splice(self._reader, destination.fileno(), self._held, flags=_HOW)
        self._held -= count
        return count

    def take(self) -> bytes:
        """All that it holds."""
        octets = bytearray()
        while self._held:
            part = os.read(self._reader, self._held)
            self._held -= len(part)
            octets += part
        return bytes(octets)

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


class Pipes:
    """Those of a process."""

    def __init__(self) -> None:
        self._free: list[Pipe] = []
        self._made = 0

    def get(self) -> Pipe | None:
        """An empty one; None: there are enough, or the kernel has none."""
        if self._free:
            return self._free.pop()
        if self._made >= MOST_PIPES:
            return None
        try:
            pipe = Pipe()
        except OSError:
            return None
        self._made += 1
        return pipe

    def put(self, pipe: Pipe) -> None:
        """It is needed no more, nor what it holds."""
        if len(pipe) or len(self._free) >= MOST_FREE:
            pipe.close()
            self._made -= 1
        else:
            self._free.append(pipe)

    def close(self) -> None:
        """Those that nobody has."""
        for pipe in self._free:
            pipe.close()
        self._made -= len(self._free)
        self._free.clear()
