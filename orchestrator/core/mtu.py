"""How large a packet a path carries: asked in the tunnel, in the manner of RFC 8899.

Sizes are octets of packets inside the tunnel, with their headers: what IPsec adds is added to
the probes as to all else, so that nothing here knows about families or algorithms. A question
is a probe that is padded to a size; its answer is as long. So one question is about both ways.

The rules, each with the method that keeps it:

1. A path is believed to carry what the operator configured, until a question of that size stays
   unanswered: nearly all do carry it, and no roam shall wait for the others (`limit`).
2. A question goes along with a probe as small as can be, and is unanswered when that one was
   answered and it was not, a while later. Where neither is, nothing is known (`heard`).
3. From the first unanswered one on the limit is the largest size that was answered, and FLOOR
   at first: too small costs a little, too large everything (`_unanswered`).
4. An unanswered question is repeated; after TRIES its size is too large. What the kernel
   refuses is too large at once: it knows the link, or heard from a router (`refused`).
5. Between what is carried and what is not the search goes on by halves (`_next`).
6. Where not even FLOOR is answered there is no limit: it would not help (`_settle`).
7. Where there is a limit, it is asked from time to time whether everything is carried by now
   (`AGAIN`); where there is none, the same while there is traffic (`used`). When that falls
   silent, it is asked whether what was found is carried (`doubt`).
8. All this belongs to a place, whatever tunnel leads there (`PathMtus`). The server is told of
   the limit with each probe that goes with the traffic (`told`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from orchestrator.core.mobility_events import Reason, SendProbe, Tell
from orchestrator.core.places import Place, place_of
from orchestrator.core.quantities import Instant, Seconds
from orchestrator.core.tunnels import Held
from orchestrator.core.vigil import Vigil

FLOOR: Final = 1164
"""Fits into 1280, which every IPv6 path carries, whatever protects it: AES-CBC with SHA-512
over IPv6 takes 116."""
GRAIN: Final = 8
"""How much less than possible is as good as possible: half a percent."""
TRIES: Final = 3
"""RFC 8899, 5.1.2: MAX_PROBES."""
PATIENCE: Final = Seconds(0.2)
"""For the answer to a question, after that to the probe it went along with. A TCP sender does
not repeat anything sooner; a link of 128 kbit/s takes 0.1 s for each of the two."""
AGAIN: Final = Seconds(600.0)
"""RFC 8899, 5.1.1: PMTU_RAISE_TIMER."""
ROUNDING: Final = 1e-6
"""Seconds by which a difference of two times may be wrong."""
DOUBT: Final = Seconds(20.0)
"""What was found is not asked for again sooner: traffic that goes one way is always silent."""


@dataclass(slots=True)
class PathMtu:
    """The search on one path; starts with a question due at once."""

    ceiling: int
    """What the operator configured."""
    due: Instant | None
    """When to ask, unless a question is open; None: when there is a reason."""
    limit: int | None = None
    """The largest packet that may be sent; None: no other limit than the ceiling."""
    _top: int = 0
    """The largest size of this search; 0: it has not begun."""
    _low: int = 0
    """The largest answered."""
    _high: int = 0
    """The smallest that is too large; beyond `_top`: none."""
    _settled: Instant = Instant(-DOUBT)
    """When the latest search was over."""
    _once: bool = False
    """One question, whose silence changes nothing."""
    _open: int = 0
    """The size that is asked for; 0: none."""
    _tries: int = 0
    _since: Instant = Instant(0.0)
    """When the open question was asked."""
    _late: Instant | None = None
    """When it counts as unanswered; None: nothing was answered since."""
    _asked: dict[int, int] = field(default_factory=dict)
    """Size by sequence number, in this search: an answer may be late."""

    def wanted(self, now: Instant) -> int | None:
        """The size to ask for now; each is asked for with `asked`."""
        if self._open or self.due is None or now < self.due:
            return None
        if not self._top:
            self._begin(self.ceiling)
            self._once = self.limit is not None
        return self._next()

    def asked(self, size: int, sequence: int, now: Instant) -> None:
        self._open, self._since, self._late = size, now, None
        self._asked[sequence] = size

    def heard(self, rtt: Seconds, now: Instant) -> None:
        """Rule 2: a small probe was answered, after so long."""
        if self._late is None and rtt <= now - self._since + ROUNDING:
            self._late = Instant(now + PATIENCE)

    def answered(self, sequence: int, now: Instant) -> bool:
        """Whether that was a question of this search."""
        size = self._asked.pop(sequence, None)
        if size is None:
            return False
        self._low = max(self._low, size)
        self._high = max(self._high, self._low + 1)
        if self._open <= self._low:
            self._go_on(now)
        return True

    def refused(self, sequence: int, now: Instant) -> None:
        """Rule 4, second half."""
        size = self._asked.pop(sequence, None)
        if size is not None and size == self._open:
            self._tries = TRIES
            self._unanswered(now)

    def look(self, now: Instant) -> None:
        if self._open and self._late is not None and now >= self._late:
            self._unanswered(now)

    def withdraw(self, now: Instant) -> None:
        """The tunnel that was asked is another by now, or may be."""
        if self._open:
            self._open, self.due = 0, now

    def ask_again(self, now: Instant) -> None:
        """Whether everything is carried."""
        self._open = self._top = 0
        self._asked.clear()
        self.due = now

    def doubt(self, now: Instant) -> None:
        """Rule 7: the traffic is silent."""
        if self._top or self.limit == FLOOR:
            return
        self._begin(self.limit or self.ceiling)
        self.due = Instant(max(now, self._settled + DOUBT))

    def used(self, now: Instant) -> None:
        """Rule 7: there is traffic."""
        if not self._top and self.limit is None and now >= self._settled + AGAIN:
            self.ask_again(now)

    @property
    def deadline(self) -> Instant | None:
        """When to `look`, and to ask what is `wanted`."""
        return self._late if self._open else self.due

    def _begin(self, top: int) -> None:
        self._top, self._low, self._high = top, 0, top + 1
        self._once, self._tries = False, 0
        self._asked.clear()

    def _next(self) -> int | None:
        """The size that is worth a question; None: the search is over."""
        if self._low >= self._top or (self._once and self._tries):
            return None
        if self._high > self._top:
            return self._top
        if self._low < FLOOR:
            return FLOOR if self._high > FLOOR else None
        return None if self._high - self._low <= GRAIN else (self._low + self._high) // 2

    def _unanswered(self, now: Instant) -> None:
        """Rules 3 and 4."""
        self._tries += 1
        if not self._once:
            self.limit = max(self._low, FLOOR)
        if self._tries < TRIES and not self._once:
            self._open, self.due = 0, now
            return
        self._high = self._open
        self._go_on(now)

    def _go_on(self, now: Instant) -> None:
        """The open question is settled."""
        self._open, self.due = 0, now
        if self._next() is None:
            self._settle(now)
        self._tries = 0

    def _settle(self, now: Instant) -> None:
        carries_all = self._low >= self.ceiling
        if carries_all or not self._once:
            # Rule 6.
            self.limit = None if carries_all or self._low < FLOOR else self._low
        self._top, self._settled = 0, now
        self.due = None if self.limit is None else Instant(now + AGAIN)


class PathMtus:
    """Rule 8: those of all places; `look` is asked after every piece of news."""

    def __init__(self, ceiling: int | None, vigil: Vigil) -> None:
        """`ceiling` None: nothing is asked, and nothing is limited."""
        self._ceiling = ceiling
        self._vigil = vigil
        self._known: dict[Place, PathMtu] = {}
        self._told: int | None = None

    def limit(self, active: Held | None) -> int | None:
        """Of what is sent now. While there is no way, of the last: it may return."""
        known = None if active is None else self._known.get(place_of(active.path))
        return self._told if active is None else None if known is None else known.limit

    def limit_at(self, place: Place) -> int | None:
        known = self._known.get(place)
        return None if known is None else known.limit

    def look(
        self, active: Held | None, warm: Iterable[Held], flip: int, now: Instant
    ) -> list[SendProbe | Tell]:
        """What to ask now, and to tell the server and people."""
        effects: list[SendProbe | Tell] = []
        for held in self._searched(active, warm):
            known = self._known.setdefault(place_of(held.path), self._unknown(now))
            known.look(now)
            size = known.wanted(now)
            news = held is active and self.limit(held) != self._told
            if news:
                effects.append(self._news(held))
            # One may have been sent at this moment.
            if news or (size is not None and held.liveness.waiting_since != now):
                small = self._vigil.ask(held, flip, now, active=held is active)
                effects.append(self.told(small, held) if held is active else small)
            if size is not None:
                question = self._vigil.ask_size(held, size, flip, active=held is active)
                known.asked(size, question.sequence, now)
                effects.append(question)
        return effects

    def deadlines(self, active: Held | None, warm: Iterable[Held]) -> list[Instant]:
        """When to `look`."""
        places = {place_of(held.path) for held in self._searched(active, warm)}
        times = (known.deadline for place, known in self._known.items() if place in places)
        return [at for at in times if at is not None]

    def begin(self, held: Held, now: Instant) -> None:
        """The traffic takes this tunnel from now on."""
        if known := self._known.get(place_of(held.path)):
            known.withdraw(now)

    def heard(self, held: Held, rtt: Seconds, now: Instant) -> None:
        """A small probe was answered."""
        if known := self._known.get(place_of(held.path)):
            known.heard(rtt, now)

    def answered(self, sequence: int, now: Instant) -> bool:
        """Whether that was the answer to a question of ours."""
        return any(known.answered(sequence, now) for known in self._known.values())

    def refused(self, sequence: int, now: Instant) -> None:
        for known in self._known.values():
            known.refused(sequence, now)

    def used(self, active: Held | None, now: Instant, *, silent: bool) -> None:
        """There is traffic, or was until it fell silent."""
        if active is None or (known := self._known.get(place_of(active.path))) is None:
            return
        if silent:
            known.doubt(now)
        else:
            known.used(now)

    def told(self, probe: SendProbe, active: Held) -> SendProbe:
        """The probe, with the limit."""
        self._told = self.limit(active)
        return replace(probe, limit=self._told or 0)

    def ask_again(self, now: Instant) -> None:
        """What was found may be otherwise by now; until it is known, it holds."""
        for known in self._known.values():
            known.ask_again(now)

    def keep(self, places: Iterable[Place]) -> None:
        """Forgets every place but these."""
        live = frozenset(places)
        self._known = {p: known for p, known in self._known.items() if p in live}

    def _news(self, active: Held) -> Tell:
        limit = self.limit(active)
        why = Reason.ANSWERED if limit is None else Reason.LARGE_LOST
        octets = self._ceiling if limit is None else limit
        return Tell("path-mtu", frozenset({why}), active.path, {"octets": octets or 0})

    def _unknown(self, now: Instant) -> PathMtu:
        return PathMtu(self._ceiling or FLOOR, now)

    def _searched(self, active: Held | None, warm: Iterable[Held]) -> Iterable[Held]:
        return () if self._ceiling is None else (*((active,) if active else ()), *warm)
