"""Opens sockets with other hosts' addresses: the connection proxy's ends of its flows.

IP_TRANSPARENT lets a listener receive what nftables' `tproxy` gives it, whatever address that
was sent to (getsockname() then is the original destination), and lets an outbound socket speak
with an address that is not this host's.
"""

import array
import contextlib
import errno
import fcntl
import resource
import socket
import struct
import sys
import termios
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, NamedTuple

from orchestrator.core.errors import KernelError
from orchestrator.core.flows import DialFailure, LegTuning, SocketAddress
from orchestrator.core.quantities import IPAddress, Seconds

BACKLOG: Final = 4096
"""The kernel's own ceiling by default (net.core.somaxconn)."""
MOST_SYNS: Final = 127
"""As many as the kernel allows: the caller's deadline ends a dial, not a count."""
SILENT_AFTER: Final = 2
"""Answers missed in a row; the second comes some 0.6 s after a far end went, RTT 20 ms."""
# include/uapi/linux/{in,in6}.h, include/uapi/asm-generic/socket.h; Python 3.11 has no names.
_IP_TRANSPARENT: Final = 19
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_IPV6_TRANSPARENT: Final = 75
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_LOOPBACK: Final[dict[int, IPAddress]] = {4: IPv4Address("127.0.0.1"), 6: IPv6Address("::1")}
_TCP_REPAIR: Final = 19
_TCP_REPAIR_QUEUE: Final = 20
_TCP_QUEUE_SEQ: Final = 21
_REPAIR_ON, _REPAIR_OFF, _REPAIR_OFF_NO_PROBE = 1, 0, -1
_RECEIVE_QUEUE: Final = 1
_SEND_QUEUE: Final = 2
_TCP_TIMESTAMP: Final = 24
_TCP_REPAIR_WINDOW: Final = 29
_WINDOW: Final = struct.Struct("=IIIII")
"""struct tcp_repair_window: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup"""
_SIOCOUTQNSD: Final = 0x894B
_INFO_OCTETS: Final = 60
_STATE, _RETRANSMITS, _PROBES, _BACKOFF, _OPTIONS, _SCALES = 0, 2, 3, 4, 5, 6
"""Where they are in struct tcp_info (include/uapi/linux/tcp.h)."""
_SND_MSS_AT, _SACKED_AT, _LAST_ACK_AT = 16, 28, 56
_NUMBER: Final = struct.Struct("=I")
_SENDING: Final = (1, 8)
"""TCP_ESTABLISHED, TCP_CLOSE_WAIT"""
_HAS_TIMESTAMPS: Final = 1
_MOST_WINDOW: Final = 0xFFFF
_PARTLY: Final = 1 << 16
"""Octets of its first packet that the kernel may still have though they were acknowledged."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

_FAILURES: Final = {
    errno.ECONNREFUSED: DialFailure.REFUSED,
    errno.ECONNRESET: DialFailure.REFUSED,
    errno.ENETUNREACH: DialFailure.UNREACHABLE,
    errno.EHOSTUNREACH: DialFailure.UNREACHABLE,
    errno.ENETDOWN: DialFailure.UNREACHABLE,
    errno.EHOSTDOWN: DialFailure.UNREACHABLE,
    errno.ETIMEDOUT: DialFailure.TIMED_OUT,
    errno.EPERM: DialFailure.FORBIDDEN,
    errno.EACCES: DialFailure.FORBIDDEN,
}


def dial_failure(code: int) -> DialFailure:
    """What an errno of connect() means to people."""
    return _FAILURES.get(code, DialFailure.OTHER)


def listen(version: int, port: int, tuning: LegTuning) -> socket.socket:
    """A transparent listener on loopback. Raises KernelError.

    On loopback, because a wildcard would clash with outbound sockets on the same port number.
    The buffers are set before listening: accepted sockets inherit them with their window scale.
    """
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    where = SocketAddress(_LOOPBACK[version], port)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _make_transparent(sock)
        tune(sock, tuning)
        sock.bind(_plain(where))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise KernelError(
            error.errno or 0, "listen on", f"{where.host} port {port}", error.strerror or ""
        ) from error
    return sock


def accept(
    listener: socket.socket,
) -> tuple[socket.socket, SocketAddress, SocketAddress] | None:
    """A connection, who opened it, and where it was meant to go; None: none is waiting.

    Raises OSError (EMFILE, ENFILE, ENOMEM) when there is one and it cannot be taken.
    """
    while True:
        try:
            sock, client = listener.accept()
            sock.settimeout(0.0)
            return sock, _address(client), _address(sock.getsockname())
        except BlockingIOError:
            return None
        except OSError as error:
            # The client went away between its SYN and our accept.
            if error.errno not in (errno.ECONNABORTED, errno.EPROTO, errno.ENOTCONN):
                raise


def dial(
    to: SocketAddress, source: SocketAddress | None, tuning: LegTuning
) -> socket.socket | DialFailure:
    """A socket on its way to `to`: it becomes writable, or has an error. None as source: our
    own address; else that address, with that port if it is free, else any."""
    if source is not None:
        outcome = _dial_from(to, source, tuning)
        if outcome not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
            return outcome if isinstance(outcome, socket.socket) else dial_failure(outcome)
        source = SocketAddress(source.host, 0)
    outcome = _dial_from(to, source, tuning)
    return outcome if isinstance(outcome, socket.socket) else dial_failure(outcome)


def _dial_from(
    to: SocketAddress, source: SocketAddress | None, tuning: LegTuning
) -> socket.socket | int:
    """The socket, or the errno."""
    family = socket.AF_INET if to.host.version == 4 else socket.AF_INET6
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        return error.errno or errno.EMFILE
    try:
        tune(sock, tuning)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, MOST_SYNS)
        if source is not None:
            _make_transparent(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if not source.port:
                sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind(_plain(source))
        sock.connect(_plain(to))
    except BlockingIOError:
        return sock
    except OSError as error:
        sock.close()
        return error.errno or errno.EIO
    return sock


def tune(sock: socket.socket, tuning: LegTuning) -> None:
    """Bounded buffers, no delay of small segments, and how long silence is borne."""
    # The kernel doubles what it is told, for its overhead; FORCE goes beyond net.core.*mem_max.
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, tuning.receive // 2)
    sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, tuning.send // 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, tuning.user_timeout_ms)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, tuning.keepalive)
    # An urgent byte is a byte of the stream: without this it would be taken out of it.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def reset(sock: socket.socket) -> None:
    """Closes with an RST; what was not acknowledged is forgotten."""
    with contextlib.suppress(OSError):  # it may be gone already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()


def unread(sock: socket.socket) -> int:
    """Octets that arrived and were not read."""
    return _ask(sock, termios.FIONREAD)


def unacknowledged(sock: socket.socket) -> int:
    """Octets written and not acknowledged, a FIN counting as one (tcp(7), SIOCOUTQ)."""
    return _ask(sock, termios.TIOCOUTQ)


def backoff(sock: socket.socket) -> int:
    """How often its retransmission timer has doubled in vain; 0: it has not."""
    info = _tcp_info(sock)
    return info[_BACKOFF] if info[_RETRANSMITS] else 0


def far_end_is_silent(sock: socket.socket) -> bool:
    """Whether it has sent the same more than once, or asked for a window, and nobody answered.

    A far end that is there and does not read answers, so it is not silent.
    """
    info = _tcp_info(sock)
    return max(info[_RETRANSMITS], info[_PROBES]) >= SILENT_AFTER


def awaits_window(sock: socket.socket) -> bool:
    """Whether it has something to send, and asks in vain if the far end has room for it."""
    return bool(_tcp_info(sock)[_PROBES]) and bool(unacknowledged(sock))


def first_unacknowledged(sock: socket.socket) -> int:
    """The sequence number of the first octet sent that was not acknowledged (SND.UNA).

    The kernel tells sequence numbers in repair mode only (TCP_REPAIR of
    include/uapi/linux/tcp.h), which is left again before anything could happen in it.

    Raises OSError.
    """
    with _repairing(sock, _REPAIR_OFF_NO_PROBE):
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, _SEND_QUEUE)
        after_last = sock.getsockopt(socket.IPPROTO_TCP, _TCP_QUEUE_SEQ)
    return (after_last - unacknowledged(sock)) % 2**32


def first_unreceived(sock: socket.socket) -> int:
    """The sequence number of the first octet that has not arrived (RCV.NXT); as above.

    Raises OSError.
    """
    with _repairing(sock, _REPAIR_OFF_NO_PROBE):
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, _RECEIVE_QUEUE)
        return sock.getsockopt(socket.IPPROTO_TCP, _TCP_QUEUE_SEQ) % 2**32


class InFlight(NamedTuple):
    """What was sent and not acknowledged, and what else is in a segment that carries it."""

    octets: bytes
    sequence: int
    """Of the first of them (SND.UNA)."""
    segment_size: int
    """Octets of data in each."""
    acknowledgment: int
    window: int
    """As on the wire, unscaled."""
    time: int | None
    """Of a timestamp; None: the connection has none."""


def in_flight(sock: socket.socket, silence: Seconds) -> InFlight | None:
    """None: there is nothing, or the far end has said something within `silence`, or has some
    of it, so that TCP will find out by itself what is lost. Raises OSError."""
    info = _tcp_info(sock)
    (size,), (sacked,), (silent_ms,) = (
        _NUMBER.unpack_from(info, at) for at in (_SND_MSS_AT, _SACKED_AT, _LAST_ACK_AT)
    )
    if info[_STATE] not in _SENDING or sacked or silent_ms < 1000 * silence:
        return None
    waiting = unacknowledged(sock)
    sent = waiting - _ask(sock, _SIOCOUTQNSD)
    if sent <= 0:
        return None
    stamped = info[_OPTIONS] & _HAS_TIMESTAMPS
    time = sock.getsockopt(socket.IPPROTO_TCP, _TCP_TIMESTAMP) if stamped else None
    with _repairing(sock, _REPAIR_OFF_NO_PROBE):
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, _SEND_QUEUE)
        after_last = sock.getsockopt(socket.IPPROTO_TCP, _TCP_QUEUE_SEQ)
        queue = sock.recv(waiting + _PARTLY, socket.MSG_PEEK)
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, _RECEIVE_QUEUE)
        next_in = sock.getsockopt(socket.IPPROTO_TCP, _TCP_QUEUE_SEQ)
        window = sock.getsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_WINDOW, _WINDOW.size)
    _, _, _, room, since = _WINDOW.unpack(window)
    first = len(queue) - waiting
    if first < 0:
        return None
    scale = info[_SCALES] >> 4 if sys.byteorder == "little" else info[_SCALES] & 0x0F
    left = max(0, room - (next_in - since) % 2**32)
    return InFlight(
        queue[first : first + sent],
        (after_last - waiting) % 2**32,
        size,
        next_in % 2**32,
        min(left >> scale, _MOST_WINDOW),
        None if time is None else time % 2**32,
    )


def probe_window(sock: socket.socket) -> None:
    """Asks the far end at once how much room it has, as the end of repair mode does.

    Raises OSError.
    """
    with _repairing(sock, _REPAIR_OFF):
        pass


@contextlib.contextmanager
def _repairing(sock: socket.socket, end: int) -> Iterator[None]:
    # Leaving repair mode takes SO_REUSEADDR away (net/ipv4/tcp.c).
    reuse = sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _REPAIR_ON)
    try:
        yield
    finally:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, end)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)


def _tcp_info(sock: socket.socket) -> bytes:
    """The octets that begin struct tcp_info; zeros when the socket is none any more."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_OCTETS)
    except OSError:
        return bytes(_INFO_OCTETS)


def allow_descriptors(wanted: int) -> int:
    """Raises this process's limit of open files to `wanted` if it may; how many it has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        except (ValueError, OSError):  # without CAP_SYS_RESOURCE, or above fs.nr_open
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _ask(sock: socket.socket, request: int) -> int:
    answer = array.array("i", [0])
    try:
        fcntl.ioctl(sock, request, answer)
    except (OSError, ValueError):  # closed
        return 0
    return answer[0]


def _make_transparent(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)


def _plain(address: SocketAddress) -> tuple[str, int]:
    return str(address.host), address.port


def _address(name: Any) -> SocketAddress:
    return SocketAddress(_host(str(name[0])), int(name[1]))


@lru_cache(maxsize=4096)  # the same few hosts meet again and again
def _host(name: str) -> IPAddress:
    return ip_address(name.partition("%")[0])
