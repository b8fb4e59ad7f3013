"""Links whose quality changes, around one endpoint's machine: every probe, every negotiation
and the traffic meet the delay and the loss of the place that they cross."""

import heapq
import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import Final

from orchestrator.core.choice import QUALITY
from orchestrator.core.ike import IkeFailure, TunnelUp
from orchestrator.core.mobility_events import (
    AttemptFailed,
    Effect,
    Event,
    Negotiate,
    NetworkChanged,
    ProbeAnswered,
    SendProbe,
    SignalSeen,
    Started,
    State,
    Tell,
    Tick,
)
from orchestrator.core.mobility_policy import MobilityPolicy
from tests.unit.core.builders import Place, at, snapshot
from tests.unit.core.stories import NAMES, EndpointStory

STEP: Final = 0.05
"""Seconds between two additions to what the kernel has counted."""
OCTETS: Final = 1000
"""In a packet."""


@dataclass(slots=True)
class Link:
    rtt: float = 0.02
    """Seconds."""
    loss: float = 0.0
    """Of packets, each way."""
    jitter: float = 0.0
    """By how much, of it, a round trip may be longer."""

    def round_trip_lost(self, dice: random.Random) -> bool:
        return dice.random() < 1 - (1 - self.loss) ** 2


@dataclass(frozen=True, slots=True)
class Flip:
    when: float
    where: str
    reasons: frozenset[str]

    @property
    def for_quality(self) -> bool:
        return bool(self.reasons & {str(reason) for reason in QUALITY})


class Radio:
    """Runs from event to event. `packets` a second go each way."""

    def __init__(self, policy: MobilityPolicy, *places: Place, seed: int = 1) -> None:
        self.story = EndpointStory(policy)
        self.links = {name: Link() for name in NAMES.values()}
        self.signals: dict[str, int] = {}
        """dBm; told with the probes."""
        self.packets = 0.0
        self.flips: list[Flip] = []
        self.asked = 0
        """Probes over warm tunnels."""
        self._dice = random.Random(seed)
        self._news: list[tuple[float, int, Event]] = []
        self._order = count()
        self._carried = self._came = 0.0
        self._hears(Started(snapshot(*places), ()))
        self.story.finds_charon()
        self._negotiate()

    @property
    def now(self) -> float:
        return self.story.now

    @property
    def where(self) -> str | None:
        path = self.story.machine.active_path
        return None if path is None else NAMES[path.pop]

    @property
    def attached(self) -> bool:
        return self.story.machine.state is State.ATTACHED

    @property
    def for_quality(self) -> list[Flip]:
        return [flip for flip in self.flips if flip.for_quality]

    def why_not(self, where: str) -> set[str]:
        machine = self.story.machine
        path = next(path for path in machine.paths if NAMES[path.pop] == where)
        return {str(word) for word in machine.why_not(path, at(self.now))}

    def is_at(self, *places: Place) -> None:
        self._hears(NetworkChanged(snapshot(*places)))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            deadline = self.story.machine.deadline()
            first = self._news[0][0] if self._news else end
            carrying = self.now + STEP if self.packets else end
            later = min(first, end if deadline is None else deadline, carrying, end)
            self._carry(max(later, self.now) - self.now)
            self.story.now = max(later, self.now)
            if self._news and self._news[0][0] <= self.now:
                self._hears(heapq.heappop(self._news)[2])
            elif deadline is not None and deadline <= self.now:
                self._hears(Tick())

    def until(self, where: str, limit: float) -> float:
        """Runs until the traffic is there; after how many seconds that was."""
        began = self.now
        while self.where != where:
            assert self.now - began < limit, f"still at {self.where}: {self.why_not(where)}"
            self.run(0.1)
        return self.now - began

    def _carry(self, seconds: float) -> None:
        link = self.links.get(self.where or "", Link())
        self._carried += self.packets * seconds
        self._came += self.packets * seconds * (1 - link.loss)
        story = self.story
        story.sent = story.highest = int(self._carried)
        story.received = int(self._came)
        story.octets_in, story.octets_out = story.received * OCTETS, story.sent * OCTETS

    def _hears(self, event: Event) -> None:
        self._carry_out(self.story.handles(event))

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendProbe(slot=slot):
                    self.asked += slot is not None
                    self._probe(effect)
                    self._tell_of_signals()
                case Negotiate():
                    self._negotiate()
                case Tell(State.MOVING, reasons, path) if path is not None:
                    words = frozenset(map(str, reasons))
                    self.flips.append(Flip(self.now, NAMES[path.pop], words))

    def _tell_of_signals(self) -> None:
        for path in self.story.machine.paths:
            dbm = self.signals.get(NAMES[path.pop])
            if dbm is not None:
                self._later(0.0, SignalSeen(path.link, dbm))

    def _probe(self, probe: SendProbe) -> None:
        asked = next(
            held
            for held in self.story.machine._known.tunnels.held
            if held.tunnel.spi_in == probe.spi
        )
        link = self.links[NAMES[asked.path.pop]]
        if not link.round_trip_lost(self._dice):
            rtt = link.rtt * (1 + link.jitter * self._dice.random())
            self._later(rtt, ProbeAnswered(probe.sequence))

    def _negotiate(self) -> None:
        attempt = self.story.attempt
        if attempt is not None:
            link = self.links[NAMES[attempt.path.pop]]
            if link.loss < 1:
                self._later(2 * link.rtt, TunnelUp(self.story.next_tunnel()))
                return
            failed = AttemptFailed(attempt.connection, IkeFailure.SILENT, "all is lost")
            self._later(attempt.limit, failed)

    def _later(self, seconds: float, event: Event) -> None:
        heapq.heappush(self._news, (self.now + seconds, next(self._order), event))
