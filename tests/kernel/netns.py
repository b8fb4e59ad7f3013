"""Network namespaces that exist as long as somebody holds their descriptor."""

import contextlib
import ctypes
import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_CLONE_NEWNET: Final = 0x4000_0000
_HERE: Final = Path("/proc/thread-self/ns/net")
_NO_TENTATIVE_ADDRESSES: Final = Path("/proc/sys/net/ipv6/conf/default/accept_dad")
_PATIENCE: Final = 10.0  # s
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace; gone with its last descriptor, socket and process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def current(cls) -> "Namespace":
        return cls(os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC))

    @classmethod
    def create(cls) -> "Namespace":
        """A new one with lo up, where IPv6 addresses are not tentative first.

        Raises PermissionError where that takes more rights.
        """
        before = cls.current()
        try:
            _check(_libc.unshare(_CLONE_NEWNET))
            created = cls.current()
        finally:
            before.enter()
            before.close()
        with created.entered():
            _NO_TENTATIVE_ADDRESSES.write_text("0")
        created.run("ip link set lo up")
        return created

    @property
    def path(self) -> str:
        """What `ip link set … netns` takes, also from another process."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def enter(self) -> None:
        """Puts this thread into the namespace, and all that it starts."""
        _check(_libc.setns(self._descriptor, _CLONE_NEWNET))

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        before = Namespace.current()
        self.enter()
        try:
            yield
        finally:
            before.enter()
            before.close()

    def run(self, *commands: str) -> str:
        """Runs the commands in here, one after the other; returns what they print."""
        with self.entered():
            return "".join(run(command) for command in commands)

    def ip(self, *commands: str) -> str:
        """Runs `ip` once for all commands: a process costs 30 ms and more in a lab kernel."""
        with self.entered():
            return run("ip -batch -", "\n".join(commands))

    def add_pair(self, link: str, far: str) -> None:
        """A veth pair that carries, without addresses that the kernel would give it later."""
        self.ip(
            f"link add {link} type veth peer name {far}",
            *(f"link set {name} addrgenmode none" for name in (link, far)),
            *(f"link set {name} up" for name in (link, far)),
        )
        deadline = time.monotonic() + _PATIENCE
        while not all(" state UP " in self.run(f"ip link show {name}") for name in (link, far)):
            assert time.monotonic() < deadline, f"{link} does not carry"

    def close(self) -> None:
        os.close(self._descriptor)


def settled(text: str) -> str:
    """What `ip` said, without what the kernel adds or takes away some time after its cause.

    The routes to own addresses come when these are no longer tentative, and a TUN has its
    carrier some time after somebody opened it.
    """
    lines = text.splitlines(keepends=True)
    mine = "".join(line for line in lines if " proto kernel" not in line)
    return mine.replace(" linkdown", "").replace(" tentative", "")


def run(command: str, fed: str = "") -> str:
    """Raises CalledProcessError, with what the command said as a note."""
    done = subprocess.run(
        shlex.split(command), input=fed, capture_output=True, text=True, check=False
    )
    try:
        done.check_returncode()
    except subprocess.CalledProcessError as error:
        error.add_note(done.stderr)
        raise
    return done.stdout


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
