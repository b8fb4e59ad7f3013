"""The TCP sockets of this host's applications: which have backed off, how patient they are, and
whether they send a window in one burst.

An application may fix how long what it sent may stay unacknowledged (TCP_USER_TIMEOUT, tcp(7));
otherwise the kernel gives up after net.ipv4.tcp_retries2. No packet from outside can change
that: since Linux 6.10 (and 6.1.100) not even a closed window does (tcp_rtx_probe0_timed_out,
net/ipv4/tcp_timer.c). So the limit itself is lifted while the far end cannot be reached, on a
duplicate of the application's descriptor (pidfd_getfd(2)), and put back afterwards.

In the same way a socket is made to pace what it sends. A sender that learns after an outage
that nearly all had arrived has its old window back at once, and would send it as one burst:
into the queue of the link, in front of what was lost and is sent again. How fast a socket paces
it takes from its round trip. That may have become as long as the outage: an octet that arrived
before it, and was never repeated, is acknowledged after it. So whoever measures such a thing
does not pace.
"""

import contextlib
import ctypes
import os
import re
import socket
import struct
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
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
_MAPPED: Final = bytes(10) + b"\xff\xff"
"""What an IPv4 address has before it as one of IPv6 (RFC 4291, 2.5.5.2)."""
_LISTENING, _TIME_WAIT = 10, 6
"""TCP states of include/net/tcp_states.h."""
_PIDFD_GETFD: Final = 438
"""The same on all architectures (include/uapi/asm-generic/unistd.h)."""
_SOCKET_LINK: Final = re.compile(r"socket:\[(\d+)\]")
_INFO: Final = struct.Struct("=2xBB20xI40xI")
"""Of struct tcp_info: retransmits, probes, segments unacknowledged, round trip in us."""
_LONGEST_RTT_US: Final = 1_000_000
"""Longer than any round trip there is, by satellite, too."""

_SO_MAX_PACING_RATE: Final = 47
"""include/uapi/asm-generic/socket.h; Python 3.11 has no name for it."""
_RATE: Final = struct.Struct("@L")
_NO_LIMIT: Final = 2 ** (8 * _RATE.size) - 1
"""Octets/s, as large as unsigned long has them: what a socket begins with."""
_NOT_PACED: Final = 0
"""This limit the kernel takes for none, and it does not pace (tcp_update_skb_after_send,
net/ipv4/tcp_output.c); but it sends in small pieces meanwhile (tcp_tso_autosize)."""

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
    sources = {address.packed for address in local}
    for table in _TABLES:
        try:
            lines = Path(table).read_text().splitlines()
        except OSError:  # a kernel without that family
            continue
        for line in lines[1:]:
            found = _parse(line)
            if found is not None and found.flow.source in sources:
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


def _address(text: str) -> tuple[bytes, int]:
    """From words of 32 bits in host order, as hexadecimal numbers; in network order."""
    words, _, port = text.partition(":")
    octets = b"".join(
        int(words[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(words), 8)
    )
    return octets.removeprefix(_MAPPED), int(port, 16)


def lift(inodes: Collection[int]) -> dict[int, int]:
    """Lifts the time limit of these sockets, and has them pace; the limits from before, in ms,
    by inode.

    0 is the kernel's own. Sockets that nobody has any more, or that we may not touch, are not
    in the answer.
    """
    before: dict[int, int] = {}
    for inode, sock in _held_by_applications(inodes):
        with contextlib.suppress(OSError):
            limit = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNLIMITED_MS)
            before[inode] = limit
            _pace(sock)
    return before


def unpace(inodes: Collection[int]) -> None:
    """Has these sockets not pace, until their limits are put back."""
    for _, sock in _held_by_applications(inodes):
        with contextlib.suppress(OSError):
            _pace(sock, _NOT_PACED)


def _pace(sock: socket.socket, limit: int = _NO_LIMIT) -> None:
    """Has TCP spread a window over the round trip that it has measured, for good.

    Any limit of the rate switches that on, and no limit does not switch it off again
    (SO_MAX_PACING_RATE: sk_setsockopt, net/core/sock.c). A socket whose application has set a
    limit paces already, and is left alone.
    """
    found = sock.getsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, _RATE.size)
    if found in (_RATE.pack(_NO_LIMIT), _RATE.pack(_NOT_PACED)):
        for rate in (_NO_LIMIT - 1, limit):
            sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, _RATE.pack(rate))


def restore(limits: Mapping[int, int]) -> set[int]:
    """Puts the limits back where everything is acknowledged again; whose still have to wait.

    Earlier, the time of the outage would count at once. A socket whose limit was changed by
    its application meanwhile is left alone. One that sends and has taken the outage for its
    round trip does not pace, and waits until it knows better.
    """
    waiting: set[int] = set()
    for inode, sock in _held_by_applications(limits.keys()):
        with contextlib.suppress(OSError):
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
            retransmits, probes, unacknowledged, rtt_us = _INFO.unpack(info)
            misled = unacknowledged and rtt_us > _LONGEST_RTT_US
            _pace(sock, _NOT_PACED if misled else _NO_LIMIT)
            if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) != UNLIMITED_MS:
                continue
            if retransmits or probes or misled:
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
