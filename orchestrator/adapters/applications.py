"""The TCP sockets of this host's applications: which have backed off, and how patient they are.

An application may fix how long what it sent may stay unacknowledged (TCP_USER_TIMEOUT, tcp(7));
otherwise the kernel gives up after net.ipv4.tcp_retries2. No packet from outside can change
that: since Linux 6.10 (and 6.1.100) not even a closed window does (tcp_rtx_probe0_timed_out,
net/ipv4/tcp_timer.c). So the limit itself is lifted while the far end cannot be reached, on a
duplicate of the application's descriptor (pidfd_getfd(2)), and put back afterwards.
"""

import contextlib
import ctypes
import os
import re
import socket
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from orchestrator.core.quantities import IPAddress
from orchestrator.wire.labels import Flow
from orchestrator.wire.segments import TCP

UNLIMITED_MS: Final = 2**31 - 1
"""TCP_USER_TIMEOUT at its maximum, 24.8 days."""
_TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")
_RETRANSMITTING: Final = 1
"""The timer that runs, in these tables (get_tcp4_sock, net/ipv4/tcp_ipv4.c)."""
_LISTENING, _TIME_WAIT = 10, 6
"""TCP states of include/net/tcp_states.h."""
_PIDFD_GETFD: Final = 438
"""The same on all architectures (include/uapi/asm-generic/unistd.h)."""
_SOCKET_LINK: Final = re.compile(r"socket:\[(\d+)\]")
_INFO: Final = 8
"""Octets of struct tcp_info up to and with the window scales: [2] retransmits, [3] probes."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class TcpSocket:
    flow: Flow
    """From this host outwards."""
    inode: int
    """0: no application has it any more."""
    backed_off: bool
    """It has repeated what it sent, without an answer."""


def tcp_sockets(local: Collection[IPAddress]) -> Iterator[TcpSocket]:
    """The connections of the calling network namespace that have one of these addresses."""
    for table in _TABLES:
        try:
            lines = Path(table).read_text().splitlines()
        except OSError:  # a kernel without that family
            continue
        for line in lines[1:]:
            found = _parse(line)
            if found is not None and found.flow.source in local:
                yield found


def _parse(line: str) -> TcpSocket | None:
    """Documentation/networking/proc_net_tcp.rst."""
    fields = line.split()
    if int(fields[3], 16) in (_LISTENING, _TIME_WAIT):
        return None
    source, source_port = _address(fields[1])
    destination, port = _address(fields[2])
    timer, retransmits = int(fields[5].partition(":")[0], 16), int(fields[6], 16)
    return TcpSocket(
        Flow(TCP, source, source_port, destination, port),
        int(fields[9]),
        timer == _RETRANSMITTING and retransmits > 0,
    )


def _address(text: str) -> tuple[IPAddress, int]:
    """Words of 32 bits in host order, as hexadecimal numbers."""
    words, _, port = text.partition(":")
    octets = b"".join(
        int(words[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(words), 8)
    )
    if len(octets) == 4:
        return IPv4Address(octets), int(port, 16)
    address = IPv6Address(octets)
    return address.ipv4_mapped or address, int(port, 16)


def lift(inodes: Collection[int]) -> dict[int, int]:
    """Lifts the time limit of these sockets; what each was before, in ms, by inode.

    0 is the kernel's own. Sockets that nobody has any more, or that we may not touch, are not
    in the answer.
    """
    before: dict[int, int] = {}
    for inode, sock in _held_by_applications(inodes):
        with contextlib.suppress(OSError):
            limit = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNLIMITED_MS)
            before[inode] = limit
    return before


def restore(limits: Mapping[int, int]) -> set[int]:
    """Puts the limits back where everything is acknowledged again; whose still have to wait.

    Earlier, the time of the outage would count at once. A socket whose limit was changed by
    its application meanwhile is left alone.
    """
    waiting: set[int] = set()
    for inode, sock in _held_by_applications(limits.keys()):
        with contextlib.suppress(OSError):
            if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) != UNLIMITED_MS:
                continue
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO)
            if info[2] or info[3]:
                waiting.add(inode)
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limits[inode])
    return waiting


def _held_by_applications(inodes: Collection[int]) -> Iterator[tuple[int, socket.socket]]:
    """Each of these sockets once, on a descriptor of our own that is closed afterwards."""
    missing = set(inodes)
    for process in _processes():
        if not missing:
            return
        for descriptor, inode in _sockets_of(process):
            if inode not in missing:
                continue
            copy = _duplicate(process, descriptor)
            if copy is None:
                continue
            missing.discard(inode)
            with contextlib.closing(socket.socket(fileno=copy)) as sock:
                yield inode, sock


def _processes() -> Iterator[int]:
    own = os.getpid()
    for name in os.listdir("/proc"):  # noqa: PTH208 - thousands of names, no Path for each
        if name.isdigit() and int(name) != own:
            yield int(name)


def _sockets_of(process: int) -> Iterator[tuple[int, int]]:
    """Descriptors and inodes. A process that ends meanwhile has none."""
    folder = f"/proc/{process}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208
            with contextlib.suppress(OSError):
                found = _SOCKET_LINK.fullmatch(os.readlink(f"{folder}/{name}"))  # noqa: PTH115
                if found is not None:
                    yield int(name), int(found[1])


def _duplicate(process: int, descriptor: int) -> int | None:
    """None: the process has ended, closed it, or may not be touched by us."""
    try:
        pidfd = os.pidfd_open(process)
    except OSError:
        return None
    try:
        copy = _libc.syscall(_PIDFD_GETFD, pidfd, descriptor, 0)
    finally:
        os.close(pidfd)
    return None if copy < 0 else int(copy)
