"""What an endpoint wants in its kernel, as a function of what it knows.

The routing, read from the top (`ip rule`):

    11101   underlay packets from a POP     -> the table of their path
    11102   the same, without a route there -> nowhere
    11140   other underlay packets          -> main
    11150   from the VIP                    -> the inner table, whatever else is there
    11160   destinations on attached links  -> main (full tunnel with local networks)
    11170   everything that is not underlay -> the inner table: `default dev vip0`

The policies: out, the VIP's packets take the active path, or fall into the TUN while there is
none; while the path is doubted, only those to the service take it. What is of a class of flows
is marked by the firewall, and may take a way of its own by that mark. In and fwd, nothing for
the VIP is accepted that did not come out of one of our SAs.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final

from orchestrator.core.firewall import endpoint_ruleset
from orchestrator.core.flow_class import FlowClass
from orchestrator.core.flow_rules import class_chains, flows_mark
from orchestrator.core.kernel import (
    ENDPOINT_REQID,
    MARK_PROBE,
    MARK_TO_SENDERS,
    MARK_UNDERLAY,
    POLICY_PRIORITY,
    POLICY_PRIORITY_FLOWS,
    POLICY_PRIORITY_LOCAL,
    POLICY_PRIORITY_POOL,
    POLICY_PRIORITY_PROBE,
    POLICY_PRIORITY_SERVICE,
    TABLE_INNER,
    TABLE_NOWHERE,
    TUN_ENDPOINT,
    Address,
    Direction,
    KernelObject,
    Policy,
    Route,
    RouteKind,
    Rule,
    Ruleset,
    Selector,
    Template,
    Tun,
    Verdict,
)
from orchestrator.core.paths import Path
from orchestrator.core.quantities import IPAddress, IPNetwork, TableId, host_network

SERVICE: Final[dict[int, IPAddress]] = {
    4: IPv4Address("192.0.0.8"),
    6: IPv6Address("fd6f:7263:6865::1"),
}
"""Where the server answers inside the tunnel, per family of the VIP. 192.0.0.8 is the IPv4
dummy address (RFC 7600): nobody else can be reached there, and it never leaves the tunnel."""
SERVICE_PORT: Final = 4242
EVERYTHING: Final[dict[int, IPNetwork]] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
TABLE_MAIN: Final = TableId(254)

LAST_RESORT: Final = 0xFFFF
"""A route metric below every other route of the inner table."""
PRIORITY_PATH: Final = 11101
PRIORITY_NOWHERE: Final = 11102
"""Where the route of its link is gone, a packet would leave over another one.

A last resort in the table of the path would stop it too, but IPv6 would take it whenever the
gateway was not heard for a moment: of the routes of a table the kernel prefers any to one whose
neighbour has failed, and then nobody asks for that neighbour again (net/ipv6/route.c,
rt6_check_neigh)."""
PRIORITY_UNDERLAY: Final = 11140
PRIORITY_VIP: Final = 11150
PRIORITY_LOCAL: Final = 11160
PRIORITY_INNER: Final = 11170


@dataclass(frozen=True, slots=True)
class Inner:
    """What the operator decided about the traffic inside."""

    prefixes: tuple[IPNetwork, ...] = ()
    """Destinations that go through the tunnel; empty means all of them (full tunnel)."""
    local_networks: bool = True
    """Full tunnel: whether destinations on attached links are reached directly."""
    mtu: int = 1380

    @property
    def full(self) -> bool:
        return not self.prefixes

    def destinations(self, version: int) -> tuple[IPNetwork, ...]:
        if self.full:
            return (EVERYTHING[version],)
        own = tuple(prefix for prefix in self.prefixes if prefix.version == version)
        return (*own, host_network(SERVICE[version]))


@dataclass(frozen=True, slots=True)
class EndpointState:
    inner: Inner
    vips: tuple[IPAddress, ...] = ()
    tables: Mapping[Path, TableId] = field(default_factory=dict)
    """Every usable path, with the routing table that is its own."""
    active: Template | None = None
    """None: hold."""
    probed: Template | None = None
    """Where probes go while everything else is held; None: they take the active path."""
    limit: int | None = None
    """The largest packet that the active path carries, where that is less than `mtu`."""
    warm: tuple[tuple[int, Template], ...] = ()
    """Tunnels beside the active one: slot, and where the probes with its mark go."""
    flows: tuple[FlowClass, ...] = ()
    """All classes; the mark of each has its number."""
    bound: tuple[tuple[int, Template], ...] = ()
    """Classes that have a way of their own: number, and where it leads."""
    copied: tuple[tuple[int, int], ...] = ()
    """Classes that take the active path and another one: number, and the other one's slot. They
    fall into the TUN, as what is held does, and the daemon sends them."""

    def bind(self, number: int, way: Template, slot: int) -> "EndpointState":
        """With one more class that has a way of its own."""
        if self.active is not None and self.flows[number].redundant:
            return replace(self, copied=(*self.copied, (number, slot)))
        return replace(self, bound=(*self.bound, (number, way)))


def endpoint_objects(state: EndpointState) -> tuple[KernelObject, ...]:
    """Every kernel object of an endpoint in this state."""
    return (
        Tun(TUN_ENDPOINT, state.inner.mtu),
        _ruleset(state.vips, state.flows),
        *(Address(TUN_ENDPOINT, vip) for vip in state.vips),
        *_inner_routes(state),
        *_path_routes(state),
        *_rules(state),
        *(policy for vip in state.vips for policy in _policies(state, vip)),
    )


def ways_out(found: Iterable[KernelObject]) -> tuple[Policy, ...]:
    """Of what is found in a kernel, the policies that lead traffic, or at least the probes that
    go with it, into a tunnel; those for what takes a warm tunnel lead none."""
    return tuple(
        subject
        for subject in found
        if isinstance(subject, Policy)
        and (subject.direction, subject.verdict) == (Direction.OUT, Verdict.PROTECT)
        and subject.template is not None
        and subject.priority not in (POLICY_PRIORITY_FLOWS, POLICY_PRIORITY_PROBE)
    )


def lets_only_probes_out(found: Iterable[KernelObject]) -> bool:
    """Whether whoever left these waited for an answer, or had no way at all."""
    return all(policy.priority == POLICY_PRIORITY_SERVICE for policy in ways_out(found))


@lru_cache(maxsize=4)  # no move changes it
def _ruleset(vips: tuple[IPAddress, ...], flows: tuple[FlowClass, ...]) -> Ruleset:
    classes = class_chains(flows, SERVICE.values())
    return Ruleset(endpoint_ruleset(vips, TUN_ENDPOINT, further=classes))


def _inner_routes(state: EndpointState) -> Iterator[Route]:
    by_version = {vip.version: vip for vip in state.vips}
    for version in (4, 6):
        vip, service = by_version.get(version), host_network(SERVICE[version])
        for destination in state.inner.destinations(version):
            # Whatever becomes of the route to the TUN, and for a family without a virtual
            # address (yet): nothing leaves beside the tunnel.
            yield Route(TABLE_INNER, destination, RouteKind.UNREACHABLE, metric=LAST_RESORT)
            if vip is not None and destination != service:
                yield Route(
                    TABLE_INNER, destination, link=TUN_ENDPOINT, source=vip, mtu=state.limit
                )
        if vip is not None and (state.limit is not None or not state.inner.full):
            # Without the limit: probes ask whether more is carried by now.
            yield Route(TABLE_INNER, service, link=TUN_ENDPOINT, source=vip)


def _path_routes(state: EndpointState) -> Iterator[Route]:
    for version in {path.server.version: None for path in state.tables}:
        yield Route(TABLE_NOWHERE, EVERYTHING[version], RouteKind.UNREACHABLE)
    for path, table in state.tables.items():
        yield Route(
            table, EVERYTHING[path.server.version], link=path.link_name, gateway=path.gateway
        )


def _rules(state: EndpointState) -> Iterator[Rule]:
    for path, table in state.tables.items():
        for priority, way in ((PRIORITY_PATH, table), (PRIORITY_NOWHERE, TABLE_NOWHERE)):
            yield Rule(
                priority,
                path.pop.version,
                way,
                source=host_network(path.pop),
                mark=MARK_UNDERLAY,
            )
    for vip in state.vips:
        yield Rule(PRIORITY_VIP, vip.version, TABLE_INNER, source=host_network(vip))
    for version in (4, 6):
        yield Rule(PRIORITY_UNDERLAY, version, TABLE_MAIN, mark=MARK_UNDERLAY)
        if state.inner.full and state.inner.local_networks:
            yield Rule(PRIORITY_LOCAL, version, TABLE_MAIN, suppress_prefixlength=0)
        yield Rule(PRIORITY_INNER, version, TABLE_INNER, mark=MARK_UNDERLAY, mark_inverted=True)


def _policies(state: EndpointState, vip: IPAddress) -> Iterator[Policy]:
    own = host_network(vip)
    from_any_path = Template(None, None, ENDPOINT_REQID)
    service = host_network(SERVICE[vip.version])
    for slot, template in state.warm:
        selector = Selector(own, service, MARK_PROBE | slot)
        yield Policy(Direction.OUT, selector, Verdict.PROTECT, template, POLICY_PRIORITY_PROBE)
    if state.probed is not None and state.inner.full:
        yield _out(own, service, state.probed, POLICY_PRIORITY_SERVICE)
    for remote in state.inner.destinations(vip.version):
        if remote == service:
            way = state.active or state.probed
            yield _out(own, service, way, POLICY_PRIORITY_SERVICE)
        else:
            yield _out(own, remote, state.active, POLICY_PRIORITY)
            ways = (*state.bound, *((number, None) for number, _ in state.copied))
            for number, way in ways:
                yield _out(own, remote, way, POLICY_PRIORITY_FLOWS, flows_mark(number))
        for direction in (Direction.IN, Direction.FWD):
            yield Policy(direction, Selector(remote, own), Verdict.PROTECT, from_any_path)
    anything = EVERYTHING[vip.version]
    # From the host itself, such as the answers to its own probes while it is detached.
    yield Policy(
        Direction.IN,
        Selector(anything, own, MARK_TO_SENDERS),
        Verdict.ALLOW,
        priority=POLICY_PRIORITY_LOCAL,
    )
    if anything not in state.inner.destinations(vip.version):
        # Outside the prefixes the VIP is not used: neither sent nor accepted in clear.
        yield Policy(
            Direction.OUT,
            Selector(own, anything),
            Verdict.BLOCK,
            priority=POLICY_PRIORITY_POOL,
        )
        for direction in (Direction.IN, Direction.FWD):
            yield Policy(
                direction,
                Selector(anything, own),
                Verdict.BLOCK,
                priority=POLICY_PRIORITY_POOL,
            )


def _out(
    own: IPNetwork, remote: IPNetwork, way: Template | None, priority: int, mark: int = 0
) -> Policy:
    verdict = Verdict.PROTECT if way else Verdict.ALLOW
    return Policy(Direction.OUT, Selector(own, remote, mark), verdict, way, priority)
