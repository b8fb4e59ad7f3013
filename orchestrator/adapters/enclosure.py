"""A network of its own for one program, in which every address is this host.

The calling process moves into new network and mount namespaces. There every address leads to
loopback (`ip route add local …`), so that whoever listens on a port takes what is sent to that
port of any address; and names are looked up at 127.0.0.1, whatever the host is configured for.
Nothing leads out: what leaves has to be carried by whoever was given the listening sockets.

Only root may make them, and whoever may make a user namespace: then the process is in one, as
the same user. It must have one thread (unshare(2)).
"""

import ctypes
import fcntl
import os
import socket
import struct
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from orchestrator.core.errors import KernelError
from orchestrator.wire.netlink import Flag, attribute, frame, frames, outcome

NAMESERVER: Final = "127.0.0.1"
DNS_PORT: Final = 53
BACKLOG: Final = 64
RESOLV_CONF: Final = Path("/etc/resolv.conf")
NSSWITCH_CONF: Final = Path("/etc/nsswitch.conf")
NAME_SERVICES: Final = "hosts: files dns\n"
"""Neither systemd-resolved nor a cache, which would ask outside of here (nsswitch.conf(5))."""

_CLONE_NEWNS: Final = 0x0002_0000
_CLONE_NEWUSER: Final = 0x1000_0000
_CLONE_NEWNET: Final = 0x4000_0000
_MS_BIND: Final = 0x1000
_MS_REC: Final = 0x4000
_MS_SLAVE: Final = 0x8_0000
_RTM_NEWLINK: Final = 16
_RTM_NEWROUTE: Final = 24
_CREATE: Final = Flag(0x400)
"""NLM_F_CREATE"""
_IFF_UP: Final = 1
_RTA_OIF: Final = 4
_LOOPBACK: Final = 1
"""Its index, in every network namespace (drivers/net/loopback.c)."""
_LOCAL: Final = (255, 3, 254, 2)
"""RT_TABLE_LOCAL, RTPROT_BOOT, RT_SCOPE_HOST, RTN_LOCAL: as `ip route add local` has it."""
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_IFINFO: Final = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, change."""
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags."""
_ANSWER_OCTETS: Final = 8192
_SIOCGSKNS: Final = 0x894C
"""include/uapi/linux/sockios.h; takes CAP_NET_ADMIN where that network is (net/socket.c)."""
_libc: Final = ctypes.CDLL(None, use_errno=True)


def enter(versions: Collection[int]) -> None:
    """Moves the calling process there; addresses of `versions` of IP lead anywhere.

    Raises KernelError.
    """
    user, group = os.geteuid(), os.getegid()
    own_user = 0 if user == 0 else _CLONE_NEWUSER
    _check(_libc.unshare(own_user | _CLONE_NEWNET | _CLONE_NEWNS), "make", "namespaces")
    if own_user:
        _write("setgroups", "deny")
        _write("uid_map", f"{user} {user} 1")
        _write("gid_map", f"{group} {group} 1")
    _mount("none", Path("/"), _MS_REC | _MS_SLAVE)
    if RESOLV_CONF.exists():  # without it 127.0.0.1 is asked anyway (resolv.conf(5))
        _replace(RESOLV_CONF, f"nameserver {NAMESERVER}\n")
    if NSSWITCH_CONF.exists():
        lines = NSSWITCH_CONF.read_text().splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith("hosts:")]
        _replace(NSSWITCH_CONF, "".join((*kept, NAME_SERVICES)))
    _say(_RTM_NEWLINK, _IFINFO.pack(0, 0, _LOOPBACK, _IFF_UP, _IFF_UP), "bring up", "loopback")
    for version in versions:
        route = _RTMSG.pack(_FAMILIES[version], 0, 0, 0, *_LOCAL, 0)
        out = attribute(_RTA_OIF, struct.pack("=i", _LOOPBACK))
        _say(_RTM_NEWROUTE, route + out, "add", "the route to itself")


def listeners(versions: Collection[int], ports: Sequence[int]) -> list[socket.socket]:
    """Those that take what is sent to these TCP ports of any address, and to the name server.

    Raises KernelError.
    """
    opened: list[socket.socket] = []
    try:
        for version in versions:
            opened += [_listener(version, "::" if version == 6 else "", p) for p in ports]
        opened.append(_listener(4, NAMESERVER, DNS_PORT))
        opened.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        opened[-1].bind((NAMESERVER, DNS_PORT))
    except OSError as error:
        for sock in opened:
            sock.close()
        raise KernelError(error.errno or 0, "listen", "in the enclosure") from error
    return opened


def own_network() -> int:
    """The inode number that tells this process's network namespace from others."""
    return Path("/proc/self/ns/net").stat().st_ino


def network_of(sock: socket.socket) -> int:
    """The same of the one that the socket belongs to. Raises KernelError."""
    try:
        descriptor = fcntl.ioctl(sock, _SIOCGSKNS)
    except OSError as error:
        raise KernelError(error.errno or 0, "name", "a socket's network") from error
    try:
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def _listener(version: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET)
    if version == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((address, port))
    sock.listen(BACKLOG)
    return sock


def _replace(file: Path, content: str) -> None:
    """Others see the file as it was."""
    with tempfile.NamedTemporaryFile("w") as substitute:
        substitute.write(content)
        substitute.flush()
        Path(substitute.name).chmod(0o644)
        _mount(substitute.name, file, _MS_BIND)


def _mount(source: str, target: Path, flags: int) -> None:
    answer = _libc.mount(
        os.fsencode(source), os.fsencode(target), b"none", ctypes.c_ulong(flags), None
    )
    _check(answer, "mount", str(target))


def _say(kind: int, body: bytes, operation: str, subject: str) -> None:
    """One sentence of rtnetlink. No `ip`: another program would not have our rights in a user
    namespace (capabilities(7))."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
            kernel.send(frame(kind, Flag.REQUEST | Flag.ACK | _CREATE, 1, body))
            (answer, *_) = frames(kernel.recv(_ANSWER_OCTETS))
    except OSError as error:
        raise KernelError(error.errno or 0, operation, subject) from error
    said = outcome(answer)
    if said.errno:
        raise KernelError(said.errno, operation, subject, said.text)


def _write(name: str, content: str) -> None:
    try:
        Path("/proc/self", name).write_text(content)
    except OSError as error:
        raise KernelError(error.errno or 0, "write", f"/proc/self/{name}") from error


def _check(answer: int, operation: str, subject: str) -> None:
    if answer != 0:
        code = ctypes.get_errno()
        raise KernelError(code, operation, subject, os.strerror(code))
