"""How long a move costs, in five cases (tests/benchmarks/moves.py).

An application sends a small packet both ways every 5 ms, all the time. For each move:

uplink    from the instant before the kernel got the new address, or before the link in use was
          lost, to the first packet, sent after it, that reached the peer;
downlink  the same towards the endpoint;
gap       the longest time between two arrivals during the move, each direction;
lost      packets of both directions, sent while the move lasted, that never arrived;
action    from the beginning to the first thing our daemon did in XFRM (a policy or SA written).

make_before_break has also the longest gap of an equally long time before (`normal_gap_ms`), and
how many moves were made before the first link went; silent_death_idle, where a packet goes only
every 5 s, the time until our daemon had left the dead path (`left_ms`). All are medians.

The same moves are done by our daemons and by stock strongSwan with MOBIKE, in the same run.
What moves nothing is stopped after 60 s (`stopped_at_s`), and counted as that.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from orchestrator.lab.ticker import Way
from tests.benchmarks.moves import LIMIT, Case, Moves, measure, middle
from tests.benchmarks.plot import draw
from tests.benchmarks.tunnels import Kind


@dataclass(frozen=True, slots=True)
class Plan:
    """One case at one round-trip time."""

    case: Case
    rtt_ms: int
    moves: Mapping[str, tuple[int, int]]
    """Ours and theirs: where theirs are stopped, each takes a minute and tells the same."""


PLANS: Final = (
    *(
        Plan(case, rtt_ms, {"quick": (quick, quick), "full": (full, full)})
        for case, quick, full in (
            (Case.BREAK_BEFORE_MAKE, 5, 11),
            (Case.MAKE_BEFORE_BREAK, 1, 7),
        )
        for rtt_ms in (20, 100)
    ),
    Plan(Case.CARRIER_LOST, 20, {"quick": (3, 1), "full": (7, 7)}),
    Plan(Case.SILENT_DEATH, 20, {"quick": (3, 1), "full": (7, 2)}),
    Plan(Case.SILENT_DEATH_IDLE, 20, {"quick": (1, 1), "full": (5, 1)}),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One plan, carried out by both sides."""

    plan: Plan
    sides: Mapping[Kind, Moves]

    @classmethod
    def run(cls, plan: Plan, effort: str, folder: Path) -> "Measured":
        counts = zip((Kind.OURS, Kind.STRONGSWAN), plan.moves[effort], strict=True)
        place = folder / f"{plan.case}-{plan.rtt_ms}"
        return cls(
            plan,
            {
                kind: measure(plan.case, kind, plan.rtt_ms, count, place / kind)
                for kind, count in counts
            },
        )

    def as_json(self) -> dict[str, object]:
        ours, stock = (middle(moves.resumed[Way.DOWN]) for moves in self.sides.values())
        told: dict[str, object] = {
            "case": self.plan.case,
            "rtt_ms": self.plan.rtt_ms,
            "moves": self.sides[Kind.OURS].count,
        }
        told |= {kind.value: moves.summary() for kind, moves in self.sides.items()}
        return told | {"ratio": round(ours / stock, 3)}

    def rows(self) -> dict[str, list[float]]:
        """What a dot is drawn for: of a move that nobody waits for, its gap."""
        planned = self.plan.case is Case.MAKE_BEFORE_BREAK
        return {
            f"{self.plan.case} {way.value}, RTT {self.plan.rtt_ms} ms, {kind}": (
                moves.gaps if planned else moves.resumed
            )[way]
            for way in Way
            for kind, moves in self.sides.items()
        }


def table(measured: list[Measured]) -> str:
    columns = ("uplink", "downlink", "gap up", "gap down")
    heads = " ".join(f"{head:>11}" for head in columns)
    lines = [f"{'case':<18} {'RTT':>6} {'':>10} {heads} {'lost':>6}"]
    for each in measured:
        for kind, moves in each.sides.items():
            values = [
                *(middle(moves.resumed[way]) for way in Way),
                *(middle(moves.gaps[way]) for way in Way),
            ]
            shown = " ".join(f"{value:>8.1f} ms" for value in values)
            lines.append(
                f"{each.plan.case:<18} {each.plan.rtt_ms:>3} ms {kind:>10} {shown} "
                f"{median(moves.lost):>6g}{remarks(moves)}"
            )
    return "\n".join(lines)


def remarks(moves: Moves) -> str:
    told = []
    if moves.normal[Way.UP]:
        normal = max(middle(values) for values in moves.normal.values())
        made = f"{sum(moves.made_before)} of {moves.count}"
        told.append(f"normal gap {normal:.1f} ms, {made} made before the break")
    if moves.action:
        told.append(f"action {middle(moves.action):.1f} ms")
    if moves.left:
        told.append(f"left the path after {middle(moves.left):.0f} ms")
    if moves.stopped:
        told.append(f"stopped at {LIMIT:g} s")
    return f"  {'; '.join(told)}" if told else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/bench handover")
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    parser.add_argument("--quick", action="store_true", help="fewer moves in each case")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw every move")
    asked = parser.parse_args()
    effort = "quick" if asked.quick else "full"
    with tempfile.TemporaryDirectory(prefix="handover-") as folder:
        measured = [Measured.run(plan, effort, Path(folder)) for plan in PLANS]
    if asked.plot is not None:
        rows = {name: values for each in measured for name, values in each.rows().items()}
        draw(asked.plot, "From the loss to the first packet; planned: the gap", "ms", rows)
    if asked.json:
        told = {"bench": "handover", "cases": [each.as_json() for each in measured]}
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        sys.stdout.write(table(measured) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
