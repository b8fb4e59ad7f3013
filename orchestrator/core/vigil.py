"""Asks the tunnels, and looks at what the active one carries.

1. Each probe has a number that no other has; an answer belongs to the tunnel that was asked.
2. The active tunnel is asked with the traffic, a warm one over itself (`ask`).
3. What the active one carries is looked at, often while there is something; silence is a reason
   to ask (`core.traffic`; `look`, `seen`).
"""

from orchestrator.core.mobility_events import LookAtTraffic, SendProbe, TrafficSeen
from orchestrator.core.quantities import Instant, Seconds, successor
from orchestrator.core.traffic import LOOK, Traffic
from orchestrator.core.tunnels import Held


class Vigil:
    """Over the tunnels of one endpoint."""

    def __init__(self) -> None:
        self._sequence = 0
        self._traffic: Traffic | None = None

    def begin(self, held: Held, interval: Seconds, now: Instant) -> None:
        """This one is active from now on."""
        held.watched = False
        held.liveness.begin(interval, now)
        self._traffic = Traffic(Instant(now + LOOK))

    def end(self) -> None:
        """None is."""
        self._traffic = None

    @property
    def next_look(self) -> Instant | None:
        return None if self._traffic is None else self._traffic.next_look

    def ask(
        self, held: Held, flip: int, now: Instant, *, active: bool, asleep: bool = False
    ) -> SendProbe:
        self._sequence = successor(self._sequence)
        held.liveness.sent(self._sequence, now)
        slot = None if active else held.slot
        return SendProbe(self._sequence, flip, held.tunnel.spi_in, asleep, slot)

    def look(self, active: Held, now: Instant) -> tuple[LookAtTraffic, ...]:
        """If it is time to; looked at again soon, should nobody answer."""
        if self._traffic is None or now < self._traffic.next_look:
            return ()
        self._traffic.next_look = Instant(now + LOOK)
        return (LookAtTraffic(active.tunnel),)

    def seen(self, event: TrafficSeen, active: Held | None, now: Instant) -> bool:
        """Whether that is a reason to ask."""
        if active is None or self._traffic is None or event.tunnel != active.tunnel:
            return False
        self._traffic.seen(event.received, event.sent, now)
        asks = self._traffic.silent(now) and active.liveness.waiting_since is None
        if asks:
            self._traffic.asked(now)
        return asks
