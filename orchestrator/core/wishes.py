"""Where the endpoint would have a tunnel, or its traffic, and why.

1. While no tunnel works it wants one anywhere, best place first (`nothing_works`).
2. The active one is renewed where it was moved, where charon does not know it, and where the
   operator asks for it; a better link is better than the one in use, and so is any other than a
   useless one (`why_flip`).
3. Where a warm tunnel is, its answer decides, not a negotiation (`_why`).
4. Once the traffic is attached, the best links without a tunnel get one (`core.warmth`).
5. Places that were silent come last, the link that the operator asked for comes first
   (`targets`).
"""

from collections.abc import Sequence

from orchestrator.core.attempts import Attempts
from orchestrator.core.mobility_events import AnyReason, Reason
from orchestrator.core.paths import Path
from orchestrator.core.places import Places, place_of
from orchestrator.core.tunnels import Held, Tunnels
from orchestrator.core.warmth import Warmth

Reasons = frozenset[AnyReason]


class Wishes:
    """Of one endpoint; for reading."""

    def __init__(
        self, places: Places, attempts: Attempts, tunnels: Tunnels, warmth: Warmth
    ) -> None:
        self._places = places
        self._tunnels = tunnels
        self._attempts = attempts
        self._warmth = warmth

    def targets(self, active: Held | None, *, attached: bool) -> Sequence[tuple[Path, Reasons]]:
        """Where a negotiation would help now, and why beside what is known; best first."""
        wanted: list[tuple[Path, Reasons]] = []
        anywhere = self.nothing_works(active)
        for path in self._places.paths:
            why = frozenset() if active is None else self._why(path, active, attached=attached)
            lacks = active is None or self._tunnels.at(path) is None
            if why or (anywhere and lacks):
                wanted.append((path, why))
        pinned = self._places.pinned
        return sorted(
            wanted, key=lambda w: (self._attempts.silent(w[0]), w[0].link_name != pinned)
        )

    def nothing_works(self, active: Held | None) -> bool:
        """Whether no tunnel is known to carry data from where we are."""
        return active is None or self.races(active)

    def races(self, active: Held | None) -> bool:
        """Whether nothing is known of the tunnel in use, where it leads now, and nothing else
        could be used in its place."""
        unknown = active is not None and not active.answered
        return unknown and not any(map(self.works, self._tunnels.latest()))

    def works(self, held: Held) -> bool:
        """Whether this one is known to carry data from where we are."""
        path = self._places.at(held.path)
        return held.answered and path is not None and not self._attempts.silent(path)

    def _why(self, path: Path, active: Held, *, attached: bool) -> Reasons:
        """Why to do that here although there is a tunnel; empty: there is no reason."""
        place = place_of(path)
        if any(place_of(held.path) == place for held in self._warmth.warm):
            return frozenset()
        why = self.why_flip(path, active)
        lacks = attached and place != place_of(active.path) and place in self._warmth.places
        return why or (frozenset({Reason.WARM}) if lacks else frozenset())

    def why_flip(self, path: Path, active: Held) -> Reasons:
        """Why to renew the tunnel in use, or to leave it for one here."""
        if place_of(path) == place_of(active.path):
            why = Reason.TUNNEL_MOVED if active.moved else active.renew
            return frozenset({why} if why else ())
        if self._places.rank(path) < self._places.rank(active.path):
            wish = path.link_name == self._places.pinned
            useless = place_of(active.path) in self._places.useless
            why = Reason.OPERATOR if wish else Reason.LOSSY if useless else Reason.BETTER_LINK
            return frozenset({why})
        return frozenset()
