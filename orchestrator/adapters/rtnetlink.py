"""Talks rtnetlink: reads links, addresses, routes and rules, watches them, writes ours.

pyroute2 reads; what a roam waits for, our addresses, routes and rules, we write ourselves, in a
twentieth of its calls (`wire.netlink_route`), synchronously.

Reading is a full dump once and increments after it (`core.picture`); when the kernel says that
it dropped messages (ENOBUFS) everything is read again. What has come by the time that we read
is one piece of news: of a roam tell a dozen messages within a millisecond or two. Writing is
idempotent: what is there already and what is gone already are both fine.
"""

import asyncio
import errno
import socket
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fcntl import ioctl
from ipaddress import ip_address, ip_network
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Any, Final, Self

from pyroute2 import AsyncIPRoute
from pyroute2.netlink import NLM_F_REPLACE, rtnl
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from orchestrator.adapters.netlink import (
    DATAGRAM_SIZE,
    DATAGRAMS_PER_READ,
    Order,
    Requests,
    subscribed,
)
from orchestrator.core.errors import KernelError
from orchestrator.core.kernel import (
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
from orchestrator.core.plan import Drop, Operation, Put
from orchestrator.core.quantities import (
    IPAddress,
    IPNetwork,
    LinkIndex,
    TableId,
)
from orchestrator.wire.netlink import Flag
from orchestrator.wire.netlink_route import (
    AF,
    KINDS,
    Message,
    encode_address,
    encode_route,
    encode_route_id,
    encode_rule,
)

RoutedObject = Address | Route | Rule
Told = Any
"""A pyroute2 message: a dictionary with attribute access that has no types."""

_VERSION: Final = {family: version for version, family in AF.items()}
_IFF_UP: Final = 0x1
_IFREQ: Final = Struct("=16s24s")
"""struct ifreq: a name, and what is asked for."""
_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFMTU: Final = 0x8921
_IFF_LOWER_UP: Final = 0x10000
_UNUSABLE_ADDRESS: Final = 0x08 | 0x20 | 0x40
"""IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE (include/uapi/linux/if_addr.h)."""
_OPTIMISTIC: Final = 0x04
"""IFA_F_OPTIMISTIC: tentative, and yet allowed to be used (RFC 4429)."""
_KIND_OF: Final = {number: kind for kind, number in KINDS.items()}
_TABLE_MAIN: Final = 254
_OUR_LINKS: Final = (TUN_ENDPOINT, TUN_SERVER)
_ANY: Final = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
_MONITOR_BUFFER: Final = 1 << 20
"""Octets, which the kernel doubles: some 1,000 messages between two reads."""
_CHANGED: Final = Flag.CREATE | Flag.REPLACE
_ADDED: Final = Flag.CREATE | Flag.EXCLUSIVE
_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})
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
    """One request socket of ours and one of pyroute2's; `watch` opens another for the multicast
    groups."""

    def __init__(self) -> None:
        self._requests = Requests(socket.NETLINK_ROUTE)
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
        self._requests.close()
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

    def _did(self, message: Told) -> bool:
        """Whether the message tells of what this very object asked for."""
        ours = (self._requests.port, self._ip.status["epid"])
        return message["header"]["pid"] in ours

    async def _read(self) -> Picture:
        picture = Picture()
        for what in ("links", "addr", "routes"):
            for message in await self._dump(what):
                _absorb(picture, message)
        return picture

    async def _every_gateway(self) -> list[Gateway]:
        return [each for message in await self._dump("routes") for each in _gateways(message)]

    async def _dump(self, what: str, **arguments: object) -> list[Told]:
        """Everything of a kind, read to its end: until then the kernel refuses to begin another
        dump on the same socket (EBUSY; net/netlink/af_netlink.c, __netlink_dump_start)."""
        async with self._dumping:
            try:
                answer = await getattr(self._ip, f"get_{what}")(**arguments)
                return [message async for message in answer]
            except NetlinkError as error:
                raise KernelError(error.code, "read", what, str(error)) from error

    def write(self, operations: Iterable[Operation]) -> list[KernelError | None]:
        """Puts and drops addresses, routes and rules, in their order; why the kernel refused
        each, if it did. An address or route that is there already is made as wanted; to drop
        what is not there is fine. Raises TypeError for anything else."""
        asked = [_asked(operation) for operation in operations]
        orders = [each for each in asked if isinstance(each, Order)]
        answers = iter(self._requests.orders(orders))
        return [next(answers) if isinstance(each, Order) else each for each in asked]

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

    def tun_mtu(self, name: str) -> int | None:
        """The MTU of the device if it exists and is up (netdevice(7)): rtnetlink would list
        every link of the host, and each of them is long."""
        asked = _IFREQ.pack(name.encode(), b"")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            try:
                _, flags = _IFREQ.unpack(ioctl(any_socket, _SIOCGIFFLAGS, asked))
                _, mtu = _IFREQ.unpack(ioctl(any_socket, _SIOCGIFMTU, asked))
            except OSError:
                return None
        up = int.from_bytes(flags[:2], sys.byteorder) & _IFF_UP
        return int.from_bytes(mtu[:4], sys.byteorder) if up else None

    async def present(self, tuns: Iterable[str]) -> tuple[RoutedObject, ...]:
        """Every address on the devices `tuns`, every route and rule with our protocol."""
        found: list[RoutedObject] = []
        wanted = frozenset(tuns)
        for message in await self._dump("addr"):
            link = _name(message["index"])
            address = ip_address(message.get("local") or message.get("address"))
            if link is not None and link in wanted and not address.is_link_local:
                found.append(Address(link, address))
        found += [
            _parse_route(message)
            for message in await self._dump("routes")
            if message["proto"] == ROUTE_PROTOCOL
        ]
        for version in (4, 6):
            found += [
                _parse_rule(message)
                for message in await self._dump("rules", family=AF[version])
                if message.get("protocol") == ROUTE_PROTOCOL
            ]
        return tuple(found)


class _Monitor:
    """What the kernel tells everybody of the network, of which we decode what matters."""

    def __init__(self) -> None:
        self._socket = subscribed(socket.NETLINK_ROUTE, _GROUPS, _MONITOR_BUFFER)
        self._marshal = MarshalRtnl()

    def close(self) -> None:
        self._socket.close()

    async def read(self) -> list[Told]:
        """What has come, perhaps nothing that matters; waits until something has.

        Raises OSError, with ENOBUFS where the kernel had to drop messages.
        """
        first = await asyncio.get_running_loop().sock_recv(self._socket, DATAGRAM_SIZE)
        return [
            message
            for datagram in (first, *self._waiting())
            if _may_matter(datagram)
            for message in self._marshal.parse(datagram)
        ]

    def _waiting(self) -> Iterator[bytes]:
        for _ in range(DATAGRAMS_PER_READ):
            try:
                yield self._socket.recv(DATAGRAM_SIZE)
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


def _name(index: int | None) -> str | None:
    try:
        return None if index is None else socket.if_indextoname(index)
    except OSError:
        return None  # it is gone meanwhile


def _asked(operation: Operation) -> Order | KernelError | None:
    """What to ask the kernel for; where the link is missing that it is about, why it cannot be
    put, or None: it is gone."""
    try:
        return _order(operation)
    except KernelError as error:
        return error if isinstance(operation, Put) else None


def _order(operation: Operation) -> Order:
    match operation:
        case Put(Address() as address):
            body = encode_address(address, _index(address.link))
            return Order(Message.NEWADDR, body, "put", address, _CHANGED)
        case Put(Route() as route):
            body = encode_route(route, _index_of_link(route))
            return Order(Message.NEWROUTE, body, "put", route, _CHANGED)
        case Put(Rule() as rule):
            # The kernel replaces none, and would keep two that are the same.
            there = frozenset({errno.EEXIST})
            return Order(Message.NEWRULE, encode_rule(rule), "put", rule, _ADDED, there)
        case Drop(Address() as address):
            body = encode_address(address, _index(address.link))
            return Order(Message.DELADDR, body, "drop", address, fine=_GONE)
        case Drop(Route() as route):
            body = encode_route_id(route, _index_of_link(route))
            return Order(Message.DELROUTE, body, "drop", route, fine=_GONE)
        case Drop(Rule() as rule):
            return Order(Message.DELRULE, encode_rule(rule), "drop", rule, fine=_GONE)
    raise TypeError(f"no address, route or rule: {operation}")


def _index_of_link(route: Route) -> int | None:
    return None if route.link is None else _index(route.link)


def _absorb(picture: Picture, message: Told) -> bool:
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


def _shows_as_ours(picture: Picture, message: Told) -> bool:
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


def _may_be_behind(picture: Picture, message: Told) -> bool:
    """Whether gateways may be gone of which no message tells: with one of several IPv4
    addresses of a link go the routes that need it."""
    if message["event"] != "RTM_DELADDR" or _VERSION[message["family"]] != 4:
        return False
    return picture.has_ipv4(message["index"])


def _gateways(message: Told) -> list[Gateway]:
    """Those of a default route that is in the main table and is not ours; of others none."""
    default = message["dst_len"] == 0 and message["type"] == KINDS[RouteKind.UNICAST]
    table = message.get("table") or message["table"]
    if not default or table != _TABLE_MAIN or message["proto"] == ROUTE_PROTOCOL:
        return []
    version, metric = _VERSION[message["family"]], int(message.get("priority") or 0)
    return [
        Gateway(LinkIndex(index), version, via, metric) for index, via in _next_hops(message)
    ]


def _next_hops(message: Told) -> list[tuple[int, IPAddress | None]]:
    if message.get("oif"):
        via = message.get("gateway")
        return [(message.get("oif"), ip_address(via) if via else None)]
    hops = message.get("multipath") or []
    return [
        (hop["oif"], ip_address(hop.get("gateway")) if hop.get("gateway") else None)
        for hop in hops
    ]


def _parse_address(message: Told) -> LinkAddress:
    # On a point-to-point link IFA_ADDRESS is the other end, IFA_LOCAL is ours.
    address = ip_address(message.get("local") or message.get("address"))
    flags = message.get("flags") or message["flags"]
    unusable = flags & _UNUSABLE_ADDRESS and not flags & _OPTIMISTIC
    usable = not unusable and message["scope"] == 0 and not address.is_link_local
    return LinkAddress(LinkIndex(message["index"]), address, usable)


def _parse_route(message: Told) -> Route:
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
        link=None if kind is RouteKind.UNREACHABLE else _name(message.get("oif")),
        gateway=ip_address(via) if via else None,
        source=ip_address(source) if source else None,
        metric=0 if version == 6 and metric == 1024 else metric,
        mtu=metrics.get("mtu") if metrics else None,
    )


def _parse_rule(message: Told) -> Rule:
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
