"""Which tunnel each class of flows takes, beside the one that everything else takes.

The rules, each with the method that keeps it:

1. A class names links, best first. It takes the tunnel over the first of them that has one
   that answers. Where that is the active one, or where there is none, it goes with everything
   else (`_choice`).
2. A tunnel is left when it has not answered for so long that the active one would be left for
   a warm one, and the active one has answered since: it may be the server that is silent, or
   this machine that stands still. So that one is asked, and the tunnel has its retransmission
   timeout to answer, too (`_works`). Its place then has the same penalty.
3. On the best usable link that a class names there is a tunnel, whatever else is kept warm, and
   it is asked as often as one where we would rather be (`core.warmth`).
4. The server sends a flow back over the tunnel that it came from, while the endpoint's word for
   that holds: it tells of each such tunnel over itself, and again after each flip (`tell`). To
   leave one is a flip to the active tunnel: nothing that was told before counts any more
   (`look`). So a download ends in a dead tunnel no longer than anything else does.
5. A redundant class takes the active path and, beside it, the tunnel over the first other link
   that it names and that has ever answered: one that loses much is what it is for. Without one
   it goes as everything else, without an active path as any class (`_choice`, `bound`).
6. While the path is doubted no class has a way of its own (`look`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.flow_class import FlowClass, FlowReason
from orchestrator.core.paths import named
from orchestrator.core.penalties import Penalties
from orchestrator.core.places import Places, place_of
from orchestrator.core.quantities import Instant
from orchestrator.core.tunnels import Held
from orchestrator.core.warmth import RTOS, Warmth


@dataclass(slots=True)
class Way:
    """Where a class goes now."""

    flows: FlowClass
    number: int
    held: Held | None = None
    """None: with everything else."""
    why: FlowReason = FlowReason.DOUBTED


@dataclass(frozen=True, slots=True)
class Turn:
    """What a look has changed."""

    ways: tuple[Way, ...]
    """Those that lead elsewhere now."""
    left: bool
    """A tunnel carries no flows any more, and the server does not know."""
    asks: bool
    """Whether the active path answers has to be known now."""


class Classes:
    """Of one endpoint. `look` is asked after every piece of news, then `tell`."""

    def __init__(
        self,
        classes: Sequence[FlowClass],
        places: Places,
        warmth: Warmth,
        penalties: Penalties,
    ) -> None:
        self.ways = tuple(Way(flows, number) for number, flows in enumerate(classes))
        self._places = places
        self._warmth = warmth
        self._penalties = penalties
        self._asks = False
        self._told: dict[int, int] = {}
        """By slot, the flip with which the server was told of it."""

    @property
    def carrying(self) -> tuple[Held, ...]:
        """The tunnels that classes take, the active one left out."""
        warm = self._warmth.warm
        used = {way.held.slot for way in self.ways if way.held is not None}
        return tuple(h for h in warm if h.slot in used and self._places.at(h.path))

    @property
    def bound(self) -> tuple[tuple[int, Held], ...]:
        """The classes, by number, that have a way of their own, or a second one."""
        carrying = self.carrying
        return tuple((way.number, way.held) for way in self.ways if way.held in carrying)

    def look(self, active: Held | None, now: Instant, *, trusted: bool) -> Turn:
        """Chooses anew. `trusted`: what was known before may be relied on (rule 6)."""
        self._asks = False
        before = [way.held for way in self.ways]
        for way in self.ways:
            way.held, way.why = (
                self._choice(way, active, now) if trusted else (None, FlowReason.DOUBTED)
            )
        after = [way.held for way in self.ways]
        turned = (way for way, then in zip(self.ways, before, strict=True) if way.held != then)
        left = any(held not in (None, active, *after) for held in before)
        return Turn(tuple(turned), left and trusted, self._asks)

    def tell(self, flip: int, now: Instant) -> None:
        """Rule 4: the server is told at once of what it was not told with this flip."""
        for held in self.carrying:
            if self._told.get(held.slot) != flip:
                self._told[held.slot] = flip
                held.liveness.due = now

    def _choice(
        self, way: Way, active: Held | None, now: Instant
    ) -> tuple[Held | None, FlowReason]:
        """Rule 1."""
        why = FlowReason.NO_LINK
        for path in named(self._places.paths, way.flows.links):
            place = place_of(path)
            if active is not None and place == place_of(active.path):
                if way.flows.redundant:
                    continue
                return None, FlowReason.NAMED
            held = next((h for h in self._warmth.warm if place_of(h.path) == place), None)
            if held is None or not held.liveness.proven:
                why = FlowReason.SILENT if why is FlowReason.SILENT else FlowReason.NO_TUNNEL
            elif way.flows.redundant or self._works(held, way, active, now):
                return held, FlowReason.NAMED
            else:
                why = FlowReason.SILENT
        return None, why

    def _works(self, held: Held, way: Way, active: Held | None, now: Instant) -> bool:
        """Rule 2."""
        place = place_of(held.path)
        silent, rto = held.liveness.waiting_since, held.liveness.rto
        if silent is None or now < silent + RTOS * rto or active is None:
            return held is way.held or self._penalties.over(place, now)
        if active.heard < silent:
            self._asks |= active.liveness.waiting_since is None
            return held is way.held
        if now < active.heard + rto:
            return held is way.held
        if held is way.held:
            self._penalties.given_up(place, now)
        return False
