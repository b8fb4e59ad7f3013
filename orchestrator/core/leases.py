"""Decides which virtual addresses an identity may use.

1. An identity has the addresses that the operator fixed for it; else those leased to it before;
   else whichever free ones it was offered.
2. No address ever belongs to two identities, not even while one of them is away.
3. Never given out: the pool's own address, its first host (routers like to be there), the
   broadcast address of IPv4, and what is fixed for somebody else.
4. Of the free addresses the lowest is next: same leases, same answer.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from orchestrator.core.quantities import IPAddress, IPNetwork

_RANGE: Final = re.compile(r"[0-9a-fA-F.:]+[/-][0-9a-fA-F.:]+")
"""A subnet or a range of addresses."""


class AddressPlan(Protocol):
    """What the operator decided about virtual addresses."""

    @property
    def pools(self) -> tuple[IPNetwork, ...]: ...

    @property
    def static(self) -> Mapping[str, tuple[IPAddress, ...]]: ...


@dataclass(frozen=True, slots=True)
class Lease:
    """Virtual addresses that belong to an identity, present or away."""

    identity: str
    vips: tuple[IPAddress, ...]
    """One, or one of each family; IPv4 first."""
    static: bool = False
    """The operator fixed it: it does not expire."""
    created: str = ""
    """Wall time, ISO 8601; for people."""
    last_seen: str = ""


class Refusal(StrEnum):
    TAKEN = "virtual-address-taken"
    """The operator's fixed address is still leased to somebody else."""
    EXHAUSTED = "no-virtual-address-left"


@dataclass(frozen=True, slots=True)
class Accept:
    """The identity may use what it was offered."""

    vips: tuple[IPAddress, ...]
    """All that belong to it: what was offered, and perhaps one of the other family."""
    fresh: bool
    """The lease has to be written down."""


@dataclass(frozen=True, slots=True)
class Reassign:
    """The identity must use these instead."""

    vips: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    reason: Refusal


Decision = Accept | Reassign | Refuse


def decide(
    plan: AddressPlan, leases: Iterable[Lease], identity: str, offered: Collection[IPAddress]
) -> Decision:
    """May `identity` use the addresses that IKE offered it? Changes nothing."""
    known = {lease.identity: lease for lease in leases}
    foreign = _foreign(plan, known.values(), identity)
    lease = known.get(identity)
    own = plan.static.get(identity, ())
    if not own and lease is not None and fits(plan, lease):
        own = lease.vips
    if own:
        if not foreign.isdisjoint(own):
            return Refuse(Refusal.TAKEN)
        if offered and set(offered) <= set(own):
            return Accept(own, fresh=lease is None or set(lease.vips) != set(own))
        return Reassign(own)
    versions = [vip.version for vip in offered]
    if offered and len(versions) == len(set(versions)):
        free = all(_may_give(plan, vip) and vip not in foreign for vip in offered)
        if free:
            return Accept(in_order(offered), fresh=True)
    wanted = set(versions) or {pool.version for pool in plan.pools}
    instead = (_first_free(plan, foreign, version) for version in sorted(wanted))
    found = tuple(vip for vip in instead if vip is not None)
    return Reassign(found) if found else Refuse(Refusal.EXHAUSTED)


def next_free(pool: IPNetwork, plan: AddressPlan, leases: Iterable[Lease]) -> IPAddress | None:
    """The address of the pool that a newcomer gets next; None: the pool is exhausted."""
    return _free_in(pool, _foreign(plan, leases, None))


def free(pool: IPNetwork, plan: AddressPlan, leases: Iterable[Lease]) -> int:
    """How many addresses of the pool belong to nobody."""
    first, last = _given(pool)
    taken = sum(vip in pool and _may_give(plan, vip) for vip in _foreign(plan, leases, None))
    return last - first + 1 - taken


def fits(plan: AddressPlan, lease: Lease) -> bool:
    """Whether the plan still allows the lease; it does not after the operator moved the pools,
    or fixed the address for somebody else."""
    fixed = plan.static.get(lease.identity)
    if fixed is not None:
        return set(lease.vips) == set(fixed)
    return not overruled(plan, lease) and all(_may_give(plan, vip) for vip in lease.vips)


def names_many(identity: str) -> bool:
    """Whether charon takes the identity for a pattern: a connection that is loaded for it would
    be everybody's whom it fits (libstrongswan, utils/identification.c)."""
    return "*" in identity or identity.startswith("%") or bool(_RANGE.fullmatch(identity))


def overruled(plan: AddressPlan, lease: Lease) -> bool:
    """Whether the operator has fixed an address of the lease for somebody else."""
    others = (vips for name, vips in plan.static.items() if name != lease.identity)
    return any(vip in lease.vips for vips in others for vip in vips)


def in_order(vips: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
    """IPv4 first."""
    return tuple(sorted(vips, key=lambda vip: vip.version))


def _foreign(
    plan: AddressPlan, leases: Iterable[Lease], identity: str | None
) -> frozenset[IPAddress]:
    """What belongs to identities other than this one."""
    leased = {vip for each in leases if each.identity != identity for vip in each.vips}
    fixed = {vip for name, vips in plan.static.items() if name != identity for vip in vips}
    return frozenset(leased | fixed)


def _first_free(
    plan: AddressPlan, foreign: Collection[IPAddress], version: int
) -> IPAddress | None:
    found = (_free_in(pool, foreign) for pool in plan.pools if pool.version == version)
    return next((vip for vip in found if vip is not None), None)


def _free_in(pool: IPNetwork, foreign: Collection[IPAddress]) -> IPAddress | None:
    first, last = _given(pool)
    for offset in range(first, last + 1):
        vip = pool[offset]
        if vip not in foreign:
            return vip
    return None


def _may_give(plan: AddressPlan, vip: IPAddress) -> bool:
    for pool in plan.pools:
        if vip in pool:
            first, last = _given(pool)
            return first <= int(vip) - int(pool.network_address) <= last
    return False


def _given(pool: IPNetwork) -> tuple[int, int]:
    """Offsets of the first and the last address that may be given out (rule 3)."""
    return 2, pool.num_addresses - (2 if pool.version == 4 else 1)
