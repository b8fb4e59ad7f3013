"""The right to be the proxy worker of a path: a lock beside it, and the socket there.

Both are open files, so that a worker can give them to the next: at no instant does the path
belong to nobody, and whoever connects meanwhile waits in the socket's backlog.
"""

import fcntl
import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Seat:
    path: Path
    lock: int
    """descriptor of the locked file"""
    listener: socket.socket

    @classmethod
    def take(cls, path: Path) -> "Seat | None":
        """None if another process has it. A dead socket there is replaced. Raises OSError."""
        lock = _locked(_lock_of(path))
        if lock is None:
            return None
        try:
            return cls(path, lock, _bound(path))
        except BaseException:
            _lock_of(path).unlink(missing_ok=True)
            os.close(lock)
            raise

    def leave(self) -> None:
        """Nobody has it any more, and nothing is left at the path."""
        self.listener.close()
        self.path.unlink(missing_ok=True)
        _lock_of(self.path).unlink(missing_ok=True)
        os.close(self.lock)

    def let_go(self) -> None:
        """Another process has it as well, and keeps it."""
        self.listener.close()
        os.close(self.lock)


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _locked(lock: Path) -> int | None:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # the one before us removed it between our open and our lock


def _bound(path: Path) -> socket.socket:
    """A socket there, mode 0600."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(str(path))
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock
