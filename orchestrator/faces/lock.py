"""One daemon at a time: a lock on a file next to the control socket.

The kernel drops the lock with the process, however that ends. The file stays where it is, and
holds the number of the process that locked it last.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from orchestrator.core.errors import OrchestratorError

TRIES: Final = 10
"""Each try that meets a file which was just deleted (by `cleanup`) costs one."""
PID_LIMIT: Final = 20
"""Octets of the process number in the file."""


class AlreadyRunning(OrchestratorError):
    """Another process has the lock."""

    def __init__(self, path: Path, pid: int | None) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(f"the daemon is running already: {who} has {path}")
        self.remedy = "stop it first: systemctl stop orchestrator"
        self.pid = pid


class CannotLock(OrchestratorError):
    """The file cannot be made, or locked."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"cannot lock {path}: {error.strerror}")
        if isinstance(error, PermissionError):
            self.remedy = "run it as root"


class DaemonLock:
    """Held from `__enter__` to `__exit__`. Raises AlreadyRunning, CannotLock and
    OrchestratorError."""

    def __init__(self, socket: Path) -> None:
        self.path = socket.with_name(f"{socket.name}.lock")
        self._fd = -1

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            for _ in range(TRIES):
                if self._take():
                    return self
        except OSError as error:
            raise CannotLock(self.path, error) from error
        raise OrchestratorError(f"cannot lock {self.path}: somebody keeps deleting it")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)
        self._fd = -1

    def holder(self) -> AlreadyRunning | None:
        """Who else has the lock, as far as we may know. It is tried, for an instant; nothing is
        made or written."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return AlreadyRunning(self.path, _pid(fd))
        finally:
            os.close(fd)
        return None

    def delete(self) -> None:
        """Removes the file while the lock is held; the next daemon makes a new one."""
        self.path.unlink(missing_ok=True)

    def _take(self) -> bool:
        """False: the file was deleted before we had the lock, so that it means nothing."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AlreadyRunning(self.path, _pid(fd)) from error
            ours = os.fstat(fd)
            try:
                there = self.path.stat()
            except FileNotFoundError:
                return False
            if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):
                return False
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            self._fd, fd = fd, -1
        finally:
            if fd >= 0:
                os.close(fd)
        return True


def _pid(fd: int) -> int | None:
    text = os.pread(fd, PID_LIMIT, 0).strip()
    return int(text) if text.isdigit() else None
