"""Which tunnels are kept warm beside the one in use, and how soon that one is given up.

The rules, each with the method that keeps it:

1. Beside the active tunnel one is kept on the best path of each of the best links, as many as
   the operator allows, and on that of the best link that each class of flows names, or of the
   best two (`places`).
2. A tunnel that is kept warm has probes of its own over itself (`look`). Where the endpoint
   would rather be, or may soon be (`core.choice`), or flows of a class would, it is asked more
   often, where traffic costs money hardly ever.
3. The active path is given up sooner where another tunnel has answered since it fell silent:
   going there costs a round trip, waiting costs the traffic (`patience`). It may have been the
   server that was silent: so the active path is asked once more when the other has answered,
   and has its retransmission timeout to answer, too (`heard`).
4. When the active path does not answer, the others are asked at once (`look`).
5. While fresh tunnels race, and none has been answered, each of them is asked (`look`).
"""

from collections.abc import Sequence
from typing import Final

from orchestrator.core.choice import Choice
from orchestrator.core.flow_class import FlowClass
from orchestrator.core.liveness import PathHealth
from orchestrator.core.paths import Path, named
from orchestrator.core.places import Place, Places, place_of
from orchestrator.core.quantities import Instant, Seconds
from orchestrator.core.tunnels import Held, Tunnels

ASK: Final = Seconds(25.0)
"""Between two probes of a warm path. NATs forget a mapping of UDP after 30 s and more (RFC
4787, REQ-5, asks for 120 s). It is twice the active one's longest interval by default, so that
both are asked at the same moment."""
ASK_METERED: Final = Seconds(120.0)
"""The same where traffic costs money: as rarely as a NAT allows that keeps to RFC 4787. If it
has forgotten, our first packet makes another mapping, and the server follows."""
ASK_BETTER: Final = Seconds(2.0)
"""The same where we would rather be."""
ASK_OFTEN: Final = Seconds(0.5)
"""The same where the traffic may be in a moment: for seconds, and hardly 1 kB."""
RTOS: Final = 3
"""For so many of its retransmission timeouts the active path may leave probes unanswered,
whatever else there is: 0.3 s at least."""


class Warmth:
    """Of one endpoint. `look` is asked after every piece of news."""

    def __init__(
        self,
        tunnels: Tunnels,
        places: Places,
        choice: Choice,
        links: int,
        bound: Sequence[FlowClass] = (),
    ) -> None:
        """`links`: on how many there is a tunnel at the same time; 1 keeps none warm.

        `bound` names links of its own.
        """
        self._tunnels = tunnels
        self._places = places
        self._choice = choice
        self._links = links
        self._bound = bound

    @property
    def places(self) -> frozenset[Place]:
        """Rule 1: where there shall be a tunnel; none, if none is kept warm."""
        best: dict[str, Path] = {}
        if self._links > 1:
            for path in self._places.paths:
                if len(best) < self._links:
                    best.setdefault(path.link_name, path)
        return frozenset(map(place_of, best.values())) | self._bound_places

    @property
    def _bound_places(self) -> frozenset[Place]:
        """Where classes of flows would rather be."""
        found: set[Place] = set()
        for flows in self._bound:
            best: dict[str, Path] = {}
            for path in named(self._places.paths, flows.links):
                if len(best) <= flows.redundant:
                    best.setdefault(path.link_name, path)
            found |= set(map(place_of, best.values()))
        return frozenset(found)

    @property
    def warm(self) -> tuple[Held, ...]:
        """Those that are asked, by slot."""
        return tuple(sorted((h for h in self._tunnels.held if h.watched), key=lambda h: h.slot))

    def keeps(self, held: Held, active: Held | None) -> bool:
        """Whether this one stays although the traffic is elsewhere."""
        path = self._places.at(held.path)
        if path is None or held is active or held.moved or held.renew is not None:
            return False
        place = place_of(path)
        if active is not None and place == place_of(active.path):
            return False
        others = [h for h in self._tunnels.latest() if place_of(h.path) == place]
        return place in self.places and held is max(others, key=lambda h: h.since)

    def doubt(self) -> None:
        """Nothing that was known before is: each has to prove itself again."""
        for held in self._tunnels.held:
            held.watched = False

    def _contends(self, held: Held) -> bool:
        """Rule 5."""
        return held.unproven and held.renew is None and self._places.at(held.path) is not None

    def look(
        self, active: Held | None, now: Instant, *, attached: bool, racing: bool
    ) -> Sequence[Held]:
        """Begins to watch what is warm now, and no longer what is not (rules 2, 4 and 6).

        Returns what is of no use: while the traffic is `attached`, whatever is not kept; it may
        have come up where a better path of the same link is by now.
        """
        surplus: list[Held] = []
        keeps_any = self._links > 1 or bool(self._bound)
        for held in self._tunnels.held:
            contends = racing and held is not active and self._contends(held)
            keeps = held.retire_at is None and (contends or self.keeps(held, active))
            interval = self._interval(held, active)
            if keeps and not held.watched:
                held.liveness.begin(interval, now)
            useless = not keeps and held is not active and held.retire_at is None
            if useless and (held.watched or (attached and keeps_any)):
                surplus.append(held)
            held.watched = keeps
            if keeps:
                held.liveness.interval = interval
                if held.liveness.waiting_since is None:
                    held.liveness.due = Instant(min(held.liveness.due, now + interval))
        if active is not None and active.liveness.health(now) is PathHealth.SUSPECT:
            self._ask_all(active.liveness.waiting_since, now)
        return surplus

    def _interval(self, held: Held, active: Held | None) -> Seconds:
        if self._choice.contends(held.path):
            return ASK_OFTEN
        if self._is_better(held, active) or place_of(held.path) in self._bound_places:
            return ASK_BETTER
        return ASK_METERED if self._places.is_metered(held.path) else ASK

    def _is_better(self, held: Held, active: Held | None) -> bool:
        """As it is, or once it is well again."""
        if active is None:
            return False
        rank, wish = self._places.rank, self._places.wish
        return rank(held.path) < rank(active.path) or wish(held.path) < wish(active.path)

    def _ask_all(self, silent: Instant | None, now: Instant) -> None:
        """Rule 4: those that have not answered since."""
        for held in self.warm:
            waits = held.liveness.waiting_since is not None
            if silent is not None and held.heard < silent and not waits:
                held.liveness.due = now

    def ask_at_once(self, link_name: str | None, now: Instant) -> None:
        """Those on this link, or on any: the operator waits for their answer."""
        for held in self.warm:
            waits = held.liveness.waiting_since is not None
            if link_name in (None, held.path.link_name) and not waits:
                held.liveness.due = now

    def heard(self, held: Held, active: Held | None, now: Instant) -> None:
        """Rule 3: this one has answered."""
        held.heard, held.answered = now, True
        if active is not None and active.liveness.waiting_since is not None:
            active.liveness.due = now

    def patience(self, active: Held, longest: Seconds) -> Seconds:
        """Rule 3: how long the active path may leave probes unanswered."""
        silent, rto = active.liveness.waiting_since, active.liveness.rto
        heard = [h.heard for h in self.warm if silent is not None and h.heard >= silent]
        if silent is None or not heard:
            return longest
        answer = min(heard) - silent + rto
        return Seconds(min(longest, max(RTOS * rto, answer)))

    def proven(self, now: Instant) -> Sequence[Held]:
        """Those that answer, best first."""
        alive = [
            held
            for held in self.warm
            if self._places.at(held.path) and held.liveness.health(now) is PathHealth.ALIVE
        ]
        return sorted(alive, key=lambda held: self._choice.order(held.path, now))
