"""Whether IKE, SAs, policies, rules and routes are exactly as desired, on both sides.

What is desired is made anew from what the daemons say of themselves, and compared with what
both charons and both kernels have. The rules, each with the function that looks at it:

1. Each tunnel that a daemon speaks of is one IKE_SA with one CHILD_SA at rest, and charon has
   no other (`_of_ike`).
2. The kernel has the two SAs of each, as they were negotiated, and no other (`_of_sas`).
3. Both sides have the same tunnels (`leftovers`).
4. Policies, rules, routes and addresses of ours are those of an endpoint, or of a server, with
   these tunnels (`_of_endpoint`, `_of_server`).
"""

import asyncio
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Any

from orchestrator.adapters.rtnetlink import Rtnetlink
from orchestrator.adapters.xfrm import Xfrm
from orchestrator.core.endpoint_state import (
    PRIORITY_PATH,
    EndpointState,
    Inner,
    endpoint_objects,
)
from orchestrator.core.kernel import (
    ENDPOINT_REQID,
    MARK_PROBE,
    POLICY_PRIORITY_PROBE,
    Address,
    Direction,
    KernelObject,
    Policy,
    Route,
    Rule,
    Template,
)
from orchestrator.core.paths import Path
from orchestrator.core.quantities import LinkIndex, Reqid, Spi
from orchestrator.core.server_state import ServerState, server_objects, session_objects
from orchestrator.lab.internet import INTERNET
from orchestrator.services.reconciler import TUNS
from tests.scenarios.keying import associations, ike_sas, weakened
from tests.scenarios.world import SERVER_ADDRESS, Side, World

Told = dict[str, Any]
Pair = tuple[Spi, Spi]
"""What comes in and what goes out."""


def leftovers(world: World) -> list[str]:
    """What is there and should not be, or the other way round; empty: all is as desired."""
    paths, sessions = world.endpoint.paths(), world.server.sessions()
    tunnels = [path for path in paths if path["ike_sa"] is not None]
    mine = {(Spi(int(t["spi_in"], 16)), Spi(int(t["spi_out"], 16))) for t in tunnels}
    theirs = [tunnel for session in sessions for tunnel in session["tunnels"]]
    found = [
        f"the endpoint has a tunnel that is {tunnel['state']}"
        for tunnel in tunnels
        if tunnel["state"] not in ("active", "warm")
    ]
    if {spi for spi, _ in mine} != {Spi(int(tunnel["spi_out"], 16)) for tunnel in theirs}:
        found.append(f"the endpoint has {sorted(mine)}, the server {theirs}")
    found += _of_ike(world.endpoint, mine)
    found += _of_ike(world.server, {(spi_out, spi_in) for spi_in, spi_out in mine})
    found += _of_sas(world.endpoint, mine)
    found += _of_sas(world.server, {(spi_out, spi_in) for spi_in, spi_out in mine})
    found += _of_endpoint(world, paths)
    found += _of_server(world, sessions)
    return found


def _of_ike(side: Side, pairs: set[Pair]) -> Iterator[str]:
    listed = ike_sas(side)
    for sa in listed:
        if not sa.rests:
            yield f"{side.role}'s charon has {sa}"
    has = sorted((child.spi_in, child.spi_out) for sa in listed for child in sa.children)
    if has != sorted(pairs):
        yield f"{side.role}'s charon has {_hex(has)} instead of {_hex(pairs)}"


def _of_sas(side: Side, pairs: set[Pair]) -> Iterator[str]:
    has, inbound = associations(side), {spi_in for spi_in, _ in pairs}
    spis = {spi for pair in pairs for spi in pair}
    for sa in has:
        if sa.spi not in spis:
            yield f"{side.role}'s kernel has {sa}"
        else:
            faults = weakened(sa, inbound=sa.spi in inbound)
            yield from (f"{side.role}: {fault}" for fault in faults)
    for spi in spis - {sa.spi for sa in has}:
        yield f"{side.role}'s kernel has no SA {spi:08x}"


def _hex(pairs: Iterable[Pair]) -> list[str]:
    return [f"{spi_in:08x}/{spi_out:08x}" for spi_in, spi_out in sorted(pairs)]


def _of_endpoint(world: World, told: list[Told]) -> Iterator[str]:
    found = kernel_objects(world.endpoint)
    tables = {
        rule.source.network_address: rule.table
        for rule in found
        if isinstance(rule, Rule) and rule.priority == PRIORITY_PATH and rule.source
    }
    paths = {_path(each): each for each in told}
    missing = [path for path in paths if path.pop not in tables]
    if missing:
        yield f"no rule leads along {missing}"
        return
    ways = {path: Template(path.pop, path.server, ENDPOINT_REQID) for path in paths}
    active = [way for path, way in ways.items() if paths[path]["state"] == "active"]
    warm = {way for path, way in ways.items() if paths[path]["state"] == "warm"}
    slots = _slots(found)
    if set(slots.values()) != warm or len(slots) != len(warm):
        yield f"endpoint: the ways of probes are {slots} instead of {warm}"
    vips = tuple(ip_address(vip) for vip in world.endpoint.status()["vip"])
    state = EndpointState(
        Inner(),
        vips,
        {path: tables[path.pop] for path in paths},
        active[0] if active else None,
        warm=tuple(slots.items()),
    )
    yield from _difference("endpoint", endpoint_objects(state), found)


def _of_server(world: World, sessions: list[Told]) -> Iterator[str]:
    found = kernel_objects(world.server)
    wanted = list(server_objects(ServerState(INTERNET.vip_pools, "")))
    for session in sessions:
        vips = tuple(ip_address(vip) for vip in session["vip"])
        spis = {Spi(int(tunnel["spi_out"], 16)) for tunnel in session["tunnels"]}
        slots = _slots(found)
        for way in slots.values():
            if way.spi not in spis:
                yield f"server: an answer's way leads into {way}, which is no tunnel"
        pop = ip_address(session["pop"].rpartition(":")[0]) if session["pop"] else None
        here = SERVER_ADDRESS if pop is None or pop.version == 4 else None
        (used,) = {
            policy.template
            for policy in found
            if isinstance(policy, Policy)
            and policy.direction is Direction.OUT
            and policy.selector.destination.network_address in vips
            and policy.priority != POLICY_PRIORITY_PROBE
        }
        if used is None or used.destination != pop or here not in (None, used.source):
            yield f"server: {session['identity']} is sent into {used} instead of to {pop}"
        wanted += session_objects(vips, Reqid(session["reqid"]), used, slots)
    yield from _difference("server", wanted, found)


def _path(told: Told) -> Path:
    gateway = told["gateway"]
    return Path(
        LinkIndex(told["ifindex"]),
        told["link"],
        ip_address(told["pop"]),
        None if gateway is None else ip_address(gateway),
        ip_address(told["server"]),
    )


def _slots(found: Iterable[KernelObject]) -> dict[int, Template]:
    return {
        policy.selector.mark & ~MARK_PROBE: policy.template
        for policy in found
        if isinstance(policy, Policy)
        and policy.priority == POLICY_PRIORITY_PROBE
        and policy.template is not None
    }


def kernel_objects(side: Side) -> tuple[KernelObject, ...]:
    """Its policies, rules, routes and addresses that have our name on them."""

    async def read() -> tuple[KernelObject, ...]:
        async with Rtnetlink() as rtnetlink:
            with Xfrm() as xfrm:
                return (*xfrm.policies(), *await rtnetlink.present(TUNS))

    found: tuple[KernelObject, ...] = side.host.inside(asyncio.run, read())
    return found


def _difference(
    name: str, wanted: Iterable[KernelObject], found: Iterable[KernelObject]
) -> Iterator[str]:
    wanted = {each for each in wanted if isinstance(each, Policy | Rule | Route | Address)}
    found = set(found)
    yield from (f"{name} has {each!r}" for each in found - wanted)
    yield from (f"{name} lacks {each!r}" for each in wanted - found)
