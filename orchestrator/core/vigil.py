"""Asks the tunnels, and looks at what the active one carries.

1. Each probe has a number that no other has; an answer belongs to the tunnel that was asked.
2. The active tunnel is asked with the traffic, a warm one over itself (`ask`). How often the
   active one, `core.rhythm` says.
3. What the active one carries is looked at, often while there is something; silence is a reason
   to ask (`core.traffic`; `look`, `seen`, `may_ask`). While it is quiet the kernel is asked to
   tell when that changes, and it is looked at with each probe (`turn`, `stirred`, `look`).
4. Who is asked soon is asked now if another one is: a device that sleeps in between wakes once
   (`is_due`).
5. A path that brings packets is not left because probes are lost, until the longest patience is
   over (`patience`).
6. How large packets may be is asked in the same way, and proves nothing else (`ask_size`).
"""

from collections.abc import Iterable
from typing import Final

from orchestrator.core.mobility_events import (
    LookAtTraffic,
    ProbeAnswered,
    SendProbe,
    TrafficSeen,
    TrafficStirs,
    WatchTraffic,
)
from orchestrator.core.places import place_of
from orchestrator.core.quality import Meters
from orchestrator.core.quantities import Instant, Seconds, successor
from orchestrator.core.rhythm import Rhythm
from orchestrator.core.traffic import LOOK, Traffic
from orchestrator.core.tunnels import Held
from orchestrator.core.verdict import Verdict, verdict
from orchestrator.core.warmth import Warmth

SOON: Final = 0.5
"""Of the active one's interval. So two that are asked at whole multiples of one interval are
asked together from the second time on, whatever they began with."""


class Vigil:
    """Over the tunnels of one endpoint."""

    def __init__(
        self,
        warmth: Warmth,
        meters: Meters,
        usual: Seconds,
        longest: Seconds,
        dead_after: Seconds,
    ) -> None:
        """How often the active one is asked: while there is traffic, and at least. `meters` are
        told of every question, and of what the traffic tells."""
        self._warmth, self._meters, self._dead_after = warmth, meters, dead_after
        self._usual, self._longest = usual, longest
        self._rhythm = Rhythm(usual, longest)
        self._sequence = 0
        self._traffic: Traffic | None = None
        self._watches = False
        """Whether the kernel was asked to tell."""
        self._asked_at: Instant | None = None
        """When the active one was, the last time."""

    def begin(self, held: Held, now: Instant) -> None:
        """This one is active from now on."""
        held.watched = False
        held.liveness.begin(self._usual, now)
        self._rhythm = Rhythm(self._usual, self._longest)
        self._traffic = Traffic(Instant(now + LOOK))

    def end(self) -> None:
        """None is."""
        self._traffic = None

    @property
    def next_look(self) -> Instant | None:
        return None if self._traffic is None else self._traffic.next_look

    @property
    def is_quiet(self) -> bool:
        """Whether there is no traffic."""
        return self._traffic is None or self._traffic.quiet

    def ask(
        self,
        held: Held,
        flip: int,
        now: Instant,
        *,
        active: bool,
        asleep: bool = False,
        carries: bool = False,
    ) -> SendProbe:
        """`carries`: the server is told that flows of ours take this warm tunnel."""
        self._sequence = successor(self._sequence)
        within = None if active else held.liveness.interval
        if active and not asleep:
            if held.liveness.waiting_since is not None or not held.liveness.proven:
                self._rhythm.hurry()
            within = self._rhythm.announce()
        if active:
            self._asked_at = now
            if self._traffic is not None:
                self._traffic.probed()
        begins = held.liveness.waiting_since is None
        self._meters.asked(self._sequence, place_of(held.path), now, begins=begins)
        held.liveness.sent(self._sequence, now)
        slot = None if active else held.slot
        spi = held.tunnel.spi_in
        return SendProbe(self._sequence, flip, spi, asleep, slot, within, carries=carries)

    def ask_size(self, held: Held, size: int, flip: int, *, active: bool) -> SendProbe:
        self._sequence = successor(self._sequence)
        if active and self._traffic is not None:
            self._traffic.probed()
        slot = None if active else held.slot
        return SendProbe(self._sequence, flip, held.tunnel.spi_in, slot=slot, size=size)

    def is_due(self, held: Held, company: Iterable[Held], now: Instant) -> bool:
        """Rule 4; `company` is asked, if it has to be, after this one."""
        liveness = held.liveness
        if now >= liveness.due:
            return True
        together = self._asked_at == now or any(now >= h.liveness.due for h in company)
        soon = liveness.due - now <= SOON * self._rhythm.interval
        return together and soon and liveness.waiting_since is None

    def answered(self, active: Held, event: ProbeAnswered, now: Instant) -> Seconds | None:
        """The round trip, if the active one was asked so."""
        rtt = active.liveness.answered(event.sequence, now)
        if rtt is not None:
            active.liveness.rest(self._rhythm.answered(event.agreed), now)
            if self._traffic is not None:
                self._traffic.answered()
        return rtt

    def look(
        self, active: Held, now: Instant, *, asks: bool = False
    ) -> tuple[LookAtTraffic, ...]:
        """If it is time to, or it is asked (`asks`) while it is quiet; looked at again soon,
        should nobody answer."""
        if self._traffic is None:
            return ()
        at = self._traffic.next_look
        if (not asks) if at is None else now < at:
            return ()
        self._traffic.next_look = Instant(now + LOOK)
        return (LookAtTraffic(active.tunnel),)

    def seen(self, event: TrafficSeen, active: Held | None, now: Instant) -> bool:
        """Whether the traffic is silent."""
        if active is None or self._traffic is None or event.tunnel != active.tunnel:
            return False
        self._traffic.seen(event.received, event.sent, now)
        self._meters.seen(event, place_of(active.path), now)
        if self._traffic.wants_probes:
            self._rhythm.hurry()
            active.liveness.hurry(self._usual)
        return self._traffic.silent(now)

    def may_ask(self, active: Held | None, now: Instant) -> bool:
        """Whether that is a reason to ask: not if somebody does already."""
        asks = active is not None and active.liveness.waiting_since is None
        if asks and self._traffic is not None:
            self._traffic.asked(now)
        return asks

    def stirred(
        self, event: TrafficStirs, active: Held | None, known: Iterable[Held], now: Instant
    ) -> tuple[LookAtTraffic, ...]:
        """The kernel has told. `known` are all tunnels of ours: what those carry that are not
        active are probes, and what is in flight after a flip."""
        if active is None or self._traffic is None or not self._traffic.quiet:
            return ()
        if event.spis & _spis((active,)):
            self._traffic.stirred(now, ours=True)
        elif event.spis - _spis(known):
            self._traffic.stirred(now, ours=False)
        return self.look(active, now)

    def turn(self, active: Held | None) -> tuple[WatchTraffic | LookAtTraffic, ...]:
        """What to ask the kernel for, if that changed. What an SA counted before the kernel was
        asked is looked at once more."""
        watches = active is not None and self._traffic is not None and self._traffic.quiet
        if watches is self._watches:
            return ()
        self._watches = watches
        if active is None or not watches:
            return (WatchTraffic(on=False),)
        return WatchTraffic(on=True), LookAtTraffic(active.tunnel)

    def patience(self, active: Held) -> Seconds:
        """Rule 5: how long the active one may leave probes unanswered."""
        patience = self._warmth.patience(active, self._dead_after)
        silent = active.liveness.waiting_since
        if silent is None:
            return patience
        return Seconds(min(self._dead_after, max(patience, self._heard_until - silent)))

    def verdict(self, held: Held, active: Held | None, now: Instant) -> Verdict:
        """How this one is, which is asked."""
        others = [h for h in (active, *self._warmth.warm) if h is not None and h is not held]
        if held is active:
            return verdict(held, others, self._heard_until, self.patience(held), now)
        return verdict(held, others, now, self._dead_after, now)

    @property
    def _heard_until(self) -> Instant:
        return self._traffic.heard_until if self._traffic is not None else Instant(0.0)


def _spis(tunnels: Iterable[Held]) -> frozenset[int]:
    return frozenset(
        spi for held in tunnels for spi in (held.tunnel.spi_in, held.tunnel.spi_out)
    )
