"""Gives each host namespaces of its own, without a process: a thread lives in them.

Network, mount and UTS namespaces belong to a thread, not to a process. Whoever wants
something done inside asks the thread (`inside`): a socket it opens belongs to the host, a
process it starts is born there. The mount namespace hides the folders in which daemons of
different hosts would meet behind empty ones.
"""

import ctypes
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

_CLONE_NEWNS: Final = 0x0002_0000
_CLONE_NEWUTS: Final = 0x0400_0000
_CLONE_NEWNET: Final = 0x4000_0000
_MS_NOSUID: Final = 0x2
_MS_NODEV: Final = 0x4
_MS_BIND: Final = 0x1000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 0x4_0000
_MNT_DETACH: Final = 0x2

PINS: Final = {
    "net": Path("/run/netns"),
    "mnt": Path("/run/lab/mnt"),
    "uts": Path("/run/lab/uts"),
}
"""Where a host's namespaces are bound under its name, for ip-netns and nsenter."""
PRIVATE_FOLDERS: Final = (
    Path("/run"),
    Path("/var/lib/orchestrator"),
    Path("/etc/orchestrator"),
    Path("/etc/swanctl"),
)

_libc: Final = ctypes.CDLL(None, use_errno=True)
P = ParamSpec("P")
T = TypeVar("T")


class NamespaceThread:
    """A thread in namespaces of its own; gone when it ends and nothing runs in them."""

    def __init__(self, name: str, hosts_file: Path) -> None:
        for folder in PRIVATE_FOLDERS:
            folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        try:
            task = self.inside(_enter, name, hosts_file)
            self.network: Final = Path(task, "ns/net").stat().st_ino
            """The inode number that tells this network namespace from others."""
            for kind, folder in PINS.items():
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()
                bind(Path(task, "ns", kind), folder / name)
        except BaseException:
            self.close()
            raise

    def inside(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `act` returns or raises when this host does it; one act at a time."""
        return self._thread.submit(act, *args, **kwargs).result()

    def close(self) -> None:
        for folder in PINS.values():
            _libc.umount2(os.fsencode(folder / self.name), _MNT_DETACH)
            (folder / self.name).unlink(missing_ok=True)
        self._thread.shutdown()


def write_sysctls(settings: dict[str, str]) -> None:
    """Sets what /proc/sys shows to the calling thread, which depends on its namespace."""
    for path, value in settings.items():
        (Path("/proc/sys") / path).write_text(value)


def bind(source: Path, target: Path) -> None:
    """Puts a file or folder in the place of another, for the host that calls it."""
    _mount(str(source), target, "none", _MS_BIND)


def _enter(name: str, hosts_file: Path) -> str:
    """The new home of the calling thread, as a path below /proc."""
    _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWNET), "unshare")
    socket.sethostname(name)
    _mount("none", Path("/"), "none", _MS_REC | _MS_PRIVATE)
    for folder in PRIVATE_FOLDERS:
        _mount("lab", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755")
    # A sysfs shows the network namespace that it was mounted in.
    _mount("lab", Path("/sys"), "sysfs", 0)
    bind(hosts_file, Path("/etc/hosts"))
    return str(Path("/proc/thread-self").resolve())


def _mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    answer = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode(),
        ctypes.c_ulong(flags),
        options.encode(),
    )
    _check(answer, f"mount {target}")


def _check(answer: int, operation: str) -> None:
    if answer != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{operation}: {os.strerror(code)}")
