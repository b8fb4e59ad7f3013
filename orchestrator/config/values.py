"""Reads single values of a configuration: durations, sizes, addresses, names.

A value that is wrong raises `BadValue` with what is wrong and what to write instead.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Final, NamedTuple, NewType

from orchestrator.core.flow_class import Ports
from orchestrator.core.leases import names_many
from orchestrator.core.quantities import IPAddress, IPNetwork, Seconds

Octets = NewType("Octets", int)
"""A size in memory or on the wire."""
Identity = Annotated[str, "identity"]
"""An IKE identity as charon writes it: a name, a mail address, an IP address, or a
distinguished name."""
InterfaceName = NewType("InterfaceName", str)
"""The name of one network interface."""
InterfaceGlob = NewType("InterfaceGlob", str)
"""A pattern of interface names: `*`, `?` and `[…]` as in a shell."""
InterfaceClass = Annotated[InterfaceGlob | tuple[InterfaceGlob, ...], "one or several"]
"""Interfaces that are equal: a pattern, or several."""
Secret = NewType("Secret", str)
"""Never shown, not even in an error."""
HostName = NewType("HostName", str)
"""A name in the DNS."""
Lifetime = Seconds | None
"""How long something lasts; None is "unlimited"."""
FixedVips = Annotated[tuple[IPAddress, ...], "fixed"]
"""Virtual addresses, one or two of different families."""
AssignedVips = Annotated[tuple[IPAddress, ...], "assigned or fixed"]
"""As FixedVips, or empty for "assigned"."""


class ListenAddress(NamedTuple):
    """Of a socket that others connect to."""

    host: IPAddress
    port: int


class HttpUrl(NamedTuple):
    """Of plain HTTP, with an address for a host."""

    host: IPAddress
    port: int
    target: str
    """Path and query: "/generate_204"."""

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if self.host.version == 6 else str(self.host)
        return host if self.port == HTTP_PORT else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"http://{self.authority}{self.target}"


UNLIMITED: Final = "unlimited"
ASSIGNED: Final = "assigned"
HTTP_PORT: Final = 80
INTERFACE_NAME_LIMIT: Final = 15
"""IFNAMSIZ less its zero octet (include/uapi/linux/if.h)."""

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_SECONDS: Final[Mapping[str, float]] = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE: Final = re.compile(r"(\d+)\s?(B|KiB|MiB|GiB)", re.ASCII)
_OCTETS: Final[Mapping[str, int]] = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*",
    re.IGNORECASE,
)
_HTTP_URL: Final = re.compile(r"http://([^/?#@\s]+)([/?][!-~]*)?", re.ASCII | re.IGNORECASE)
_INTERFACE: Final = re.compile(r"[^\s/:\"\\*?\[\]]+")


_PORTS: Final = re.compile(r"(\d{1,5})-(\d{1,5})", re.ASCII)
LAST_PORT: Final = 65535


class BadValue(ValueError):
    """A value that cannot be used, and what to write instead."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Between:
    """The values a number may have, both ends included (`Annotated[int, Between(1, 9)]`)."""

    least: float
    most: float | None = None

    def check(self, value: object, show: Callable[[float], str]) -> None:
        if not isinstance(value, int | float):
            return
        if value < self.least:
            raise BadValue(f"{show(value)} is too little", f"write {show(self.least)} or more")
        if self.most is not None and value > self.most:
            raise BadValue(f"{show(value)} is too much", f"write {show(self.most)} or less")


@dataclass(frozen=True, slots=True)
class Inherits:
    """A table whose missing keys are as in another one, of the same names."""

    table: tuple[str, ...]
    """Where the other one stands; it is read before."""
    default: object
    """It, when the file does not have it."""


@dataclass(frozen=True, slots=True)
class Otherwise:
    """What to write instead of a value that cannot be read, where there is something better
    than what its type suggests (`Annotated[IPAddress, Otherwise("…")]`)."""

    remedy: str


def show(value: object) -> str:
    """The value as TOML writes it, shortened."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value if len(value) <= 60 else value[:57] + "..."}"'
        case Mapping():
            return "a table"
        case list() | tuple():
            return f"an array of {len(value)}" if value else "an empty array"
    return str(value)


def text(value: object) -> str:
    if not isinstance(value, str):
        raise BadValue(f"{show(value)} is not text", f'put it in quotes: "{value}"')
    if not value.strip():
        raise BadValue("the text is empty", "write something, or leave the line away")
    return value


def secret(value: object) -> Secret:
    if not isinstance(value, str) or not value:
        raise BadValue("the secret is not a text", "put it in quotes")
    return Secret(value)


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise BadValue(f"{show(value)} is neither true nor false", "write true or false")
    return value


def integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadValue(f"{show(value)} is not a whole number", "write digits, without quotes")
    return value


def duration(value: object) -> Seconds:
    remedy = 'write a number with its unit: "500ms", "4s", "2m", "8h" or "1d"'
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise BadValue(f"{show(value)} is not a duration", remedy)
    return Seconds(float(match[1]) * _SECONDS[match[2]])


def lifetime(value: object) -> Lifetime:
    if value == UNLIMITED:
        return None
    try:
        return duration(value)
    except BadValue as error:
        raise BadValue(error.problem, f'{error.remedy}, or "{UNLIMITED}"') from error


def size(value: object) -> Octets:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise BadValue(
            f"{show(value)} is not a size",
            'write a number with its unit: "64B", "512KiB", "4MiB" or "1GiB"',
        )
    return Octets(int(match[1]) * _OCTETS[match[2]])


def address(value: object) -> IPAddress:
    try:
        found = ip_address(text(value))
    except BadValue:
        raise
    except ValueError as error:
        raise BadValue(
            f"{show(value)} is not an IP address", 'write one like "203.0.113.10"'
        ) from error
    if found.is_multicast or found.is_loopback or found.is_unspecified:
        raise BadValue(f"{found} is no address of a host", "write a unicast address")
    return found


def listen_address(value: object) -> ListenAddress:
    host, colon, port = text(value).rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    remedy = 'write one like "127.0.0.1:9464" or "[::1]:9464"'
    try:
        found = ip_address(bare)
    except ValueError as error:
        raise BadValue(f"{show(value)} is not an address and a port", remedy) from error
    if not colon or (found.version == 6) != (bare != host):
        raise BadValue(f"{show(value)} is not an address and a port", remedy)
    if not (port.isascii() and port.isdigit()) or not 0 < int(port) < 2**16:
        raise BadValue(f"{show(value)} has no port", remedy)
    return ListenAddress(found, int(port))


def http_url(value: object) -> HttpUrl:
    remedy = 'write one like "http://203.0.113.80/generate_204"'
    match = _HTTP_URL.fullmatch(text(value))
    if match is None or "#" in (match[2] or ""):
        raise BadValue(f"{show(value)} is not a URL of plain HTTP", remedy)
    bare = re.fullmatch(r"(\[.+\]|[^:]+)(?::(\d{1,5}))?", match[1], re.ASCII)
    host, port = (bare[1], int(bare[2] or HTTP_PORT)) if bare else ("", 0)
    try:
        found = address(host.strip("[]"))
    except BadValue as error:
        raise BadValue(f"{show(value)} has no address of a host in it", remedy) from error
    if (found.version == 6) != host.startswith("[") or not 0 < port < 2**16:
        raise BadValue(f"{show(value)} has no such port or address", remedy)
    target = match[2] or "/"
    return HttpUrl(found, port, target if target.startswith("/") else f"/{target}")


def network(value: object) -> IPNetwork:
    try:
        return ip_network(text(value))
    except BadValue:
        raise
    except ValueError as error:
        try:
            meant = ip_network(str(value), strict=False)
        except ValueError:
            remedy = 'write one like "10.20.0.0/16"'
            raise BadValue(f"{show(value)} is not an IP network", remedy) from error
        raise BadValue(
            f"{show(value)} has bits set to the right of its prefix length",
            f'write "{meant}"',
        ) from error


def assigned_vips(value: object) -> AssignedVips:
    if value == ASSIGNED:
        return ()
    try:
        return fixed_vips(value)
    except BadValue as error:
        raise BadValue(error.problem, f'{error.remedy}, or "{ASSIGNED}"') from error


def fixed_vips(value: object) -> FixedVips:
    entries = value if isinstance(value, list) else [value]
    try:
        found = tuple(address(entry) for entry in entries)
    except BadValue as error:
        remedy = "write an address, or an array with one of each family"
        raise BadValue(error.problem, remedy) from error
    if not found:
        raise BadValue("there is no address", "write one, or one of each family")
    for version in (4, 6):
        of_family = [str(vip) for vip in found if vip.version == version]
        if len(of_family) > 1:
            raise BadValue(
                f"more than one IPv{version} address: {', '.join(of_family)}",
                "leave one of each family",
            )
    return found


def path(value: object) -> Path:
    return Path(text(value))


def identity(value: object) -> Identity:
    found = text(value)
    if found != found.strip() or any(not char.isprintable() for char in found):
        raise BadValue(
            f"{show(value)} has blanks at its ends, or characters that cannot be printed",
            "write it exactly as the other side knows it",
        )
    if names_many(found):
        raise BadValue(f"{show(value)} stands for more than one", "write one identity")
    return found


def host_name(value: object) -> HostName:
    found = text(value)
    if not _HOST_NAME.fullmatch(found):
        raise BadValue(f"{show(value)} is not a host name", 'write one like "vpn.example.org"')
    return HostName(found)


def interface(value: object) -> InterfaceName:
    found = text(value)
    if not _INTERFACE.fullmatch(found) or len(found) > INTERFACE_NAME_LIMIT:
        raise BadValue(
            f"{show(value)} is not an interface name", "write a name that `ip link` shows"
        )
    return InterfaceName(found)


def interface_glob(value: object) -> InterfaceGlob:
    found = text(value)
    if any(char.isspace() or char == "/" for char in found):
        raise BadValue(
            f"{show(value)} matches no interface name",
            'write a name or a pattern of names, like "wlan0" or "wl*"',
        )
    return InterfaceGlob(found)


def interface_class(value: object) -> InterfaceClass:
    if not isinstance(value, list):
        return interface_glob(value)
    if not value:
        raise BadValue("no interface is equal to none", "write a pattern, or several")
    return tuple(map(interface_glob, value))


def show_class(equals: InterfaceClass) -> str:
    """As `interface_class` reads it."""
    if isinstance(equals, str):
        return show(equals)
    return f"[{', '.join(map(show, equals))}]"


def ports(value: object) -> Ports:
    """One, or a range: both ends are meant."""
    remedy = 'write a port as a number, or a range like "10000-20000"'
    match = _PORTS.fullmatch(value) if isinstance(value, str) else None
    if match is not None:
        found = Ports(int(match[1]), int(match[2]))
    elif isinstance(value, int) and not isinstance(value, bool):
        found = Ports(value, value)
    else:
        raise BadValue(f"{show(value)} is neither a port nor a range", remedy)
    if not 1 <= found.first <= found.last <= LAST_PORT:
        raise BadValue(f"{show(value)} is not between 1 and {LAST_PORT}", remedy)
    return found


def show_duration(seconds: float) -> str:
    """As `duration` reads it: the largest unit that leaves a whole number."""
    for unit in ("d", "h", "m", "s"):
        count = seconds / _SECONDS[unit]
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    return f"{round(seconds * 1000)}ms"


def show_size(octets: float) -> str:
    """As `size` reads it: the largest unit that leaves a whole number."""
    for unit in ("GiB", "MiB", "KiB"):
        count = octets / _OCTETS[unit]
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    return f"{int(octets)}B"
