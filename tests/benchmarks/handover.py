"""How long a move costs: the endpoint's address is lost and another one comes elsewhere.

An application sends a small packet both ways every 5 ms, all the time. For each move:

uplink    from the instant before the kernel got the new address to the first packet, sent after
          the move began, that reached the peer;
downlink  the same towards the endpoint;
lost      packets of both directions, sent while the move lasted, that never arrived;
action    from that instant to the first thing our daemon did in XFRM (a policy or SA written).

The same moves are done by our daemons and by stock strongSwan with MOBIKE, in the same run.
"""

import argparse
import json
import selectors
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from statistics import median
from typing import Final

from orchestrator.adapters.xfrm import Monitor
from orchestrator.lab.host import Host
from orchestrator.lab.ticker import Ticker, Way
from tests.benchmarks.plot import draw
from tests.benchmarks.tunnels import FIRST_LINK, OTHER_LINK, Kind, tunnel

RTTS_MS: Final = (20, 100)
MOVES: Final = {"quick": 5, "full": 11}
SETTLE: Final = 2.0
"""Seconds between two moves: each starts from a tunnel at rest, ours and theirs."""
LIMIT: Final = 10.0
"""Seconds after which a move that moved nothing is counted as this long."""
PEER: Final = ip_address("10.51.1.2")


@dataclass(slots=True)
class Moves:
    """What one side needed, milliseconds, a value for each move."""

    uplink: list[float] = field(default_factory=list)
    downlink: list[float] = field(default_factory=list)
    action: list[float] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        result = {
            "uplink_ms": round(median(self.uplink), 2),
            "downlink_ms": round(median(self.downlink), 2),
            "lost": median(self.lost),
        }
        if self.action:
            result["action_ms"] = round(median(self.action), 2)
        return result


class XfrmWatch:
    """When policies and SAs of a host changed, as the kernel tells everybody."""

    def __init__(self, host: Host) -> None:
        self.times: list[float] = []
        self._monitor = host.inside(Monitor)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def first_after(self, instant: float) -> float | None:
        return next((at for at in self.times if at >= instant), None)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._monitor.close()

    def _read(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._monitor, selectors.EVENT_READ)
            while not self._stop.is_set():
                if selector.select(0.2):
                    now = time.monotonic()
                    self.times += [now for _ in self._monitor.read()]


def measure(kind: Kind, rtt_ms: int, moves: int, folder: Path) -> Moves:
    """Moves the endpoint back and forth between two access networks."""
    result = Moves()
    with tunnel(kind, folder, rtt_ms) as made:
        lab = made.lab
        endpoint = lab.host("endpoint")
        watch = XfrmWatch(endpoint) if kind is Kind.OURS else None
        with Ticker(endpoint, made.vip, lab.host("peer1"), PEER) as ticker:
            pause = threading.Event()
            pause.wait(SETTLE)
            for number in range(moves):
                began = time.monotonic()
                address = lab.roam((OTHER_LINK, FIRST_LINK)[number % 2])
                for way, values in ((Way.UP, result.uplink), (Way.DOWN, result.downlink)):
                    at = ticker.wait_for(way, address, began, LIMIT)
                    values.append(1000 * (LIMIT if at is None else at - address))
                pause.wait(SETTLE)
                done = address + max(result.uplink[-1], result.downlink[-1]) / 1000
                result.lost.append(
                    sum(log.lost_between(began, done) for log in ticker.logs.values())
                )
                if watch is not None and (acted := watch.first_after(began)) is not None:
                    result.action.append(1000 * (acted - began))
                _progress(kind, rtt_ms, number, result)
        if watch is not None:
            watch.close()
    return result


@dataclass(frozen=True, slots=True)
class Case:
    """Break before make at one round-trip time, both sides."""

    rtt_ms: int
    ours: Moves
    strongswan: Moves

    @classmethod
    def run(cls, rtt_ms: int, moves: int, folder: Path) -> "Case":
        return cls(
            rtt_ms,
            measure(Kind.OURS, rtt_ms, moves, folder / f"ours-{rtt_ms}"),
            measure(Kind.STRONGSWAN, rtt_ms, moves, folder / f"stock-{rtt_ms}"),
        )

    def as_json(self) -> dict[str, object]:
        ours, stock = self.ours.summary(), self.strongswan.summary()
        return {
            "case": "break_before_make",
            "rtt_ms": self.rtt_ms,
            "moves": len(self.ours.uplink),
            "ours": ours,
            "strongswan": stock,
            "ratio": round(ours["downlink_ms"] / stock["downlink_ms"], 3),
        }

    def rows(self) -> dict[str, list[float]]:
        return {
            f"{way}, RTT {self.rtt_ms} ms, {name}": getattr(moves, way)
            for way in ("uplink", "downlink")
            for name, moves in (("ours", self.ours), ("strongSwan", self.strongswan))
        }


def table(cases: list[Case]) -> str:
    lines = [f"{'RTT':>6} {'':>12} {'uplink':>10} {'downlink':>10} {'lost':>6} {'action':>9}"]
    for each in cases:
        for name, moves in (("ours", each.ours), ("strongswan", each.strongswan)):
            values = moves.summary()
            action = f"{values['action_ms']:.2f} ms" if "action_ms" in values else ""
            lines.append(
                f"{each.rtt_ms:>3} ms {name:>12} {values['uplink_ms']:>7.1f} ms "
                f"{values['downlink_ms']:>7.1f} ms {values['lost']:>6g} {action:>9}"
            )
    return "\n".join(lines)


def _progress(kind: Kind, rtt_ms: int, number: int, moves: Moves) -> None:
    sys.stderr.write(
        f"{kind:>10}, RTT {rtt_ms} ms, move {number + 1}: "
        f"up {moves.uplink[-1]:.1f} ms, down {moves.downlink[-1]:.1f} ms, "
        f"lost {moves.lost[-1]}\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/bench handover")
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    parser.add_argument("--quick", action="store_true", help="5 moves each instead of 11")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw every move")
    asked = parser.parse_args()
    moves = MOVES["quick" if asked.quick else "full"]
    with tempfile.TemporaryDirectory(prefix="handover-") as folder:
        cases = [Case.run(rtt_ms, moves, Path(folder)) for rtt_ms in RTTS_MS]
    if asked.plot is not None:
        rows = {name: values for each in cases for name, values in each.rows().items()}
        draw(asked.plot, "From the new address to the first packet", "ms", rows)
    if asked.json:
        told = {"bench": "handover", "cases": [each.as_json() for each in cases]}
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        sys.stdout.write(table(cases) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
