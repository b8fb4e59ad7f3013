"""Passes messages and open descriptors to another process, over a unix socket that both have.

A message is its length (4 octets, network order) and its octets; descriptors travel with the
length. Calls block, each for a bounded time, and all of them together: who uses this has
nothing else to do meanwhile.

What a process had sent when it died arrives all the same; then comes the end.
"""

import array
import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Final

from orchestrator.core.errors import PeerError
from orchestrator.core.quantities import Seconds

MOST_DESCRIPTORS: Final = 253
"""In one message (SCM_MAX_FD of include/net/scm.h)."""
_LENGTH: Final = struct.Struct("!I")
_RIGHTS: Final = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)
_UCRED: Final = struct.Struct("3i")
"""struct ucred of include/linux/socket.h: pid, uid, gid."""


class ChannelEnded(PeerError):
    """The other process is gone, or has closed its end."""


class Channel:
    """One end; both ends speak in turns. Closing it is the caller's."""

    def __init__(
        self, sock: socket.socket, most_octets: int, step: Seconds, whole: Seconds
    ) -> None:
        """A message has at most `most_octets`. A call takes at most `step`, and none is begun
        later than `whole` from now."""
        self._sock = sock
        self._most = most_octets
        self._step = step
        self._end = time.monotonic() + whole

    def send(self, octets: bytes, descriptors: Sequence[int] = ()) -> None:
        """The other process gets copies of `descriptors`, at most `MOST_DESCRIPTORS`.

        Raises ChannelEnded; TimeoutError if it does not read; OSError if the kernel has no room
        for descriptors on their way.
        """
        length = _LENGTH.pack(len(octets))
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        self._hurry()
        try:
            self._sock.sendmsg([length], [rights] if descriptors else [])
            self._sock.sendall(octets)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelEnded("the other process is gone") from error

    def receive(self) -> tuple[bytes, tuple[int, ...]]:
        """A message, and the descriptors that came with it, which are the caller's to close.

        Raises ChannelEnded; TimeoutError; PeerError for a message that is too long, or whose
        descriptors do not fit into this process. Then no descriptor is left open.
        """
        descriptors: list[int] = []
        try:
            return self._exactly(self._length(descriptors)), tuple(descriptors)
        except BaseException:
            close_all(descriptors)
            raise

    def refuse_more(self) -> None:
        """From now on the other process cannot send; what it has sent can still be received.

        Its next `send` raises ChannelEnded.
        """
        self._end = time.monotonic() + self._step  # nothing is waited for any more
        with contextlib.suppress(OSError):  # it is gone
            self._sock.shutdown(socket.SHUT_RD)

    def _length(self, descriptors: list[int]) -> int:
        self._hurry()
        try:
            # Not socket.recv_fds(), which does not pass the flags on (Python 3.11).
            octets, rights, flags, _ = self._sock.recvmsg(
                _LENGTH.size, _RIGHTS, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError as error:
            raise ChannelEnded("the other process is gone") from error
        for _level, _kind, numbers in rights:
            arrived = array.array("i")
            arrived.frombytes(numbers[: len(numbers) - len(numbers) % arrived.itemsize])
            descriptors += arrived
        if flags & socket.MSG_CTRUNC:
            raise PeerError("this process has no room for the descriptors it was given")
        if len(octets) < _LENGTH.size:
            octets += self._exactly(_LENGTH.size - len(octets))
        length = int(_LENGTH.unpack(octets)[0])
        if length > self._most:
            raise PeerError(f"a message of {length} octets, {self._most} at most are read")
        return length

    def _exactly(self, count: int) -> bytes:
        octets = bytearray(count)
        rest = memoryview(octets)
        while rest:
            self._hurry()
            try:
                got = self._sock.recv_into(rest)
            except ConnectionResetError as error:
                raise ChannelEnded("the other process is gone") from error
            if not got:
                raise ChannelEnded("the other process is gone")
            rest = rest[got:]
        return bytes(octets)

    def _hurry(self) -> None:
        left = min(self._step, self._end - time.monotonic())
        if left <= 0:
            raise TimeoutError("the other process takes too long")
        self._sock.settimeout(left)


def close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def peer_is_root(sock: socket.socket) -> bool:
    """Whether who connected this unix socket was root then (unix(7), SO_PEERCRED)."""
    octets = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(octets)[1]) == 0


class Process:
    """Another process, whoever gets its number later (pidfd_open(2)). Raises OSError if it is
    gone already."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)

    def has_ended(self, within: Seconds) -> bool:
        """Waits for its end at most so long."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(within * 1000))

    def close(self) -> None:
        os.close(self._descriptor)
