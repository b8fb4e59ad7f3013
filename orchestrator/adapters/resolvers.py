"""Finds out which resolvers a link's network has given.

systemd-resolved knows them for each link, from whoever configures it, and says so over D-Bus
(org.freedesktop.resolve1(5)). Without it there is one list for all links (resolv.conf(5)): as
systemd-resolved or NetworkManager keep it where the system's own file names themselves, or that
file. A resolver on this host is none of a link: what it asks would go into the tunnel.
"""

import asyncio
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

from dbus_fast import BusType, Message, MessageFlag, MessageType
from dbus_fast.aio import MessageBus

from orchestrator.core.quantities import IPAddress, LinkIndex

FILES: Final = (
    Path("/run/systemd/resolve/resolv.conf"),
    Path("/run/NetworkManager/no-stub-resolv.conf"),
    Path("/etc/resolv.conf"),
)
"""The first that names a resolver elsewhere counts."""
MOST: Final = 6
"""Resolvers of a link; the C library uses three (resolv.conf(5), MAXNS)."""
RESOLVED: Final = "org.freedesktop.resolve1"
_PATH: Final = "/org/freedesktop/resolve1"
_MANAGER: Final = "org.freedesktop.resolve1.Manager"
_LINK: Final = "org.freedesktop.resolve1.Link"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_ANSWER_SECONDS: Final = 2.0
"""It answers in milliseconds; this is a bus that hangs."""
_FAILURES: Final = (OSError, EOFError, TimeoutError, ValueError)
"""What the library raises of a bus that is not there, goes away, or makes no sense."""


async def resolvers_of(
    link: LinkIndex, name: str, files: tuple[Path, ...] = FILES
) -> tuple[IPAddress, ...]:
    """Those of the link's network; empty: nobody knows any."""
    found = await _by_resolved(link)
    for file in files:
        found = found or [each for each in _by_file(file) if _may_be_of(each, name)]
    return tuple(dict.fromkeys(found))[:MOST]


async def _by_resolved(link: LinkIndex) -> list[IPAddress]:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            bus = MessageBus(bus_type=BusType.SYSTEM)
            await bus.connect()
            try:
                return await _link_resolvers(bus, link)
            finally:
                bus.disconnect()
    except _FAILURES:
        return []


async def _link_resolvers(bus: MessageBus, link: LinkIndex) -> list[IPAddress]:
    found = await _call(bus, _PATH, _MANAGER, "GetLink", "i", [link])
    if found is None:
        return []
    servers = await _call(bus, str(found), _PROPERTIES, "Get", "ss", [_LINK, "DNS"])
    entries = getattr(servers, "value", ())
    addresses = [ip_address(bytes(octets)) for _, octets in entries]
    return [each for each in addresses if not each.is_loopback]


async def _call(
    bus: MessageBus,
    path: str,
    interface: str,
    member: str,
    signature: str,
    arguments: list[object],
) -> object:
    """The first value of the answer; None: there is none."""
    call = Message(
        destination=RESOLVED,
        path=path,
        interface=interface,
        member=member,
        signature=signature,
        body=arguments,
        flags=MessageFlag.NO_AUTOSTART,  # who does not run has configured nothing
    )
    reply = await bus.call(call)
    if reply is None or reply.message_type is MessageType.ERROR or not reply.body:
        return None
    return reply.body[0]


def _by_file(file: Path) -> list[IPAddress]:
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found: list[IPAddress] = []
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                found.append(ip_address(words[1]))
            except ValueError:
                continue
    return found


def _may_be_of(resolver: IPAddress, link_name: str) -> bool:
    if resolver.is_loopback:
        return False
    scope = resolver.scope_id if isinstance(resolver, IPv6Address) else None
    return scope in (None, link_name)
