"""rtnetlink messages that put and drop addresses, routes and rules: bodies only, out only.

pyroute2 reads what the kernel says, where we take our time. What it writes costs it some 1,500
calls a message, six times in each roam, and a roam waits for it.

Layouts from include/uapi/linux/{rtnetlink,if_addr,fib_rules}.h, in the host's byte order.
"""

from enum import IntEnum
from struct import Struct
from typing import Final

from orchestrator.core.kernel import (
    MARK_MASK,
    ROUTE_PROTOCOL,
    Address,
    Route,
    RouteKind,
    Rule,
)
from orchestrator.wire.netlink import attribute

AF: Final = {4: 2, 6: 10}
"""AF_INET and AF_INET6, by version."""
KINDS: Final = {RouteKind.UNICAST: 1, RouteKind.LOCAL: 2, RouteKind.UNREACHABLE: 7}
"""RTN_*"""

_IFADDR: Final = Struct("=BBBBI")
"""struct ifaddrmsg: family, prefixlen, flags, scope, index"""
_RTMSG: Final = Struct("=BBBBBBBBI")
"""struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags"""
_RULE: Final = Struct("=BBBBBxxBI")
"""struct fib_rule_hdr: family, dst_len, src_len, tos, table, action, flags"""
_U8: Final = Struct("=B")
_U32: Final = Struct("=I")

_IFA_F_NODAD: Final = 0x02
_SCOPE_LINK: Final = 253
_SCOPE_HOST: Final = 254
_SCOPE_NOWHERE: Final = 255
"""Of a route to be deleted: whatever its scope."""
_RTNH_F_ONLINK: Final = 4
_RTAX_MTU: Final = 2
_ACTION_TO_TABLE: Final = 1
_RULE_INVERTED: Final = 2


class Message(IntEnum):
    """RTM_*"""

    NEWADDR = 20
    DELADDR = 21
    NEWROUTE = 24
    DELROUTE = 25
    NEWRULE = 32
    DELRULE = 33


class _Address(IntEnum):
    """IFA_*"""

    ADDRESS = 1
    LOCAL = 2


class _Route(IntEnum):
    """RTA_*"""

    DST = 1
    OIF = 4
    GATEWAY = 5
    PRIORITY = 6
    PREFSRC = 7
    METRICS = 8
    TABLE = 15


class _Rule(IntEnum):
    """FRA_*"""

    SRC = 2
    PRIORITY = 6
    FWMARK = 10
    SUPPRESS_PREFIXLEN = 14
    TABLE = 15
    FWMASK = 16
    PROTOCOL = 21


def encode_address(address: Address, index: int) -> bytes:
    """`index` is that of its device. Nobody else is on a TUN, so no duplicate is looked for."""
    version, octets = address.address.version, address.address.packed
    flags = _IFA_F_NODAD if version == 6 else 0
    return (
        _IFADDR.pack(AF[version], address.address.max_prefixlen, flags, 0, index)
        + attribute(_Address.LOCAL, octets)
        + attribute(_Address.ADDRESS, octets)
    )


def encode_route(route: Route, index: int | None) -> bytes:
    """`index` is that of its device, if it has one. The gateway needs no route of its own."""
    flags = _RTNH_F_ONLINK if route.gateway is not None else 0
    body = _head(route, _scope(route), flags) + _way(route, index)
    if route.source is not None:
        body += attribute(_Route.PREFSRC, route.source.packed)
    if route.mtu is not None:
        metrics = attribute(_RTAX_MTU, _U32.pack(route.mtu))
        body += attribute(_Route.METRICS, metrics)
    return body


def encode_route_id(route: Route, index: int | None) -> bytes:
    """The route as it is found, to be deleted."""
    scope = _SCOPE_NOWHERE if route.destination.version == 4 else 0
    return _head(route, scope, 0) + _way(route, index)


def encode_rule(rule: Rule) -> bytes:
    """The same to put it and to delete it: the kernel compares all of it."""
    source_length = 0 if rule.source is None else rule.source.prefixlen
    flags = _RULE_INVERTED if rule.mark_inverted else 0
    body = _RULE.pack(AF[rule.version], 0, source_length, 0, 0, _ACTION_TO_TABLE, flags)
    body += attribute(_Rule.PRIORITY, _U32.pack(rule.priority))
    body += attribute(_Rule.TABLE, _U32.pack(rule.table))
    body += attribute(_Rule.PROTOCOL, _U8.pack(ROUTE_PROTOCOL))
    if rule.source is not None:
        body += attribute(_Rule.SRC, rule.source.network_address.packed)
    if rule.mark is not None:
        body += attribute(_Rule.FWMARK, _U32.pack(rule.mark))
        body += attribute(_Rule.FWMASK, _U32.pack(MARK_MASK))
    if rule.suppress_prefixlength is not None:
        body += attribute(_Rule.SUPPRESS_PREFIXLEN, _U32.pack(rule.suppress_prefixlength))
    return body


def _scope(route: Route) -> int:
    if route.kind is RouteKind.LOCAL:
        return _SCOPE_HOST
    direct = route.link is not None and route.gateway is None
    return _SCOPE_LINK if direct and route.destination.version == 4 else 0


def _head(route: Route, scope: int, flags: int) -> bytes:
    family, length = AF[route.destination.version], route.destination.prefixlen
    kind = KINDS[route.kind]
    return _RTMSG.pack(family, length, 0, 0, 0, ROUTE_PROTOCOL, scope, kind, flags)


def _way(route: Route, index: int | None) -> bytes:
    body = attribute(_Route.DST, route.destination.network_address.packed)
    body += attribute(_Route.TABLE, _U32.pack(route.table))
    if index is not None:
        body += attribute(_Route.OIF, _U32.pack(index))
    if route.gateway is not None:
        body += attribute(_Route.GATEWAY, route.gateway.packed)
    if route.metric:
        body += attribute(_Route.PRIORITY, _U32.pack(route.metric))
    return body
