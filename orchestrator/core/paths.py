"""Which ways lead from here to the server, best first, and why the others do not.

A path is a link, our address on it (the point of presence), its gateway and one address of
the server, of either family. Rules:

1. A link counts when it is up, the operator does not exclude it, and it is not our TUN.
2. An address counts when it is usable and not a virtual one: a VIP is never an outer path.
3. The link must have a gateway of the server address's family.
4. The server may have other addresses as seen from one link than from another: what its name
   means there, what the network translates there (`core.lookups`).
5. Order: the operator's preference, then the route metric, then the lower link index. The
   metric alone never decides against the operator. On one link the server's addresses keep the
   order they are given in.
6. A link that costs money by what it carries comes after all that do not, whatever is preferred
   among them (`LinkChoice.rank`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

from orchestrator.core.kernel import TUN_ENDPOINT, TUN_SERVER
from orchestrator.core.network import Gateway, Link, LinkAddress, Snapshot
from orchestrator.core.quantities import IPAddress, LinkIndex

TUNS: Final = (TUN_ENDPOINT, TUN_SERVER)
Preferred = str | tuple[str, ...]
"""A class of links that are equal to the operator: a glob, or several."""


@dataclass(frozen=True, slots=True)
class Path:
    link: LinkIndex
    link_name: str
    pop: IPAddress
    gateway: IPAddress | None
    server: IPAddress

    def __str__(self) -> str:
        return f"{self.link_name} {self.pop} -> {self.server}"


@dataclass(frozen=True, slots=True)
class Servers:
    """The server's addresses, best first."""

    everywhere: tuple[IPAddress, ...]
    on: Mapping[LinkIndex, tuple[IPAddress, ...]] = field(default_factory=dict)
    """Instead, on these links."""

    def seen_from(self, link: LinkIndex) -> tuple[IPAddress, ...]:
        return self.on.get(link, self.everywhere)


@dataclass(frozen=True, slots=True)
class LinkChoice:
    """What the operator says about links: globs of interface names."""

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    preference: tuple[Preferred, ...] = ()
    """Classes, best first; links that no glob names come last."""
    metered: tuple[str, ...] = ()
    """Links whose traffic costs money."""

    def allows(self, name: str) -> bool:
        return _matches(name, self.include) and not _matches(name, self.exclude)

    def is_metered(self, name: str) -> bool:
        return _matches(name, self.metered)

    @property
    def ranks(self) -> int:
        """How many there are."""
        return 2 * (len(self.preference) + 1)

    def class_of(self, name: str) -> int:
        """0 is best."""
        classes = ((each,) if isinstance(each, str) else each for each in self.preference)
        named = (number for number, globs in enumerate(classes) if _matches(name, globs))
        return next(named, len(self.preference))

    def rank(self, name: str) -> int:
        """0 is best; links of one rank are equal to the operator."""
        return self.class_of(name) + (self.ranks // 2 if self.is_metered(name) else 0)


class Absence(StrEnum):
    """Why there is no path at all; the most hopeful reason is the one shown."""

    NO_LINK = "no-link"
    NO_CARRIER = "no-carrier"
    NO_ADDRESS = "no-address"
    NO_GATEWAY = "no-gateway"
    OTHER_FAMILY = "no-address-of-the-servers-family"


def candidates(
    snapshot: Snapshot,
    servers: Servers,
    choice: LinkChoice,
    not_outer: frozenset[IPAddress],
) -> tuple[Path, ...]:
    """Every usable path, best first. `not_outer` are the virtual addresses."""
    found: list[tuple[tuple[int, int, int, int], Path]] = []
    for link, pop, gateway in ways_out(snapshot, choice, not_outer):
        for order, server in enumerate(servers.seen_from(link.index)):
            if pop.version == server.version:
                rank = (choice.rank(link.name), gateway.metric, link.index, order)
                found.append((rank, Path(link.index, link.name, pop, gateway.address, server)))
    return tuple(path for _, path in sorted(found, key=_by_rank))


def ways_out(
    snapshot: Snapshot, choice: LinkChoice, not_outer: frozenset[IPAddress]
) -> Iterator[tuple[Link, IPAddress, Gateway]]:
    """Every usable point of presence with its link, and the gateway of its family there."""
    for link in _usable_links(snapshot, choice):
        for pop in _usable_addresses(snapshot, link, not_outer):
            gateway = _gateway(snapshot, link, pop.version)
            if gateway is not None:
                yield link, pop, gateway


def absence(
    snapshot: Snapshot,
    servers: Servers,
    choice: LinkChoice,
    not_outer: frozenset[IPAddress],
) -> Absence:
    """Why `candidates` found nothing: how far the most hopeful link came."""
    if not any(_counts(link, choice) for link in snapshot.links):
        return Absence.NO_LINK
    links = _usable_links(snapshot, choice)
    if not links:
        return Absence.NO_CARRIER
    addresses = [
        (link, pop) for link in links for pop in _usable_addresses(snapshot, link, not_outer)
    ]
    if not addresses:
        return Absence.NO_ADDRESS
    if not any(
        pop.version == server.version
        for link, pop in addresses
        for server in servers.seen_from(link.index)
    ):
        return Absence.OTHER_FAMILY
    return Absence.NO_GATEWAY


def named(paths: Sequence[Path], globs: Sequence[str]) -> tuple[Path, ...]:
    """Those whose links the globs name, by the order of the globs, then as they were."""
    found = (path for glob in globs for path in paths if fnmatchcase(path.link_name, glob))
    return tuple(dict.fromkeys(found))


def _usable_links(snapshot: Snapshot, choice: LinkChoice) -> list[Link]:
    return [link for link in snapshot.links if link.up and _counts(link, choice)]


def _counts(link: Link, choice: LinkChoice) -> bool:
    return choice.allows(link.name) and link.name not in TUNS


def _usable_addresses(
    snapshot: Snapshot, link: Link, not_outer: frozenset[IPAddress]
) -> list[IPAddress]:
    def counts(entry: LinkAddress) -> bool:
        return entry.link == link.index and entry.usable and entry.address not in not_outer

    return sorted((e.address for e in snapshot.addresses if counts(e)), key=lambda a: a.packed)


def _gateway(snapshot: Snapshot, link: Link, version: int) -> Gateway | None:
    of_link = [
        gateway
        for gateway in snapshot.gateways
        if gateway.link == link.index and gateway.version == version
    ]
    return min(of_link, key=lambda gateway: gateway.metric, default=None)


def _by_rank(entry: tuple[tuple[int, int, int, int], Path]) -> tuple[object, ...]:
    rank, path = entry
    return (*rank, path.pop.packed)


@lru_cache(maxsize=256)  # every look at the network asks this of every link
def _matches(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
