"""How long connections stay stuck after an outage: the path was gone, and is back.

Applications use TCP connections in four ways, in each direction, all through one outage: the
link and the endpoint's address are lost, and come back, or another link does. They are:

bulk               sends as fast as it goes;
interactive        writes 8 octets every 100 ms, during the outage, too;
idle-keepalive     sender with SO_KEEPALIVE, 5 s x 3; writes 8 octets when the path is back;
idle-user-timeout  sender with TCP_USER_TIMEOUT of 10 s; wrote 8 octets when the path was gone.

For each connection: the time from the instant before the kernel got the new address to the
first octet after it that the receiving application read (none is ever read twice). A median is
that of the connections of one kind and direction; null: more than half of them were lost.

lost       connections that ended (an error or an end on either application's socket), that
           delivered a wrong octet, or nothing within 60 s of the return; both directions;
silent     of these, those that nobody was told of: nothing came, and no error either;
ratio      ours to the better of the other two, in the direction that is worse for us; what
           they lost counts as 60 s;
bulk_rate  from the return to the end of the first 200 ms in which all bulk connections of a
           direction had together 90 % of their goodput before the outage, and kept it for 1 s.

The same is done by our daemons, stock strongSwan with MOBIKE and kernel WireGuard, in one run.
At the end, with our daemons alone: hundreds of connections at a time.
"""

import argparse
import json
import math
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from orchestrator.lab.crowd import Crowd, server_configuration
from orchestrator.lab.flows import (
    BULK,
    IDLE_KEEPALIVE,
    IDLE_USER_TIMEOUT,
    INTERACTIVE,
    SLOW,
    Flow,
    Flows,
    Habit,
    regained,
)
from orchestrator.lab.netns import Lab
from orchestrator.lab.product import Product
from orchestrator.lab.ticker import Way
from orchestrator.services import proxy
from tests.benchmarks.plot import draw
from tests.benchmarks.tunnels import FIRST_LINK, OTHER_LINK, PEER, Kind, bare_lab, tunnel

RTT_MS: Final = 20
RATE_MBIT: Final = 20
"""Of the access links. What the lab's one CPU carries in both directions at a time, by any of
the three, so that it is the link that limits a bulk transfer."""
HABITS: Final = (BULK, INTERACTIVE, IDLE_KEEPALIVE, IDLE_USER_TIMEOUT)
EACH: Final = 3
"""Connections of each kind and direction."""
SETTLE: Final = 6.0
"""Seconds between the opening of the connections and the outage."""
MEASURED: Final = 3.0
"""The last seconds of these, over which the rate before the outage is taken."""
LIMIT: Final = 60.0
"""Seconds from the return after which a connection that moved nothing is lost."""
RATE_LIMIT: Final = 20.0
"""Seconds from the return in which a rate is looked for."""
SHARE: Final = 0.9
MANY: Final = 200
_POLL: Final = 0.05


@dataclass(frozen=True, slots=True)
class Outage:
    seconds: float
    back_on: str = FIRST_LINK

    def __str__(self) -> str:
        return f"{self.seconds:g} s, back on {self.back_on}"


OUTAGES: Final = {
    "quick": (Outage(20),),
    "full": (Outage(5), Outage(20), Outage(20, OTHER_LINK), Outage(120)),
}
MANY_STUCK: Final = {"quick": Outage(20), "full": Outage(60)}


@dataclass(frozen=True, slots=True)
class Back:
    """What the connections of one kind needed."""

    ms: Mapping[Way, list[float]]
    """From the return to the first octet, each connection; infinite where it was lost."""
    silent: int

    @classmethod
    def of(cls, flows: Iterable[Flow], returned: float) -> "Back":
        ms: dict[Way, list[float]] = {way: [] for way in Way}
        silent = 0
        for flow in flows:
            at = flow.arrivals.first_since(returned)
            lost = at is None or flow.failure is not None
            silent += at is None and flow.failure is None
            ms[flow.way].append(math.inf if lost or at is None else 1000 * (at - returned))
        return cls(ms, silent)

    def median(self, way: Way) -> float:
        return median(self.ms[way])

    @property
    def all(self) -> list[float]:
        return sorted(each for values in self.ms.values() for each in values)

    @property
    def lost(self) -> int:
        return self.all.count(math.inf)

    def as_json(self) -> dict[str, object]:
        return {
            "up_ms": _finite(self.median(Way.UP)),
            "down_ms": _finite(self.median(Way.DOWN)),
            "lost": self.lost,
            "silent": self.silent,
        }


@dataclass(frozen=True, slots=True)
class Rate:
    """What the bulk connections of a direction had together, and when they had it again."""

    before_mbit: float
    regained_ms: float
    """Infinite: they had it not."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One tunnel, one outage."""

    backs: Mapping[Habit, Back]
    rates: Mapping[Way, Rate]


def stick(
    flows: Flows, lab: Lab, outage: Outage, back: Callable[[], None] = lambda: None
) -> tuple[float, float]:
    """Takes the path away and gives it back, with what applications do meanwhile; returns when
    it went and when it was back. Everything that is to come has come, or does not."""
    pause = threading.Event()
    pause.wait(SETTLE)
    if silent := [flow for flow in flows.flows if not flow.arrivals.total or flow.failure]:
        raise RuntimeError(f"before the outage already: {silent}")
    gone = lab.link(FIRST_LINK).detach()
    flows.tell_cut()
    pause.wait(max(gone + outage.seconds - time.monotonic(), 0))
    returned = lab.link(outage.back_on).attach()
    back()
    flows.tell_back()
    while time.monotonic() < returned + LIMIT and any(
        flow.failure is None and flow.arrivals.first_since(returned) is None
        for flow in flows.flows
    ):
        pause.wait(_POLL)
    return gone, returned


def measure(kind: Kind, outage: Outage, folder: Path) -> Outcome:
    _say(f"{kind}: {outage}")
    with tunnel(kind, folder, RTT_MS, RATE_MBIT) as made:
        flows = Flows(made.lab.host("endpoint"), made.lab.host("peer1"), PEER)
        for habit in HABITS:
            for way in Way:
                flows.open(habit, way, EACH)
        with flows:
            gone, returned = stick(flows, made.lab, outage)
            rates = {way: _rate(flows.of(BULK, way), gone, returned) for way in Way}
        backs = {
            habit: Back.of((flow for flow in flows.flows if flow.habit is habit), returned)
            for habit in HABITS
        }
    for habit, back in backs.items():
        _say(f"{kind}: {outage}: {habit.name}: {back.as_json()}")
    for flow in flows.flows:
        if flow.failure is not None:
            _say(f"{kind}: {outage}: {flow.habit.name} {flow.way.value}: {flow.failure}")
    return Outcome(backs, rates)


def _rate(flows: list[Flow], gone: float, returned: float) -> Rate:
    """Waits for the rate before the outage."""
    arrivals = [flow.arrivals for flow in flows]
    before = sum(each.between(gone - MEASURED, gone) for each in arrivals) / MEASURED
    pause = threading.Event()
    again = None
    while again is None and time.monotonic() < returned + RATE_LIMIT:
        if all(flow.failure is not None for flow in flows):
            break
        pause.wait(_POLL)
        again = regained(arrivals, returned, SHARE * before, time.monotonic())
    return Rate(before * 8e-6, math.inf if again is None else again * 1000)


@dataclass(frozen=True, slots=True)
class Case:
    """One outage, all three."""

    outage: Outage
    outcomes: Mapping[Kind, Outcome]

    @classmethod
    def run(cls, outage: Outage, folder: Path) -> "Case":
        name = f"{outage.back_on}-{outage.seconds:g}"
        return cls(outage, {kind: measure(kind, outage, folder / kind / name) for kind in Kind})

    def as_json(self) -> list[dict[str, object]]:
        told = [
            self._named(habit.name)
            | {kind.value: each.backs[habit].as_json() for kind, each in self.outcomes.items()}
            | {"ratio": self._ratio(habit)}
            for habit in HABITS
        ]
        rates = {
            kind.value: {
                "up_ms": _finite(each.rates[Way.UP].regained_ms),
                "down_ms": _finite(each.rates[Way.DOWN].regained_ms),
                "up_mbit_before": round(each.rates[Way.UP].before_mbit, 1),
                "down_mbit_before": round(each.rates[Way.DOWN].before_mbit, 1),
            }
            for kind, each in self.outcomes.items()
        }
        return [*told, self._named("bulk_rate") | rates]

    def _named(self, case: str) -> dict[str, object]:
        return {
            "case": case,
            "outage_s": self.outage.seconds,
            "rtt_ms": RTT_MS,
            "back_on": "same link" if self.outage.back_on == FIRST_LINK else "other link",
        }

    def _ratio(self, habit: Habit) -> float | None:
        def counted(kind: Kind, way: Way) -> float:
            return min(self.outcomes[kind].backs[habit].median(way), 1000 * LIMIT)

        if self.outcomes[Kind.OURS].backs[habit].lost:
            return None
        ratios = (
            counted(Kind.OURS, way)
            / min(counted(kind, way) for kind in Kind if kind is not Kind.OURS)
            for way in Way
        )
        return round(max(ratios), 4)

    def rows(self) -> dict[str, list[float]]:
        return {
            f"{habit.name} {way.value}, {self.outage}, {kind}": [
                min(each, 1000 * LIMIT) for each in outcome.backs[habit].ms[way]
            ]
            for habit in HABITS
            for way in Way
            for kind, outcome in self.outcomes.items()
        }


def many_flows(outage: Outage, folder: Path) -> dict[str, object]:
    """Hundreds of connections of one session, half of them in each direction."""
    with tunnel(Kind.OURS, folder / "many-flows", RTT_MS) as made:
        flows = Flows(made.lab.host("endpoint"), made.lab.host("peer1"), PEER)
        for way in Way:
            flows.open(SLOW, way, MANY // len(Way))
        with flows, Memory.watched() as memory:
            _, returned = stick(flows, made.lab, outage)
        return _many("many_flows", outage, flows, returned, memory)


def many_sessions(outage: Outage, folder: Path) -> dict[str, object]:
    """Hundreds of sessions, each with one connection that its peer sends on.

    Their endpoints are a stand-in that holds nothing (lab/crowd.py): so only that direction is
    measured, which is the server's part. What is sent the other way is held on each device.
    """
    with bare_lab(folder / "many-sessions", RTT_MS) as lab:
        Product(lab, server=server_configuration(MANY)).start_server()
        crowd = Crowd(lab, MANY)
        flows = Flows(lab.host("endpoint"), lab.host("peer1"), PEER)
        with crowd:
            crowd.wait_until_answered()
            flows.open(SLOW, Way.DOWN, MANY, crowd.vips)
            with flows, Memory.watched() as memory:
                _, returned = stick(flows, lab, outage, crowd.tell_back)
        return _many("many_sessions", outage, flows, returned, memory)


def _many(
    case: str, outage: Outage, flows: Flows, returned: float, memory: "Memory"
) -> dict[str, object]:
    values = Back.of(flows.flows, returned).all
    lost = values.count(math.inf)
    ours = {
        "resumed": len(values) - lost,
        "lost": lost,
        "p50_ms": _finite(_percentile(values, 50)),
        "p99_ms": _finite(_percentile(values, 99)),
        "memory_kib": memory.told,
    }
    _say(f"{case}: {outage}: {ours}")
    return {"case": case, "outage_s": outage.seconds, "rtt_ms": RTT_MS, "ours": ours}


@dataclass(frozen=True, slots=True)
class Memory:
    """What our processes have in memory, KiB."""

    told: dict[str, dict[str, int]]

    @classmethod
    @contextmanager
    def watched(cls) -> Iterator["Memory"]:
        """Before and after what is done in here, and the most they ever had."""
        memory = cls({})
        processes = _processes()
        before = {name: _memory(process) for name, process in processes.items()}
        yield memory
        for name, process in processes.items():
            resident, most = _memory(process)
            memory.told[name] = {"before": before[name][0], "after": resident, "most": most}


def _processes() -> dict[str, int]:
    """The numbers of our processes: this kernel runs one of each."""
    roles = {f"{role}.toml": role for role in ("endpoint", "server")} | {
        proxy.__name__: "proxy"
    }
    found: dict[str, int] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            line = (entry / "cmdline").read_text() if entry.name.isdigit() else ""
            found |= {role: int(entry.name) for mark, role in roles.items() if mark in line}
    return found


def _memory(process: int) -> tuple[int, int]:
    """VmRSS and VmHWM (proc(5))."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    resident, most = (int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return resident, most


def _percentile(values: list[float], percent: int) -> float:
    """Of sorted values: the least that is not exceeded by so many of them."""
    return values[math.ceil(len(values) * percent / 100) - 1]


def _finite(ms: float) -> float | None:
    return round(ms, 1) if math.isfinite(ms) else None


def table(cases: list[dict[str, object]]) -> str:
    lines = ["case                 outage    back on"]
    for case in cases:
        for kind in Kind:
            values = case.get(kind.value)
            if isinstance(values, dict):
                told = "  ".join(
                    f"{name} {'-' if value is None else value}"
                    for name, value in values.items()
                    if name != "memory_kib"
                )
                lines.append(
                    f"{case['case']:<18} {case['outage_s']:>6} s "
                    f"{case.get('back_on', 'same link'):>10}  {kind:<12} {told}"
                )
    return "\n".join(lines)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/bench resume")
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    parser.add_argument("--quick", action="store_true", help="an outage of 20 s alone")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw every connection")
    asked = parser.parse_args()
    effort = "quick" if asked.quick else "full"
    with tempfile.TemporaryDirectory(prefix="resume-") as name:
        folder = Path(name)
        cases = [Case.run(outage, folder) for outage in OUTAGES[effort]]
        told = [each for case in cases for each in case.as_json()]
        told += [each(MANY_STUCK[effort], folder) for each in (many_flows, many_sessions)]
    if asked.plot is not None:
        rows = {row: values for case in cases for row, values in case.rows().items()}
        draw(asked.plot, "From the path's return to the first octet", "ms", rows, len(Kind))
    if asked.json:
        sys.stdout.write(json.dumps({"bench": "resume", "cases": told}) + "\n")
    else:
        sys.stdout.write(table(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
