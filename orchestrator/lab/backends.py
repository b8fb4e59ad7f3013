"""Chooses where the lab runs: in this machine's kernel, or in one that we boot as a program.

The choice is made by trying, in namespaces that are thrown away, everything the lab needs.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from orchestrator.core.errors import OrchestratorError
from orchestrator.lab import kernel, uml
from orchestrator.lab.kernel import Progress

NAMES: Final = ("netns", "uml")

_PROBES: Final = {
    "veth": "ip link add probe0 type veth peer name probe1",
    "TUN": "ip tuntap add probe2 mode tun",
    "netem": "ip link set probe0 up; tc qdisc add dev probe0 root netem delay 1ms rate 1mbit",
    "ESP with AES-GCM": "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x101 "
    "mode tunnel aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128",
    "ESP over IPv6": "ip xfrm state add src 2001:db8::1 dst 2001:db8::2 proto esp spi 0x102 "
    "mode tunnel aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128",
    "nftables with TPROXY and secpath": "nft 'table inet probe { chain c { "
    "type filter hook prerouting priority mangle; "
    "meta secpath exists meta l4proto tcp tproxy ip to 127.0.0.1:1 accept; "
    "socket transparent 1 accept; }; chain n { "
    "type nat hook postrouting priority srcnat; masquerade; }; }'",
    "WireGuard": "ip link add probe3 type wireguard",
    "policy routing": "ip rule add fwmark 1 lookup 100; ip -6 rule add fwmark 1 lookup 100",
}
"""Each a line of shell that works where the lab would."""

_PRIVATE: Final = """
    set -eu
    mount -t tmpfs -o mode=755 lab /run
    mount -t tmpfs -o mode=755 lab /mnt
    for folder in etc var/lib root; do
        mkdir -p /mnt/$folder.upper /mnt/$folder.work
        mount -t overlay lab /$folder \
            -o lowerdir=/$folder,upperdir=/mnt/$folder.upper,workdir=/mnt/$folder.work
    done
    ip link set lo up
    hostname lab
    exec "$@"
"""
"""What `guest-init` does for the whole file system, for the folders that a lab writes to."""


class NoBackend(OrchestratorError):
    """The lab cannot run on this machine the way it was asked to."""


class Running(Protocol):
    """A command at work in a backend's kernel."""

    def relay(self) -> int:
        """Passes its output on until it ends; returns its exit code."""

    def kill(self) -> None:
        """Ends it, and all it started, at once."""


@dataclass(frozen=True, slots=True)
class Backend:
    name: str
    reason: str

    def run(self, command: Sequence[str], results: Path | None, say: Progress) -> int:
        """Runs a command as root in the backend's kernel; returns its exit code."""
        if self.name == "uml":
            return uml.run(_kernel_to_boot(say), command, results=results)
        return _Native(command).relay()

    @contextmanager
    def start(
        self,
        module: str,
        results: Path,
        line: socket.socket,
        say: Progress,
    ) -> Iterator[Running]:
        """Runs a Python module, with a line to the outside and a folder as its arguments."""
        command = [sys.executable, "-m", module]
        if self.name == "uml":
            command += [uml.SERIAL_LINE, str(results)]
            with uml.Guest(
                _kernel_to_boot(say), command, results=results, serial=line.fileno()
            ) as guest:
                yield guest
        else:
            native = _Native([*command, str(line.fileno()), str(results)], line.fileno())
            try:
                yield native
            finally:
                native.kill()


def _kernel_to_boot(say: Progress) -> Path:
    found = kernel.provide(say)
    say("the kernel boots")
    return found


class _Native:
    """A command in namespaces of this machine's kernel; it dies with us, and all with it."""

    def __init__(self, command: Sequence[str], *descriptors: int) -> None:
        private = ["--mount", "--pid", "--net", "--uts", "--ipc", "--mount-proc"]
        die_along = ["setpriv", "--pdeathsig=KILL", "unshare", "--fork", "--kill-child"]
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        self._process = subprocess.Popen(
            [*die_along, *private, "sh", "-c", _PRIVATE, "sh", *command],
            env=os.environ | {"PATH": path},
            pass_fds=descriptors,
        )

    def relay(self) -> int:
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def choose(name: str | None = None) -> Backend:
    """The backend `name`, or the one that suits this machine. Raises NoBackend."""
    if name == "uml":
        return Backend("uml", "asked for")
    missing = missing_here()
    if not missing:
        return Backend("netns", "this kernel has all that the lab needs")
    if name == "netns":
        raise NoBackend(f"no lab in this machine's own kernel: {missing}")
    return Backend("uml", f"a kernel of the lab's own, for this one will not do: {missing}")


def missing_here() -> str:
    """What this machine's kernel, or our rights on it, lack for the lab; empty if nothing."""
    if os.geteuid() != 0:
        return "not root"
    script = "".join(
        f"( {probe} ) >/dev/null 2>&1 || echo {name!r}\n" for name, probe in _PROBES.items()
    )
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        return tried.stderr.strip()
    lacks = tried.stdout.splitlines()
    return f"it lacks {', '.join(lacks)}" if lacks else ""
