"""What was measured of each place, from probes and traffic that there are anyway.

No packet is sent to measure anything. The rules, each with the method that keeps it:

1. Loss has two witnesses, and the worse one is believed (`Quality.loss`): of the probes that
   begin a question, those not answered within `LOST_AFTER` (`Meter.settled`); repeated ones do
   not count, or a pause of a second would look like loss for a minute. And of what the server
   sends, the sequence numbers that never came, in the median second: a burst is no loss either
   (`Meter.seen`).
2. Two lost probes are chance, and few probes say little: `FEW` are taken for at least so many.
   What is beyond chance counts (`Quality.sure_loss`).
3. The round trip is the shortest of the last few: a longer one was a queue (`Meter.settled`).
   One taken while the tunnel carried much is not counted: that queue was ours, and would come
   along to any other link (`Meter.is_busy`).
4. The rate is the best second within `RATE_MEMORY`: what the link can do at least
   (`Quality.rate_in`, `rate_out`).
5. How bad a path is, is one figure: the time that TCP spends on a packet there (`burden`). So a
   loss and a delay can be compared, by what they cost.
6. A radio that hardly hears its access point is about to lose: its path is taken for worse than
   it is (`compare`).
7. Everything grows old; what the traffic told of the path in use does so soon. A place that is
   gone, or was given up, has no past (`Meters.keep`, `forget`); what a sleep interrupted says
   nothing (`drop_open`).
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import sqrt
from statistics import median
from typing import Final

from orchestrator.core.liveness import MAX_RTO
from orchestrator.core.mobility_events import Reason, TrafficSeen
from orchestrator.core.places import Place
from orchestrator.core.quantities import Instant, LinkIndex, Seconds, Spi

LOST_AFTER: Final = MAX_RTO
"""An answer that takes longer is as good as none."""
MEMORY: Final = Seconds(300.0)
"""What was measured counts for so long: fifteen probes of a path that waits. Links that lose
alike take turns hardly more often than that."""
MOST_PROBES: Final = 20
"""Beyond it the oldest is forgotten: 40 s of the active path."""
FEW: Final = 10
CHANCE: Final = 2
"""So many lost ones say nothing: of a path that loses 2 % of the round trips, three of twenty
are lost once in an hour or so."""
ROUND_TRIPS: Final = 4
"""Of which the shortest counts: a path that became longer is known after 8 s, one that became
shorter at once."""
SECOND: Final = Seconds(1.0)
"""Over which traffic is counted."""
SECONDS_COUNTED: Final = 5
FEWEST_PACKETS: Final = 20
"""Below it a second says nothing of loss: one packet more or less is 5 %."""
TRAFFIC_MEMORY: Final = Seconds(15.0)
"""Of such seconds, while the traffic is there."""
RATE_MEMORY: Final = Seconds(600.0)
RATE_STEP: Final = Seconds(60.0)
"""The best second is known for each such step, so that it can grow old."""
BUSY: Final = 0.5
"""Of the best rate known; above it a queue may be of our own making."""
NEVER_BUSY: Final = 125_000.0
"""Octets a second. A link in which so little makes a queue had better be left."""
LOOKED_AT: Final = Seconds(5.0)
"""How long it is known what a tunnel carries: two looks at an idle one, and a little."""
LEAST_RTT: Final = Seconds(0.03)
"""Shorter ones are equal: no person and no protocol can tell."""
LEAST_LOSS: Final = 0.01
"""Less is none: radio links have that, and TCP hardly notices."""
WEAK: Final = -80
"""dBm. Supplicants look for another access point below -70 to -76: they have found none."""
WEAK_BURDEN: Final = 4.0
"""So many times its burden a path is taken to have while its signal is weak: it is left for one
that is up to twice as bad."""
SIGNAL_MEMORY: Final = Seconds(10.0)
"""It is asked for with the probes of the path in use."""
LEAST_RTO: Final = Seconds(0.2)
"""Of TCP on Linux (TCP_RTO_MIN, include/net/tcp.h)."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Of one place, now; what is None was not measured, or is too old."""

    rtt: Seconds | None = None
    """The shortest of the last few."""
    probe_loss: float | None = None
    """0 to 1, of round trips."""
    sure_loss: float = 0.0
    """Of that, what is not chance."""
    traffic_loss: float | None = None
    """0 to 1, of what the server sent."""
    rate_in: float = 0.0
    """Octets a second, inside the tunnel, in the best second; as `rate_out`."""
    rate_out: float = 0.0
    signal: int | None = None
    """dBm; None: no radio, or not known."""

    @property
    def is_weak(self) -> bool:
        """Rule 6."""
        return self.signal is not None and self.signal <= WEAK

    @property
    def loss(self) -> float | None:
        """What people are shown."""
        known = [p for p in (self.probe_loss, self.traffic_loss) if p is not None]
        return max(known, default=None)

    @property
    def felt_loss(self) -> float:
        """What is decided by."""
        return max(self.sure_loss, self.traffic_loss or 0.0)

    @property
    def burden(self) -> Seconds | None:
        """Rule 5. None: not enough is known."""
        if self.rtt is None:
            return None
        return Seconds(burden(self.rtt, self.felt_loss) * (WEAK_BURDEN if self.is_weak else 1))


def burden(rtt: Seconds, loss: float) -> Seconds:
    """Seconds that a TCP sender spends on each packet, in the long run (RFC 5348, 3.1, with
    b = 1 and the least timeout that Linux has)."""
    r, p = max(rtt, LEAST_RTT), max(loss, LEAST_LOSS)
    timeouts = min(1.0, 3 * sqrt(3 * p / 8)) * p * (1 + 32 * p * p)
    return Seconds(r * sqrt(2 * p / 3) + max(4 * r, LEAST_RTO) * timeouts)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One path beside another."""

    ratio: float
    """How many times the burden of the one the other one has; above 1: the one is better."""
    reasons: frozenset[Reason]
    """What makes it better; empty unless it is."""


def compare(one: Quality, other: Quality) -> Comparison | None:
    """None: too little is known of either."""
    mine, its = one.burden, other.burden
    if mine is None or its is None or one.rtt is None or other.rtt is None:
        return None
    ratio = its / mine
    reasons: set[Reason] = set()
    if ratio > 1:
        if max(one.felt_loss, LEAST_LOSS) < max(other.felt_loss, LEAST_LOSS):
            reasons.add(Reason.LESS_LOSS)
        if max(one.rtt, LEAST_RTT) < max(other.rtt, LEAST_RTT):
            reasons.add(Reason.SHORTER_RTT)
        if other.is_weak and not one.is_weak:
            reasons.add(Reason.STRONGER_SIGNAL)
    return Comparison(ratio, frozenset(reasons))


@dataclass(slots=True)
class _Counted:
    """What a tunnel's SAs had counted at an instant."""

    at: Instant
    spi: Spi
    seen: TrafficSeen


@dataclass(frozen=True, slots=True)
class _Second:
    """Of traffic."""

    ended: Instant
    loss: float


class Meter:
    """Of one place."""

    def __init__(self) -> None:
        self._probes: deque[tuple[Instant, bool]] = deque(maxlen=MOST_PROBES)
        """When it was settled, and whether it was answered."""
        self._round_trips: deque[tuple[Instant, Seconds]] = deque(maxlen=ROUND_TRIPS)
        self._seconds: deque[_Second] = deque(maxlen=SECONDS_COUNTED)
        self._begun: _Counted | None = None
        """Where the second that is being counted began."""
        self._best: deque[tuple[Instant, float, float]] = deque()
        """Of each step: when it began, octets a second in and out."""
        self._carried = 0.0
        """Octets a second, both ways, in the latest second."""

    # Taking in

    def settled(self, rtt: Seconds | None, now: Instant, *, begins: bool) -> None:
        """A probe came back after `rtt`, or is lost (None). `begins`: it was no repetition."""
        if begins:
            self._probes.append((now, rtt is not None))
        if rtt is not None and not self._is_busy(now):
            self._round_trips.append((now, rtt))

    def seen(self, event: TrafficSeen, now: Instant) -> None:
        """The tunnel here has counted so much."""
        begun, spi = self._begun, event.tunnel.spi_in
        fresh = _Counted(now, spi, event)
        if begun is None or begun.spi != spi or event.received < begun.seen.received:
            self._begun = fresh
            return
        lasted = now - begun.at
        if lasted < SECOND:
            return
        self._begun = fresh
        rate_in = max(0, event.octets_in - begun.seen.octets_in) / lasted
        rate_out = max(0, event.octets_out - begun.seen.octets_out) / lasted
        self._carried = rate_in + rate_out
        self._take_rate(rate_in, rate_out, now)
        came = event.received - begun.seen.received
        meant = event.highest - begun.seen.highest
        if meant >= FEWEST_PACKETS and not self._is_busy(now):
            self._seconds.append(_Second(now, max(0.0, 1 - came / meant)))

    def _take_rate(self, rate_in: float, rate_out: float, now: Instant) -> None:
        if not self._best or now - self._best[-1][0] >= RATE_STEP:
            self._best.append((now, 0.0, 0.0))
        began, best_in, best_out = self._best.pop()
        self._best.append((began, max(best_in, rate_in), max(best_out, rate_out)))
        while now - self._best[0][0] > RATE_MEMORY:
            self._best.popleft()

    # Reading

    def _is_busy(self, now: Instant) -> bool:
        """Rule 3."""
        if self._begun is None or now - self._begun.at > LOOKED_AT:
            return False
        best = max((rate_in + rate_out for _, rate_in, rate_out in self._best), default=0.0)
        return self._carried > max(NEVER_BUSY, BUSY * best)

    def settled_since(self, then: Instant) -> int:
        """How many questions ended after that, with an answer or without."""
        return sum(at > then for at, _ in self._probes)

    def answered_since(self, then: Instant) -> int:
        """How many with one."""
        return sum(answered for at, answered in self._probes if at > then)

    def read(self, now: Instant, *, used: bool = False) -> Quality:
        """`used`: the traffic is there."""
        memory = TRAFFIC_MEMORY if used else MEMORY
        probes = [answered for at, answered in self._probes if now - at <= MEMORY]
        trips = [rtt for at, rtt in self._round_trips if now - at <= MEMORY]
        seconds = [s.loss for s in self._seconds if now - s.ended <= memory]
        lost, of = probes.count(False), max(len(probes), FEW)
        best = [step for step in self._best if now - step[0] <= RATE_MEMORY]
        return Quality(
            min(trips, default=None),
            lost / of if probes else None,
            max(0, lost - CHANCE) / of,
            median(seconds) if len(seconds) == SECONDS_COUNTED else None,
            max((rate for _, rate, _ in best), default=0.0),
            max((rate for _, _, rate in best), default=0.0),
        )


@dataclass(frozen=True, slots=True)
class _Open:
    """A probe that is neither answered nor lost."""

    place: Place
    at: Instant
    begins: bool


class Meters:
    """Of all places of one endpoint."""

    def __init__(self) -> None:
        self._meters: dict[Place, Meter] = {}
        self._signals: dict[LinkIndex, tuple[Instant, int]] = {}
        self._open: dict[int, _Open] = {}
        """By number, oldest first; of the last `LOST_AFTER`."""

    def asked(self, sequence: int, place: Place, now: Instant, *, begins: bool) -> None:
        """A probe was sent. `begins`: no other one waits for its answer there."""
        self.settle(now)
        self._open[sequence] = _Open(place, now, begins)

    def answered(self, sequence: int, now: Instant) -> None:
        self.settle(now)
        known = self._open.pop(sequence, None)
        if known is not None:
            self._at(known.place).settled(Seconds(now - known.at), now, begins=known.begins)

    def settle(self, now: Instant) -> None:
        """What was not answered in time is lost."""
        for sequence in tuple(self._overdue(now)):
            known = self._open.pop(sequence)
            self._at(known.place).settled(None, now, begins=known.begins)

    def seen(self, event: TrafficSeen, place: Place, now: Instant) -> None:
        self._at(place).seen(event, now)

    def signal_seen(self, link: LinkIndex, dbm: int, now: Instant) -> None:
        self._signals[link] = (now, dbm)

    def of(self, place: Place, now: Instant, *, used: bool = False) -> Quality:
        """`used`: the traffic is there; what it told there grows old soon."""
        meter = self._meters.get(place)
        found = Quality() if meter is None else meter.read(now, used=used)
        at, dbm = self._signals.get(place.link, (now, None))
        return replace(found, signal=dbm) if now - at <= SIGNAL_MEMORY else found

    def settled_since(self, place: Place, then: Instant) -> int:
        meter = self._meters.get(place)
        return 0 if meter is None else meter.settled_since(then)

    def answered_since(self, place: Place, then: Instant) -> int:
        meter = self._meters.get(place)
        return 0 if meter is None else meter.answered_since(then)

    def drop_open(self) -> None:
        """Whether they are answered says nothing."""
        self._open.clear()

    def forget(self, place: Place) -> None:
        self.keep(self._meters.keys() - {place})

    def keep(self, places: Iterable[Place]) -> None:
        """Forgets every place but these."""
        live = frozenset(places)
        self._meters = {p: meter for p, meter in self._meters.items() if p in live}
        links = {place.link for place in live}
        self._signals = {n: each for n, each in self._signals.items() if n in links}
        self._open = {n: each for n, each in self._open.items() if each.place in live}

    def _at(self, place: Place) -> Meter:
        return self._meters.setdefault(place, Meter())

    def _overdue(self, now: Instant) -> Iterator[int]:
        for sequence, known in self._open.items():
            if now - known.at < LOST_AFTER:
                return
            yield sequence
