"""Talks rtnetlink: reads links, addresses, routes and rules, watches them, writes ours.

Reading is a full dump once and increments after it (`core.picture`); when the kernel says that
it dropped messages (ENOBUFS) everything is read again. What has come by the time that we read
is one piece of news: of a roam tell a dozen messages within a millisecond or two. Writing is
idempotent: what is there already and what is gone already are both fine.
"""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Any, Final, Self

from pyroute2 import AsyncIPRoute
from pyroute2.netlink import NLM_F_REPLACE, rtnl
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from orchestrator.core.errors import KernelError
from orchestrator.core.kernel import (
    MARK_MASK,
    ROUTE_PROTOCOL,
    TUN_ENDPOINT,
    TUN_SERVER,
    Address,
    Route,
    RouteKind,
    Rule,
    Tun,
)
from orchestrator.core.network import Gateway, Link, LinkAddress, Snapshot
from orchestrator.core.picture import Picture
from orchestrator.core.quantities import (
    IPAddress,
    IPNetwork,
    LinkIndex,
    TableId,
)

RoutedObject = Address | Route | Rule
Message = Any
"""A pyroute2 message: a dictionary with attribute access that has no types."""

_AF: Final = {4: 2, 6: 10}
_VERSION: Final = {2: 4, 10: 6}
_IFF_UP: Final = 0x1
_IFF_LOWER_UP: Final = 0x10000
_UNUSABLE_ADDRESS: Final = 0x08 | 0x20 | 0x40
"""IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE (include/uapi/linux/if_addr.h)."""
_OPTIMISTIC: Final = 0x04
"""IFA_F_OPTIMISTIC: tentative, and yet allowed to be used (RFC 4429)."""
_KINDS: Final = {RouteKind.UNICAST: 1, RouteKind.LOCAL: 2, RouteKind.UNREACHABLE: 7}
_KIND_OF: Final = {number: kind for kind, number in _KINDS.items()}
_TABLE_MAIN: Final = 254
_OUR_LINKS: Final = (TUN_ENDPOINT, TUN_SERVER)
_ANY: Final = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
_SO_RCVBUFFORCE: Final = 33
_MONITOR_BUFFER: Final = 1 << 20
"""Octets, which the kernel doubles: some 1,000 messages between two reads."""
_DATAGRAM_SIZE: Final = 65536
_DATAGRAMS_PER_READ: Final = 64
"""Taken from a monitor before others have their turn again."""
_BEGINNING: Final = Struct("=4xH10xxB3xB")
"""The type of struct nlmsghdr; rtm_dst_len and rtm_protocol, where a struct rtmsg follows."""
_GROUPS: Final = (
    rtnl.RTMGRP_LINK
    | rtnl.RTMGRP_IPV4_IFADDR
    | rtnl.RTMGRP_IPV6_IFADDR
    | rtnl.RTMGRP_IPV4_ROUTE
    | rtnl.RTMGRP_IPV6_ROUTE
    | rtnl.RTMGRP_IPV4_RULE
    | rtnl.RTMGRP_IPV6_RULE
)


@dataclass(frozen=True, slots=True)
class NetworkNews:
    """Something changed: the whole picture now, and whether an object of ours was touched."""

    snapshot: Snapshot
    ours_touched: bool


class Rtnetlink:
    """One request socket; `watch` opens a second one for the multicast groups."""

    def __init__(self) -> None:
        self._ip = AsyncIPRoute()
        self._dumping = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._ip.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._ip.__aexit__(kind, error, trace)

    async def snapshot(self) -> Snapshot:
        return (await self._read()).snapshot()

    async def watch(self) -> AsyncIterator[NetworkNews]:
        """The picture as it is, then again whenever it changes."""
        while True:
            with closing(_Monitor()) as monitor:
                picture = await self._read()
                yield NetworkNews(picture.snapshot(), ours_touched=True)
                try:
                    while True:
                        changed = ours = behind = False
                        for message in await monitor.read():
                            shown = _shows_as_ours(picture, message)
                            ours |= shown and not self._did(message)
                            changed |= _absorb(picture, message)
                            behind |= _may_be_behind(picture, message)
                        if changed or ours:
                            yield NetworkNews(picture.snapshot(), ours_touched=ours)
                        # Rare, and only then: reading takes longer than a move may.
                        if behind and picture.take_gateways(await self._every_gateway()):
                            yield NetworkNews(picture.snapshot(), ours_touched=False)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise KernelError(error.errno or 0, "watch", "the network") from error

    def _did(self, message: Message) -> bool:
        """Whether the message tells of what this very object asked for."""
        return bool(message["header"]["pid"] == self._ip.status["epid"])

    async def _read(self) -> Picture:
        picture = Picture()
        for what in ("links", "addr", "routes"):
            for message in await self._dump(what):
                _absorb(picture, message)
        return picture

    async def _every_gateway(self) -> list[Gateway]:
        return [each for message in await self._dump("routes") for each in _gateways(message)]

    async def _dump(self, what: str, **arguments: object) -> list[Message]:
        """Everything of a kind, read to its end: until then the kernel refuses to begin another
        dump on the same socket (EBUSY; net/netlink/af_netlink.c, __netlink_dump_start)."""
        async with self._dumping:
            try:
                answer = await getattr(self._ip, f"get_{what}")(**arguments)
                return [message async for message in answer]
            except NetlinkError as error:
                raise KernelError(error.code, "read", what, str(error)) from error

    async def put(self, wanted: RoutedObject) -> None:
        """Makes the object exist as described. Raises KernelError; nothing changed then."""
        match wanted:
            case Address():
                await self._request("addr", "replace", wanted, _address(wanted))
            case Route():
                await self._request("route", "replace", wanted, _route(wanted))
            case Rule():
                await self._request("rule", "add", wanted, _rule(wanted), errno.EEXIST)

    async def drop(self, unwanted: RoutedObject) -> None:
        """Makes the object not exist. Raises KernelError."""
        gone = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL)
        try:
            match unwanted:
                case Address():
                    await self._request("addr", "del", unwanted, _address(unwanted), *gone)
                case Route():
                    await self._request("route", "del", unwanted, _route(unwanted), *gone)
                case Rule():
                    await self._request("rule", "del", unwanted, _rule(unwanted), *gone)
        except KernelError as error:
            if error.errno not in gone:
                raise

    async def configure_tun(self, tun: Tun) -> None:
        """Sets the MTU and brings the device up, without a link-local address of its own."""
        index = _index(tun.name)
        _no_link_local(tun.name)
        try:
            await self._ip.link("set", index=index, mtu=tun.mtu, state="up")
        except NetlinkError as error:
            raise KernelError(error.code, "configure", tun.name, str(error)) from error

    async def delete_link(self, name: str) -> None:
        try:
            await self._ip.link("del", index=_index(name))
        except KernelError:
            return
        except NetlinkError as error:
            raise KernelError(error.code, "delete", name, str(error)) from error

    async def tun_mtu(self, name: str) -> int | None:
        """The MTU of the device if it exists and is up."""
        for message in await self._dump("links"):
            if message.get("ifname") == name and message["flags"] & _IFF_UP:
                return int(message.get("mtu"))
        return None

    async def present(self, tuns: Iterable[str]) -> tuple[RoutedObject, ...]:
        """Every address on the devices `tuns`, every route and rule with our protocol."""
        names: dict[int, str] = {}
        for message in await self._dump("links"):
            names[message["index"]] = message.get("ifname")
        found: list[RoutedObject] = []
        wanted = frozenset(tuns)
        for message in await self._dump("addr"):
            link = names.get(message["index"], "")
            address = ip_address(message.get("local") or message.get("address"))
            if link in wanted and not address.is_link_local:
                found.append(Address(link, address))
        found += [
            _parse_route(message, names)
            for message in await self._dump("routes")
            if message["proto"] == ROUTE_PROTOCOL
        ]
        for version in (4, 6):
            found += [
                _parse_rule(message)
                for message in await self._dump("rules", family=_AF[version])
                if message.get("protocol") == ROUTE_PROTOCOL
            ]
        return tuple(found)

    async def _request(
        self,
        verb: str,
        command: str,
        subject: RoutedObject,
        arguments: dict[str, object],
        *fine: int,
    ) -> None:
        try:
            await getattr(self._ip, verb)(command, **arguments)
        except NetlinkError as error:
            if error.code not in fine:
                raise KernelError(error.code, command, str(subject), str(error)) from error


class _Monitor:
    """What the kernel tells everybody of the network, of which we decode what matters."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _MONITOR_BUFFER)
        self._socket.bind((0, _GROUPS))
        self._marshal = MarshalRtnl()

    def close(self) -> None:
        self._socket.close()

    async def read(self) -> list[Message]:
        """What has come, perhaps nothing that matters; waits until something has.

        Raises OSError, with ENOBUFS where the kernel had to drop messages.
        """
        first = await asyncio.get_running_loop().sock_recv(self._socket, _DATAGRAM_SIZE)
        return [
            message
            for datagram in (first, *self._waiting())
            if _may_matter(datagram)
            for message in self._marshal.parse(datagram)
        ]

    def _waiting(self) -> Iterator[bytes]:
        for _ in range(_DATAGRAMS_PER_READ):
            try:
                yield self._socket.recv(_DATAGRAM_SIZE)
            except BlockingIOError:
                return


def _may_matter(datagram: bytes) -> bool:
    """Whether it tells of anything but a route that is neither a default one nor ours: of each
    address tell four of those. The kernel tells everybody one thing in a datagram."""
    kind, length, protocol = _BEGINNING.unpack_from(datagram)
    is_route = kind in (rtnl.RTM_NEWROUTE, rtnl.RTM_DELROUTE)
    return not is_route or not length or protocol == ROUTE_PROTOCOL


def _index(name: str) -> int:
    """One system call; a look-up over rtnetlink reads every link."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise KernelError(errno.ENODEV, "find", name) from error


def _no_link_local(name: str) -> None:
    """A TUN has no neighbours to talk to; router solicitations would only fill the hold."""
    mode = Path(f"/proc/sys/net/ipv6/conf/{name}/addr_gen_mode")
    try:
        mode.write_text("1\n")
    except FileNotFoundError:
        return  # no IPv6; or the device is gone, which the next operation on it says
    except OSError as error:
        raise KernelError(error.errno or 0, "configure", name) from error


def _address(address: Address) -> dict[str, object]:
    arguments: dict[str, object] = {
        "index": _index(address.link),
        "address": str(address.address),
        "prefixlen": address.address.max_prefixlen,
        "family": _AF[address.address.version],
    }
    if address.address.version == 6:
        arguments["flags"] = 0x02  # IFA_F_NODAD: nobody else is on a TUN
    return arguments


def _route(route: Route) -> dict[str, object]:
    arguments: dict[str, object] = {
        "family": _AF[route.destination.version],
        "dst": str(route.destination),
        "table": int(route.table),
        "type": _KINDS[route.kind],
        "proto": ROUTE_PROTOCOL,
    }
    if route.kind is RouteKind.LOCAL:
        arguments["scope"] = 254  # RT_SCOPE_HOST
    elif route.link is not None and route.gateway is None:
        arguments["scope"] = 253 if route.destination.version == 4 else 0
    if route.link is not None:
        arguments["oif"] = _index(route.link)
    if route.gateway is not None:
        arguments["gateway"] = str(route.gateway)
        arguments["flags"] = 4  # RTNH_F_ONLINK: the table has no route to the gateway
    if route.source is not None:
        arguments["prefsrc"] = str(route.source)
    if route.metric:
        arguments["priority"] = route.metric
    if route.mtu is not None:
        arguments["metrics"] = {"mtu": route.mtu}
    return arguments


def _rule(rule: Rule) -> dict[str, object]:
    arguments: dict[str, object] = {
        "family": _AF[rule.version],
        "priority": rule.priority,
        "table": int(rule.table),
        "protocol": ROUTE_PROTOCOL,
        "action": 1,  # FR_ACT_TO_TBL
    }
    if rule.source is not None:
        arguments["src"] = str(rule.source)
    if rule.mark is not None:
        arguments["fwmark"] = rule.mark
        arguments["fwmask"] = MARK_MASK
    if rule.mark_inverted:
        arguments["flags"] = 2  # FIB_RULE_INVERT
    if rule.suppress_prefixlength is not None:
        arguments["FRA_SUPPRESS_PREFIXLEN"] = rule.suppress_prefixlength
    return arguments


def _absorb(picture: Picture, message: Message) -> bool:
    """Takes one message in; says whether the picture changed."""
    match message["event"]:
        case "RTM_NEWLINK":
            up = message["flags"] & _IFF_UP and message["flags"] & _IFF_LOWER_UP
            link = Link(LinkIndex(message["index"]), message.get("ifname"), bool(up))
            return picture.link_is(link, switched_on=bool(message["flags"] & _IFF_UP))
        case "RTM_DELLINK":
            return picture.link_gone(message["index"])
        case "RTM_NEWADDR":
            return picture.address_is(_parse_address(message))
        case "RTM_DELADDR":
            return picture.address_gone(_parse_address(message))
        case "RTM_NEWROUTE":
            replace = bool(message["header"]["flags"] & NLM_F_REPLACE)
            return picture.gateways_are(_gateways(message), replace=replace)
        case "RTM_DELROUTE":
            return picture.gateways_gone(_gateways(message))
    return False


def _shows_as_ours(picture: Picture, message: Message) -> bool:
    """Whether this is about an object of ours: one with our protocol number, what is taken
    from our TUN devices, or what takes routes of ours along in silence."""
    match message["event"]:
        case "RTM_NEWROUTE" | "RTM_DELROUTE":
            return bool(message["proto"] == ROUTE_PROTOCOL)
        case "RTM_NEWRULE" | "RTM_DELRULE":
            return bool(message.get("protocol") == ROUTE_PROTOCOL)
        case "RTM_DELADDR":
            ours = picture.link_name(message["index"]) in _OUR_LINKS
            return ours or _VERSION[message["family"]] == 4
        case "RTM_DELLINK":
            return True
        case "RTM_NEWLINK":
            return not message["flags"] & _IFF_UP
    return False


def _may_be_behind(picture: Picture, message: Message) -> bool:
    """Whether gateways may be gone of which no message tells: with one of several IPv4
    addresses of a link go the routes that need it."""
    if message["event"] != "RTM_DELADDR" or _VERSION[message["family"]] != 4:
        return False
    return picture.has_ipv4(message["index"])


def _gateways(message: Message) -> list[Gateway]:
    """Those of a default route that is in the main table and is not ours; of others none."""
    default = message["dst_len"] == 0 and message["type"] == _KINDS[RouteKind.UNICAST]
    table = message.get("table") or message["table"]
    if not default or table != _TABLE_MAIN or message["proto"] == ROUTE_PROTOCOL:
        return []
    version, metric = _VERSION[message["family"]], int(message.get("priority") or 0)
    return [
        Gateway(LinkIndex(index), version, via, metric) for index, via in _next_hops(message)
    ]


def _next_hops(message: Message) -> list[tuple[int, IPAddress | None]]:
    if message.get("oif"):
        via = message.get("gateway")
        return [(message.get("oif"), ip_address(via) if via else None)]
    hops = message.get("multipath") or []
    return [
        (hop["oif"], ip_address(hop.get("gateway")) if hop.get("gateway") else None)
        for hop in hops
    ]


def _parse_address(message: Message) -> LinkAddress:
    # On a point-to-point link IFA_ADDRESS is the other end, IFA_LOCAL is ours.
    address = ip_address(message.get("local") or message.get("address"))
    flags = message.get("flags") or message["flags"]
    unusable = flags & _UNUSABLE_ADDRESS and not flags & _OPTIMISTIC
    usable = not unusable and message["scope"] == 0 and not address.is_link_local
    return LinkAddress(LinkIndex(message["index"]), address, usable)


def _parse_route(message: Message, names: dict[int, str]) -> Route:
    version = _VERSION[message["family"]]
    destination = message.get("dst")
    network: IPNetwork = (
        ip_network(f"{destination}/{message['dst_len']}") if destination else _ANY[version]
    )
    via = message.get("gateway")
    source = message.get("prefsrc")
    metric = int(message.get("priority") or 0)
    metrics = message.get("metrics")
    kind = _KIND_OF.get(message["type"], RouteKind.UNICAST)
    return Route(
        table=TableId(message.get("table") or message["table"]),
        destination=network,
        kind=kind,
        link=None if kind is RouteKind.UNREACHABLE else names.get(message.get("oif")),
        gateway=ip_address(via) if via else None,
        source=ip_address(source) if source else None,
        metric=0 if version == 6 and metric == 1024 else metric,
        mtu=metrics.get("mtu") if metrics else None,
    )


def _parse_rule(message: Message) -> Rule:
    source = message.get("src")
    mark = message.get("fwmark")
    suppress = message.get("suppress_prefixlen")
    none = 0xFFFF_FFFF  # what the kernel reports where no suppression is set
    return Rule(
        priority=int(message.get("priority") or 0),
        version=_VERSION[message["family"]],
        table=TableId(message.get("table") or message["table"]),
        source=ip_network(f"{source}/{message['src_len']}") if source else None,
        mark=int(mark) if mark else None,
        mark_inverted=bool(message["flags"] & 2),
        suppress_prefixlength=None if suppress in (None, none) else int(suppress),
    )
