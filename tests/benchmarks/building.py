"""A walk through a building: two Wi-Fi networks, one fades while the other comes, three times.

The endpoint is attached to both all the time; what they do to packets follows a curve
(tests/benchmarks/building.csv), from one to the other end, back, and there again. One
connection downloads as fast as it goes, another one is typed on (8 octets every 100 ms, towards
the peer).
The same walk is done by

ours           with both networks;
ours_on_wifi   ours, which may use the first only;
ours_on_wifi2  the second only;
strongswan     stock strongSwan with MOBIKE, with both.

goodput     octets of the download that its application read, over the whole walk;
reconnects  connections that ended, so that an application would have to open another one;
silence     the longest time in which nothing typed reached the peer;
flips       how often our traffic went to another link, with the reasons that our daemon told.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from orchestrator.adapters import clock
from orchestrator.lab.flows import BULK, INTERACTIVE, Arrivals, Flows
from orchestrator.lab.internet import INTERNET
from orchestrator.lab.netns import Lab
from orchestrator.lab.product import ENDPOINT
from orchestrator.lab.silence import longest_silence
from orchestrator.lab.ticker import Way
from orchestrator.lab.watch import Flip, Watch, flips
from orchestrator.wire.control import Refused, Verb
from tests.benchmarks.curve import BUILDING, Moment, crossings, load
from tests.benchmarks.plot import draw
from tests.benchmarks.tunnels import (
    FIRST_LINK,
    OTHER_LINK,
    PEER,
    Kind,
    Settings,
    Tunnel,
    tunnel,
)

SECONDS: Final = {"quick": 45.0, "full": 180.0}
"""Of a walk; a quicker one is the same curve, run through."""
RTT_MS: Final = 16.0
"""While the tunnel comes up: as the curve has it beside an access point."""
RATE_MBIT: Final = 20.0
"""Of either network: what the lab's one CPU carries beside all else."""
SETTLE: Final = 3.0
"""Seconds with both networks at their best, before the walk."""
NO_LINK: Final = "no-such-link"


class Walker(StrEnum):
    OURS = "ours"
    ON_WIFI = "ours_on_wifi"
    ON_WIFI2 = "ours_on_wifi2"
    STRONGSWAN = "strongswan"


ONLY: Final = {Walker.ON_WIFI: FIRST_LINK, Walker.ON_WIFI2: OTHER_LINK}


@dataclass(frozen=True, slots=True)
class Walked:
    """What one walker had; rates in Mbit/s."""

    goodput: float
    each_second: tuple[float, ...]
    silence_s: float
    ended: tuple[str, ...]
    """Why connections ended that did."""
    flips: tuple[Flip, ...] | None
    """None: nobody tells of them."""

    def as_json(self) -> dict[str, object]:
        told: dict[str, object] = {
            "goodput_mbit": round(self.goodput, 2),
            "reconnects": len(self.ended),
            "longest_silence_ms": round(1000 * self.silence_s, 1),
        }
        if self.flips is not None:
            told["flips"] = len(self.flips)
            told["reasons"] = dict(Counter(", ".join(flip.reasons) for flip in self.flips))
        return told


def walk(walker: Walker, curve: Sequence[Moment], seconds: float, folder: Path) -> Walked:
    """The tunnel comes up where all is well, both networks are there; then it goes."""
    only = ONLY.get(walker)
    kind = Kind.STRONGSWAN if walker is Walker.STRONGSWAN else Kind.OURS
    first = only or FIRST_LINK
    with tunnel(kind, folder, RTT_MS, RATE_MBIT, _settings(only), first) as made:
        for link in (FIRST_LINK, OTHER_LINK):
            if link != first:
                made.lab.link(link).attach()
        flows = Flows(made.lab.host("endpoint"), made.lab.host("peer1"), PEER)
        flows.open(BULK, Way.DOWN, 1)
        flows.open(INTERACTIVE, Way.UP, 1)
        heard = _watch(made)
        with heard or nullcontext(), flows:
            threading.Event().wait(SETTLE)
            begun = clock.now()
            begin = time.monotonic()
            _follow(made.lab, curve, seconds / curve[-1].at)
            end = time.monotonic()
        bulk, typed = (flow.arrivals for flow in flows.flows)
        silent, heard_again = longest_silence(typed.times, begin, end)
        return Walked(
            _mbit(bulk, begin, end),
            tuple(_mbit(bulk, begin + n, begin + n + 1) for n in range(int(end - begin))),
            heard_again - silent,
            tuple(f"{each.habit.name}: {each.failure}" for each in flows.flows if each.failure),
            None if heard is None else _flips(heard, made.lab.link(first).device, begun),
        )


def _settings(only: str | None) -> Settings:
    if only is None:
        return Settings()
    include = json.dumps([INTERNET.link(only).far.device])
    return Settings(endpoint=f"{ENDPOINT}\n[links]\ninclude = {include}\n")


def _watch(made: Tunnel) -> Watch | None:
    endpoint = made.endpoint
    if endpoint is None:
        return None

    def refused() -> None:
        with suppress(Refused):
            endpoint.ask(Verb.ROAM, NO_LINK)

    return Watch(endpoint.host, refused)


def _flips(watch: Watch, link: str, begun: float) -> tuple[Flip, ...]:
    """Those of the walk, in seconds from its beginning."""
    found = (replace(flip, at=flip.at - begun) for flip in flips(watch.records, link))
    return tuple(flip for flip in found if flip.at >= 0)


def _follow(lab: Lab, curve: Sequence[Moment], slower: float) -> None:
    """Has the links follow the curve; each of its seconds takes so many."""
    pause = threading.Event()
    begin = time.monotonic()
    for moment in curve:
        pause.wait(max(begin + moment.at * slower - time.monotonic(), 0))
        for name, quality in moment.links.items():
            lab.link(name).set(delay_ms=quality.delay_ms, loss_percent=quality.loss_percent)


def _mbit(arrivals: Arrivals, begin: float, end: float) -> float:
    return arrivals.between(begin, end) * 8e-6 / (end - begin)


def as_json(
    walked: Mapping[Walker, Walked], curve: Sequence[Moment], seconds: float
) -> dict[str, object]:
    ours = walked[Walker.OURS].goodput
    best = max(walked[each].goodput for each in ONLY)
    case: dict[str, object] = {
        "case": "walk",
        "seconds": seconds,
        "crossings": len(crossings(curve)),
        "rate_mbit": RATE_MBIT,
    }
    case |= {walker.value: each.as_json() for walker, each in walked.items()}
    case |= {
        "to_best_link": _ratio(ours, best),
        "to_strongswan": _ratio(ours, walked[Walker.STRONGSWAN].goodput),
    }
    return {"bench": "building", "cases": [case]}


def _ratio(ours: float, theirs: float) -> float | None:
    return round(ours / theirs, 3) if theirs else None


def table(walked: Mapping[Walker, Walked]) -> str:
    lines = [f"{'':<14} {'goodput':>12} {'reconnects':>10} {'silence':>10} {'flips':>6}"]
    for walker, each in walked.items():
        count = "-" if each.flips is None else f"{len(each.flips)}"
        lines.append(
            f"{walker:<14} {each.goodput:>5.2f} Mbit/s {len(each.ended):>10} "
            f"{each.silence_s:>8.2f} s {count:>6}"
        )
    return "\n".join(lines)


def _say(walker: Walker, walked: Walked) -> None:
    told = [
        f"{walked.goodput:.2f} Mbit/s, silence {walked.silence_s:.2f} s",
        *(
            f"after {flip.at:.1f} s to {flip.link} ({', '.join(flip.reasons)})"
            for flip in walked.flips or ()
        ),
        *(f"ended: {why}" for why in walked.ended),
    ]
    sys.stderr.writelines(f"{walker}: {line}\n" for line in told)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/bench building")
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    parser.add_argument("--quick", action="store_true", help="45 seconds instead of 180")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw every second")
    asked = parser.parse_args()
    seconds = SECONDS["quick" if asked.quick else "full"]
    curve = load(BUILDING)
    walked = {}
    with tempfile.TemporaryDirectory(prefix="building-") as folder:
        for walker in Walker:
            walked[walker] = walk(walker, curve, seconds, Path(folder) / walker)
            _say(walker, walked[walker])
    if asked.plot is not None:
        rows = {walker.value: each.each_second for walker, each in walked.items()}
        draw(asked.plot, "Goodput in each second", "Mbit/s", rows, len(Walker))
    if asked.json:
        sys.stdout.write(json.dumps(as_json(walked, curve, seconds)) + "\n")
    else:
        sys.stdout.write(table(walked) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
