"""Keeps octets in files that nobody else can open, and that no crash leaves behind.

A file is unlinked in the moment it was made: it lives as long as a descriptor of it. A process
killed in between leaves a name, which the next one removes.

Octets are kept in chunks, each behind its length and a checksum. A file system that accepts
octets and cannot write them later gives back others, or none, and may not say so: what does not
have its checksum is lost, and nobody gets it.
"""

import contextlib
import errno
import os
import secrets
import stat
import struct
import zlib
from pathlib import Path
from typing import Final

from orchestrator.core.errors import KernelError, OrchestratorError
from orchestrator.core.flows import LARGEST_QUEUE

HEADER: Final = struct.Struct("!II")
"""Length, and CRC-32 of the octets begun with their place in the file, so that a chunk of
another place is none here."""
_PREFIX: Final = "flow-"
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class SpoolLost(OrchestratorError):
    """What was kept cannot be had back."""


class SpoolFolder:
    """Where spools are made; root's alone."""

    def __init__(self, path: Path) -> None:
        """Makes it if it is not there, and removes what a killed process left in it.

        Raises KernelError if that cannot be, or if somebody else may write there.
        """
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = path.stat()
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
                raise PermissionError(errno.EPERM, "somebody else may write there")
            for left in path.glob(f"{_PREFIX}*"):
                left.unlink(missing_ok=True)
        except OSError as error:
            raise _translated(error, "use", path) from error

    def create(self) -> "Spool":
        """An empty one. Raises KernelError."""
        path = self.path / f"{_PREFIX}{secrets.token_hex(8)}"
        try:
            descriptor = os.open(path, _FLAGS, 0o600)
        except OSError as error:
            raise _translated(error, "create", path) from error
        with contextlib.suppress(FileNotFoundError):  # a starting process took it for left over
            path.unlink()
        return Spool(descriptor)


class Spool:
    """First in, first out. Belongs to who opened it, until `close`."""

    __slots__ = ("_descriptor", "head", "tail")

    def __init__(self, descriptor: int, head: int = 0, tail: int = 0) -> None:
        self._descriptor = descriptor
        self.head = head
        """where in the file the next chunk to be taken begins"""
        self.tail = tail
        """octets on disk, those that were taken included"""

    def fileno(self) -> int:
        return self._descriptor

    def append(self, octets: bytes | memoryview) -> int:
        """At most LARGEST_QUEUE of them; how many octets more are on disk.

        Raises KernelError (ENOSPC, EDQUOT, EIO): nothing was kept.
        """
        length = len(octets)
        header = HEADER.pack(length, zlib.crc32(octets, self.tail & 0xFFFFFFFF))
        try:
            written = os.pwritev(self._descriptor, (header, octets), self.tail)
        except OSError as error:
            raise _translated(error, "append to", "a spool") from error
        if written < HEADER.size + length:
            with contextlib.suppress(OSError):  # what stands behind the tail counts for nothing
                os.ftruncate(self._descriptor, self.tail)
            raise KernelError(errno.ENOSPC, "append to", "a spool", "the disk is full")
        self.tail += written
        return written

    def take(self) -> bytes:
        """The oldest chunk. Raises SpoolLost: there is none, or it is not what was appended."""
        end = self.head + HEADER.size
        try:
            header = os.pread(self._descriptor, HEADER.size, self.head)
            length, checksum = HEADER.unpack(header)
            octets = os.pread(self._descriptor, min(length, LARGEST_QUEUE), end)
        except (OSError, struct.error) as error:
            raise SpoolLost(f"a spool cannot be read at octet {self.head}: {error}") from error
        if len(octets) != length or zlib.crc32(octets, self.head & 0xFFFFFFFF) != checksum:
            raise SpoolLost(f"a spool has other octets than it was given, at {self.head}")
        self.head = end + length
        return octets

    def close(self) -> None:
        """What is in it is gone, unless another process has it."""
        os.close(self._descriptor)


def opened(descriptor: int, head: int, tail: int) -> Spool:
    """One that another process made. Raises OSError if it is not a file with so much in it."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or not 0 <= head < tail <= found.st_size:
        raise OSError(errno.EINVAL, "no spool, or not with what should be in it")
    return Spool(descriptor, head, tail)


def _translated(error: OSError, operation: str, what: Path | str) -> KernelError:
    return KernelError(error.errno or 0, operation, str(what), error.strerror or "")
