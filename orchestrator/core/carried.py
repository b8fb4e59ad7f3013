"""What the tunnels carry that flows of a class take, beside the active one.

1. It is looked at often while there is something, and silence is a reason to ask, as with the
   active one (`core.traffic`; `look`, `seen`).
2. While it is quiet it is looked at with each probe: these tunnels are asked every 2 s
   (`core.warmth`; `asked`).
"""

from collections.abc import Iterable

from orchestrator.core.mobility_events import LookAtTraffic, TrafficSeen
from orchestrator.core.quantities import Instant
from orchestrator.core.traffic import LOOK, Traffic
from orchestrator.core.tunnels import Held


class Carried:
    """By one endpoint."""

    def __init__(self) -> None:
        self._traffic: dict[int, tuple[Held, Traffic]] = {}
        """By slot."""

    def keep(self, carrying: Iterable[Held], now: Instant) -> None:
        """These carry flows now, and no others."""
        before, self._traffic = self._traffic, {}
        for held in carrying:
            former = before.get(held.slot)
            if former is None or former[0] is not held:
                former = held, Traffic(Instant(now + LOOK))
            self._traffic[held.slot] = former

    @property
    def next_look(self) -> Instant | None:
        looks = (traffic.next_look for _, traffic in self._traffic.values())
        return min((at for at in looks if at is not None), default=None)

    def asked(self, held: Held, now: Instant) -> None:
        """A probe goes through this tunnel."""
        for mine, traffic in self._traffic.values():
            if mine is held:
                traffic.probed()
                if traffic.next_look is None:
                    traffic.next_look = Instant(now + LOOK)

    def answered(self, held: Held) -> None:
        for mine, traffic in self._traffic.values():
            if mine is held:
                traffic.answered()

    def look(self, now: Instant) -> tuple[LookAtTraffic, ...]:
        """At those whose time has come; looked at again soon, should nobody answer."""
        due: list[LookAtTraffic] = []
        for held, traffic in self._traffic.values():
            if traffic.next_look is not None and now >= traffic.next_look:
                traffic.next_look = Instant(now + LOOK)
                due.append(LookAtTraffic(held.tunnel))
        return tuple(due)

    def seen(self, event: TrafficSeen, now: Instant) -> None:
        """What silence is a reason to ask is due at once."""
        for held, traffic in self._traffic.values():
            if held.tunnel == event.tunnel:
                traffic.seen(event.received, event.sent, now)
                if traffic.silent(now) and held.liveness.waiting_since is None:
                    traffic.asked(now)
                    held.liveness.due = now
