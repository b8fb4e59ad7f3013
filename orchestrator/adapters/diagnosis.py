"""Reads this machine for `orchestrator doctor`, without changing anything.

What the kernel can do is found out by trying it in a network namespace that vanishes at once.
Addresses and gateways are read a second time with netifaces, which shares no code with our
rtnetlink adapter.
"""

import os
import socket
import struct
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from glob import glob
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import netifaces

from orchestrator.core.diagnosis import OURS, CharonReading, NetworkReading
from orchestrator.core.errors import PeerError
from orchestrator.wire.strongswan_conf import ConfFile, parse

TRY_LIMIT: Final = 20.0
"""Seconds for one try; in the lab's kernel a process alone takes some tenths of one."""
CONNECT_LIMIT: Final = 2.0
"""Seconds for charon to accept."""
PROC_SYS: Final = Path("/proc/sys")
XFRM_COUNTERS: Final = Path("/proc/net/xfrm_stat")
TUN_DEVICE: Final = Path("/dev/net/tun")
DEFAULT_CONF: Final = "/etc/strongswan.conf"
SYSCTLS: Final = (
    "net/ipv4/ip_no_pmtu_disc",
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv4/conf/all/ignore_routes_with_linkdown",
    "net/ipv6/conf/all/ignore_routes_with_linkdown",
    "net/core/xfrm_larval_drop",
)
SYSCTLS_PER_LINK: Final = ("rp_filter", "disable_xfrm", "disable_policy")
_UCRED: Final = struct.Struct("3i")


def may_try() -> str:
    """Why nothing can be tried in a namespace; empty: it can."""
    return _run(["unshare", "--net", "true"]) or ""


def try_in_namespace(command: list[str], fed: str = "") -> str | None:
    """Runs the command in a new network namespace; returns what went wrong, None if nothing."""
    return _run(["unshare", "--net", *command], fed)


def try_tun() -> str | None:
    """Whether TUN devices can be had; returns what went wrong."""
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{TUN_DEVICE}: {error.strerror}"
    return None


def _run(command: list[str], fed: str = "") -> str | None:
    try:
        done = subprocess.run(
            command,
            input=fed,
            capture_output=True,
            text=True,
            check=False,
            timeout=TRY_LIMIT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    said = (done.stderr or done.stdout).strip().splitlines()
    return said[0] if said else f"{command[0]} failed with {done.returncode}"


def links() -> frozenset[str]:
    """Every interface, but for the loopback and our own."""
    return frozenset(name for _, name in socket.if_nameindex()) - OURS


def sysctls() -> dict[str, str]:
    """The settings that `core.diagnosis` judges, as far as this kernel has them."""
    names = [
        *SYSCTLS,
        *(
            f"net/ipv4/conf/{link}/{setting}"
            for link in ("all", *links())
            for setting in SYSCTLS_PER_LINK
        ),
    ]
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = (PROC_SYS / name).read_text().strip()
        except OSError:
            continue
    return found


def xfrm_counters() -> dict[str, int]:
    """/proc/net/xfrm_stat; empty where the kernel keeps none."""
    try:
        lines = XFRM_COUNTERS.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def second_reading() -> NetworkReading:
    """Addresses and default gateways, by netifaces."""
    addresses = frozenset(
        (link, address)
        for link in netifaces.interfaces()
        if link not in OURS
        for family in (netifaces.AF_INET, netifaces.AF_INET6)
        for entry in netifaces.ifaddresses(link).get(family, ())
        if not (address := ip_address(str(entry["addr"]).partition("%")[0])).is_link_local
    )
    known: Any = netifaces.gateways()
    gateways = frozenset(
        (str(link), ip_address(str(gateway).partition("%")[0]))
        for family in (netifaces.AF_INET, netifaces.AF_INET6)
        for gateway, link, _ in known.get(family, ())
        if link not in OURS
    )
    return NetworkReading(addresses, gateways)


def charon_settings(vici: Path) -> CharonReading:
    """The strongswan.conf of the process that serves the VICI socket, seen from its root.

    Only the parts about settings are filled in.
    """
    reading = CharonReading(socket=str(vici))
    try:
        pid = _served_by(vici)
        environment = _environment(pid)
        conf = environment.get("STRONGSWAN_CONF", DEFAULT_CONF)
        root = Path(f"/proc/{pid}/root")
        first = ConfFile(
            str(Path(conf).parent), _inside(root, conf).read_text(errors="replace")
        )
        settings = parse(first, lambda folder, pattern: _included(root, folder, pattern))
    except OSError as error:
        told = f"{error.filename or vici}: {error.strerror or error}"
        return replace(reading, settings_problem=told)
    except PeerError as error:
        return replace(reading, settings_problem=f"{conf}: {error}")
    return replace(reading, settings=settings, settings_file=conf)


def _served_by(vici: Path) -> int:
    """The process at the other end of the socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(CONNECT_LIMIT)
        connection.connect(str(vici))
        octets = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(octets)[0])


def _environment(pid: int) -> Mapping[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    pairs = (entry.decode(errors="replace").partition("=") for entry in entries)
    return {name: value for name, _, value in pairs}


def _included(root: Path, folder: str, pattern: str) -> Iterator[ConfFile]:
    """Files of an include: a shell pattern, relative to the folder of the file it stands in."""
    whole = os.path.join(folder, pattern)  # noqa: PTH118  it may be a pattern, not a path
    for name in sorted(glob(str(_inside(root, whole)))):  # noqa: PTH207  absolute
        file = Path(name)
        inside = f"/{file.parent.relative_to(root)}"
        yield ConfFile(inside, file.read_text(errors="replace"))


def _inside(root: Path, path: str) -> Path:
    return root / path.lstrip("/")
