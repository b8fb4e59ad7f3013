"""Where the endpoint is now: its usable paths, the places they belong to, a routing table each.

The rules, each with the method that keeps it:

1. A place is a link, our address on it and one address of the server. A path of the same place
   may have another gateway by now: to the server that is no difference (`at`).
2. The usable paths are those of `core.paths`, best first (`look`).
3. A point of presence, a link with our address on it, has a routing table that stays its own
   for as long as it has a path. One that changed hands would for a moment send packets from one
   address to the gateway of another (`_tables_for`).
4. With more points of presence than tables, whoever has one keeps it, and the worst of the
   others are not used (`_tables_for`).
5. The link that the operator asked for is better than any other, whatever is preferred
   otherwise; and one that was found useless is worse than any other (`rank`).
6. The server is where it is said to be, and also where a tunnel of ours leads: that one works,
   whatever a name means by now (`know`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.kernel import TABLE_PATHS
from orchestrator.core.network import Change, Snapshot, changes
from orchestrator.core.paths import Absence, LinkChoice, Path, Servers, absence, candidates
from orchestrator.core.quantities import IPAddress, LinkIndex, TableId


@dataclass(frozen=True, slots=True)
class Place:
    """What makes two paths the same point of presence towards the same server address."""

    link: LinkIndex
    pop: IPAddress
    server: IPAddress


def place_of(path: Path) -> Place:
    return Place(path.link, path.pop, path.server)


class Places:
    """`look` takes news in; the rest is for reading, and holds until the next look."""

    def __init__(self, servers: Sequence[IPAddress], choice: LinkChoice) -> None:
        self.paths: tuple[Path, ...] = ()
        """Best first."""
        self.tables: Mapping[Path, TableId] = {}
        """Each path with the routing table of its point of presence."""
        self.pinned: str | None = None
        """The link that the operator asked for."""
        self.useless: frozenset[Place] = frozenset()
        """Where too much is lost (`core.choice`)."""
        self._servers = Servers(tuple(servers))
        self._choice = choice
        self._snapshot = Snapshot()
        self._vips: frozenset[IPAddress] = frozenset()

    def look(self, snapshot: Snapshot, vips: Sequence[IPAddress]) -> frozenset[Change]:
        """Takes the snapshot in, says what is different; a virtual address is no way out."""
        what = changes(self._snapshot, snapshot)
        self._snapshot, self._vips = snapshot, frozenset(vips)
        self._find_paths()
        return what

    def know(self, servers: Servers, used: Iterable[Path]) -> frozenset[Change]:
        """Where the server is, from now on: there, and where these paths lead (rule 6)."""
        on = dict(servers.on)
        for path in used:
            seen = on.get(path.link, servers.everywhere)
            if path.server not in seen:
                on[path.link] = (*seen, path.server)
        servers = Servers(servers.everywhere, on)
        if servers == self._servers:
            return frozenset()
        self._servers = servers
        self._find_paths()
        return frozenset({Change.SERVER_ADDRESSES})

    def at(self, path: Path) -> Path | None:
        """The usable path of the same place; None: that place is gone."""
        return next((p for p in self.paths if place_of(p) == place_of(path)), None)

    def between(self, pop: IPAddress, server: IPAddress) -> Path | None:
        """The best usable path from this address of ours to that one of the server."""
        return next((p for p in self.paths if (p.pop, p.server) == (pop, server)), None)

    def rank(self, path: Path) -> int:
        """Rule 5. Smaller is better; equal links are no reason to leave one for the other."""
        useless = path.link_name != self.pinned and place_of(path) in self.useless
        return self.wish(path) + (self._choice.ranks if useless else 0)

    def wish(self, path: Path) -> int:
        """The same, whatever was found."""
        return -1 if path.link_name == self.pinned else self._choice.rank(path.link_name)

    def is_metered(self, path: Path) -> bool:
        return self._choice.is_metered(path.link_name)

    def why_none(self) -> frozenset[Absence]:
        """Why there is no path; empty exactly when there is one."""
        if self.paths:
            return frozenset()
        why = absence(self._snapshot, self._servers, self._choice, self._vips)
        return frozenset({why})

    def _find_paths(self) -> None:
        self.tables = self._tables_for(
            candidates(self._snapshot, self._servers, self._choice, self._vips)
        )
        self.paths = tuple(self.tables)

    def _tables_for(self, found: Sequence[Path]) -> dict[Path, TableId]:
        """Rules 3 and 4."""
        own = {(path.link, path.pop): table for path, table in self.tables.items()}
        wanted = [(path.link, path.pop) for path in found]
        taken = {own[pop] for pop in wanted if pop in own}
        free = (TableId(number) for number in TABLE_PATHS if number not in taken)
        tables: dict[Path, TableId] = {}
        for path, pop in zip(found, wanted, strict=True):
            table = own.get(pop) or next(free, None)
            if table is not None:
                own[pop] = tables[path] = table
        return tables
