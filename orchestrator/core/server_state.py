"""What the mobility server wants in its kernel: once for itself, and once for each session.

The virtual addresses are routed to a TUN. While a session is attached its out policy takes its
packets into an SA before they get there; while it is away they fall into the TUN and are
held. Nothing from a VIP is accepted unless it came out of an SA of that VIP's own reqid; VIPs
that no session holds are blocked.

What the service answers to a probe of a warm tunnel has a mark, and a policy that takes it into
that very tunnel, whatever becomes of everything else. So have flows that the endpoint sends
over another tunnel than everything else.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from orchestrator.core.endpoint_state import EVERYTHING, SERVICE, TABLE_MAIN
from orchestrator.core.flow_rules import flows_mark
from orchestrator.core.kernel import (
    MARK_COPIES,
    MARK_PROBE,
    MARK_TO_SENDERS,
    MARK_TPROXY,
    POLICY_PRIORITY_FLOWS,
    POLICY_PRIORITY_LOCAL,
    POLICY_PRIORITY_POOL,
    POLICY_PRIORITY_PROBE,
    TABLE_INNER,
    TUN_SERVER,
    Address,
    Direction,
    KernelObject,
    Policy,
    Route,
    RouteKind,
    Rule,
    Ruleset,
    Selector,
    Sysctl,
    Template,
    Tun,
    Verdict,
)
from orchestrator.core.quantities import IPAddress, IPNetwork, Reqid, TableId, host_network

PRIORITY_TPROXY: Final = 11100
PRIORITY_PROBE: Final = 11101
TABLE_PROBES: Final = TableId(11101)
"""For answers to probes: no session's limit stands there, so that they tell whether it still is
one."""
NONE_WARM: Final[Mapping[int, Template]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ServerState:
    pools: tuple[IPNetwork, ...]
    ruleset: str
    advertised: tuple[str, ...] = ()
    """Underlay interfaces that take router advertisements."""
    mtu: int = 1380


def server_objects(state: ServerState) -> tuple[KernelObject, ...]:
    """What stands for as long as the server does, whoever is connected."""
    objects: list[KernelObject] = [
        Tun(TUN_SERVER, state.mtu),
        Ruleset(state.ruleset),
        # A router takes no advertisements, unless it is told to: the default route of an
        # underlay that has it from one would go (Documentation/networking/ip-sysctl.rst).
        *(Sysctl(f"net/ipv6/conf/{link}/accept_ra", "2") for link in state.advertised),
        Sysctl("net/ipv4/ip_forward", "1"),
        Sysctl("net/ipv6/conf/all/forwarding", "1"),
    ]
    for pool in state.pools:
        everything = EVERYTHING[pool.version]
        objects += [
            Address(TUN_SERVER, SERVICE[pool.version]),
            Route(TABLE_MAIN, pool, link=TUN_SERVER, source=SERVICE[pool.version]),
            Route(TABLE_PROBES, pool, link=TUN_SERVER, source=SERVICE[pool.version]),
            Rule(PRIORITY_PROBE, pool.version, TABLE_PROBES, mark=MARK_PROBE),
            Route(TABLE_INNER, everything, RouteKind.LOCAL, link="lo"),
            Rule(PRIORITY_TPROXY, pool.version, TABLE_INNER, mark=MARK_TPROXY),
        ]
        # From the server itself to its proxy, in the name of an absent endpoint.
        objects.append(
            Policy(
                Direction.IN,
                Selector(pool, everything, MARK_TO_SENDERS),
                Verdict.ALLOW,
                priority=POLICY_PRIORITY_LOCAL,
            )
        )
        # What the daemon has from an SA of the endpoint, where it is whose it says.
        objects.append(
            Policy(
                Direction.FWD,
                Selector(pool, everything, MARK_COPIES),
                Verdict.ALLOW,
                priority=POLICY_PRIORITY_LOCAL,
            )
        )
        objects += [
            Policy(
                direction,
                Selector(pool, everything),
                Verdict.BLOCK,
                priority=POLICY_PRIORITY_POOL,
            )
            for direction in (Direction.IN, Direction.FWD)
        ]
    return tuple(objects)


def session_objects(
    vips: tuple[IPAddress, ...],
    reqid: Reqid | None,
    active: Template | None,
    warm: Mapping[int, Template] = NONE_WARM,
    limit: int | None = None,
    flows: Mapping[int, Template] = NONE_WARM,
) -> tuple[KernelObject, ...]:
    """One session's policies. `reqid` None: it has no SA; `active` None: hold its packets.

    `warm` has the tunnels, by slot, that answers with the mark `probe_mark` take; `flows` those
    that packets with the mark `flows_mark` take. `limit` is the largest packet for it: the
    kernel tells senders so (RFC 1191, RFC 8201).
    """
    objects: list[KernelObject] = []
    for vip in vips:
        own, everything = host_network(vip), EVERYTHING[vip.version]
        objects.append(
            Policy(
                Direction.OUT,
                Selector(everything, own),
                Verdict.PROTECT if active else Verdict.ALLOW,
                active,
            )
        )
        if limit is not None:
            source = SERVICE[vip.version]
            objects.append(Route(TABLE_MAIN, own, link=TUN_SERVER, source=source, mtu=limit))
        accepted = None if reqid is None else Template(None, None, reqid)
        objects += [
            Policy(
                direction,
                Selector(own, everything),
                Verdict.PROTECT if accepted else Verdict.BLOCK,
                accepted,
            )
            for direction in (Direction.IN, Direction.FWD)
        ]
        objects += _ways_back(vip, warm)
        objects += _ways_of_flows(vip, flows)
    return tuple(objects)


def _ways_of_flows(vip: IPAddress, flows: Mapping[int, Template]) -> Iterator[Policy]:
    """Into their tunnels; those that are sent twice, into the TUN, to the daemon."""
    everything, own = EVERYTHING[vip.version], host_network(vip)
    out, priority = Direction.OUT, POLICY_PRIORITY_FLOWS
    for slot, template in flows.items():
        selector = Selector(everything, own, flows_mark(slot))
        yield Policy(out, selector, Verdict.PROTECT, template, priority)
    if flows:
        selector = Selector(everything, own, MARK_COPIES)
        yield Policy(out, selector, Verdict.ALLOW, priority=priority)


def probe_mark(slot: int) -> int:
    """SO_MARK of an answer through the tunnel in this slot of the endpoint's session."""
    return MARK_PROBE | slot


def _ways_back(vip: IPAddress, warm: Mapping[int, Template]) -> Iterator[Policy]:
    service, own = host_network(SERVICE[vip.version]), host_network(vip)
    for slot, template in warm.items():
        yield Policy(
            Direction.OUT,
            Selector(service, own, probe_mark(slot)),
            Verdict.PROTECT,
            template,
            POLICY_PRIORITY_PROBE,
        )
