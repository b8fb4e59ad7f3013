"""The moves that `tests/bench handover` measures, each from a tunnel at rest.

break_before_make  the address is lost and another one comes elsewhere;
make_before_break  another link comes, which we prefer; the first is taken away a while later;
carrier_lost       of two links the one in use is lost: carrier, then the addresses, as
                   NetworkManager has it when a Wi-Fi goes out of range;
silent_death       of two links the one in use drops everything, and looks well;
silent_death_idle  the same for an endpoint that sends and receives a packet every 5 s.

Which link is in use is seen from the packets that arrive on it, whoever keeps the tunnel: they
come to the tunnel's address. Those of stock strongSwan may leave on another one, by its metric.
"""

import json
import os
import selectors
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Final

from orchestrator.adapters.xfrm import Monitor
from orchestrator.lab.background import Background
from orchestrator.lab.host import Host
from orchestrator.lab.internet import INTERNET
from orchestrator.lab.link import Link
from orchestrator.lab.product import ENDPOINT, Daemon
from orchestrator.lab.ticker import INTERVAL, Ticker, Way
from tests.benchmarks.tunnels import (
    FIRST_LINK,
    OTHER_LINK,
    PEER,
    Kind,
    Settings,
    Tunnel,
    tunnel,
)

LIMIT: Final = 60.0
"""Seconds after which a move that moved nothing is stopped, and counted as this long."""
TAIL: Final = 1.0
"""Seconds that are still watched when traffic flows again: what is late comes until then."""
LINGER: Final = 2.0
"""Seconds that the first link stays when a better one has come."""
IDLE_INTERVAL: Final = 5.0
IDLE: Final = 2.5 * IDLE_INTERVAL
"""Seconds without other traffic before an idle endpoint's path dies, between two packets."""
_LOOK: Final = 0.1
_SEEN: Final = 0.5
"""Seconds over which packets are counted to find the link in use."""
_PREFERRED: Final = [INTERNET.link(name).far.device for name in (OTHER_LINK, FIRST_LINK)]
SETTINGS: Final = Settings(
    endpoint=f"{ENDPOINT}\n[links]\npreference = {json.dumps(_PREFERRED)}\n",
    # By default it never asks, and would stay on a dead path until a rekeying.
    stock_dpd_delay_s=2,
)


class Case(StrEnum):
    BREAK_BEFORE_MAKE = "break_before_make"
    MAKE_BEFORE_BREAK = "make_before_break"
    CARRIER_LOST = "carrier_lost"
    SILENT_DEATH = "silent_death"
    SILENT_DEATH_IDLE = "silent_death_idle"


SETTLE: Final = {
    Case.BREAK_BEFORE_MAKE: 1.0,
    Case.MAKE_BEFORE_BREAK: 1.0 + LINGER + TAIL,
    Case.CARRIER_LOST: 3.0,
    Case.SILENT_DEATH: 3.0,
    Case.SILENT_DEATH_IDLE: 3.0,
}
"""Seconds before a move: it starts from a tunnel at rest, and from a warm path if there is to
be one. Before a make_before_break, as long as it lasts: the gaps of both are compared."""


def _ways() -> dict[Way, list[float]]:
    return {way: [] for way in Way}


@dataclass(slots=True)
class Moves:
    """What one side needed, a value for each move; milliseconds where nothing else is said."""

    resumed: dict[Way, list[float]] = field(default_factory=_ways)
    gaps: dict[Way, list[float]] = field(default_factory=_ways)
    normal: dict[Way, list[float]] = field(default_factory=_ways)
    """The longest gap of an equally long time without a move; empty where none was watched."""
    lost: list[int] = field(default_factory=list)
    action: list[float] = field(default_factory=list)
    left: list[float] = field(default_factory=list)
    made_before: list[bool] = field(default_factory=list)
    """Whether traffic had moved before the first link was taken away."""

    @property
    def count(self) -> int:
        return len(self.lost)

    @property
    def stopped(self) -> bool:
        """Whether a move took as long as we were ready to wait."""
        return any(
            value >= 1000 * LIMIT for values in self.resumed.values() for value in values
        )

    def summary(self) -> dict[str, object]:
        told: dict[str, object] = {
            "uplink_ms": middle(self.resumed[Way.UP]),
            "downlink_ms": middle(self.resumed[Way.DOWN]),
            "lost": median(self.lost),
            "longest_gap_ms": {way.value: middle(self.gaps[way]) for way in Way},
            "moves": self.count,
        }
        if self.normal[Way.UP]:
            told["normal_gap_ms"] = {way.value: middle(self.normal[way]) for way in Way}
        if self.made_before:
            told["made_before_break"] = sum(self.made_before)
        if self.action:
            told["action_ms"] = middle(self.action)
        if self.left:
            told["left_ms"] = middle(self.left)
        if self.stopped:
            told["stopped_at_s"] = LIMIT
        return told


def middle(values: list[float]) -> float:
    return round(median(values), 2)


class XfrmWatch(Background):
    """When policies and SAs of a host changed, as the kernel tells everybody."""

    def __init__(self, host: Host) -> None:
        super().__init__("xfrm")
        self.times: list[float] = []
        self._monitor = host.inside(Monitor)

    def first_after(self, instant: float) -> float | None:
        return next((at for at in self.times if at >= instant), None)

    def _close(self) -> None:
        self._monitor.close()

    def _work(self) -> None:
        # A stopwatch goes before whoever it times.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        with selectors.DefaultSelector() as selector:
            selector.register(self._monitor, selectors.EVENT_READ)
            while not self._stop.is_set():
                if selector.select(0.2):
                    now = time.monotonic()
                    self.times += [now for _ in self._monitor.read()]


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to the network."""

    began: float
    """Packets sent since then are looked at."""
    counted: float
    """The instant that times are counted from."""
    restore: Callable[[], object]
    """Puts the links back to what the next move starts from."""
    made_before: bool | None = None


class Mover:
    """Moves one endpoint about, in one way, and measures."""

    def __init__(self, case: Case, made: Tunnel) -> None:
        self._case = case
        self._made = made
        self._lab = made.lab
        self._pause = threading.Event()
        self.result: Final = Moves()
        if case in (Case.CARRIER_LOST, Case.SILENT_DEATH, Case.SILENT_DEATH_IDLE):
            self._lab.link(OTHER_LINK).attach()

    def move(self, ticker: Ticker, watch: XfrmWatch | None, number: int) -> None:
        settle = SETTLE[self._case]
        self._pause.wait(settle)
        settled = time.monotonic()
        change = self._change(number)
        self._measure(ticker, change)
        if change.made_before is not None:
            self.result.made_before.append(change.made_before)
            quiet = settled - (settle - TAIL)
            for way, log in ticker.logs.items():
                self.result.normal[way].append(1000 * log.longest_gap(quiet, settled))
        if watch is not None and (acted := watch.first_after(change.began)) is not None:
            self.result.action.append(1000 * (acted - change.began))
        change.restore()

    def idle_move(self) -> None:
        with self.ticking():
            self._pause.wait(SETTLE[self._case])
            link = self._in_use()
        with self.ticking(IDLE_INTERVAL) as ticker:
            self._pause.wait(IDLE)
            change = self._cut(link)
            if self._made.endpoint is not None:
                left = self._left(self._made.endpoint, link, change.counted)
                self.result.left.append(1000 * (left - change.counted))
            self._measure(ticker, change)
            change.restore()

    def ticking(self, interval: float = INTERVAL) -> Ticker:
        hosts = self._lab.host("endpoint"), self._lab.host("peer1")
        return Ticker(hosts[0], self._made.vip, hosts[1], PEER, interval)

    def _in_use(self) -> Link:
        """The access link that most of the endpoint's packets arrive on; a ticker ticks."""
        links = [link for link in self._lab.access_links if link.attached]
        before = [self._received(link) for link in links]
        self._pause.wait(_SEEN)
        come = [self._received(link) - then for link, then in zip(links, before, strict=True)]
        return links[come.index(max(come))]

    def _received(self, link: Link) -> int:
        file = Path("/sys/class/net") / link.device / "statistics/rx_packets"
        return int(self._lab.host("endpoint").inside(file.read_text))

    def _change(self, number: int) -> Change:
        match self._case:
            case Case.BREAK_BEFORE_MAKE:
                began = time.monotonic()
                address = self._lab.roam((OTHER_LINK, FIRST_LINK)[number % 2])
                return Change(began, address, lambda: None)
            case Case.MAKE_BEFORE_BREAK:
                return self._make_before_break()
            case Case.CARRIER_LOST:
                link = self._in_use()
                lost = link.detach()
                return Change(lost, lost, link.attach)
            case Case.SILENT_DEATH | Case.SILENT_DEATH_IDLE:
                return self._cut(self._in_use())

    def _make_before_break(self) -> Change:
        began = self._lab.link(OTHER_LINK).attach()
        self._pause.wait(LINGER - _SEEN)
        made = self._in_use().name == OTHER_LINK
        lost = self._lab.link(FIRST_LINK).detach()
        return Change(began, lost, lambda: self._lab.roam(FIRST_LINK), made)

    def _cut(self, link: Link) -> Change:
        cut = time.monotonic()
        link.cut()
        return Change(cut, cut, link.mend)

    def _left(self, endpoint: Daemon, link: Link, since: float) -> float:
        """When the endpoint's active path was another one, or none."""
        while True:
            path = endpoint.status()["active_path"]
            now = time.monotonic()
            if path is None or path["link"] != link.device or now >= since + LIMIT:
                return min(now, since + LIMIT)
            self._pause.wait(_LOOK)

    def _measure(self, ticker: Ticker, change: Change) -> None:
        """Until traffic flows both ways again, or we wait no more."""
        deadline = change.counted + LIMIT
        done = change.counted
        for way, values in self.result.resumed.items():
            patience = deadline - time.monotonic()
            at = ticker.wait_for(way, change.counted, change.counted, patience)
            values.append(1000 * (LIMIT if at is None else at - change.counted))
            done = max(done, deadline if at is None else at)
        self._pause.wait(TAIL)
        self.result.lost.append(
            sum(log.lost_between(change.began, done) for log in ticker.logs.values())
        )
        end = min(done + TAIL, deadline)
        for way, gaps in self.result.gaps.items():
            gaps.append(1000 * ticker.logs[way].longest_gap(change.began, end))


def measure(case: Case, kind: Kind, rtt_ms: int, moves: int, folder: Path) -> Moves:
    """So many moves of one tunnel, all of one case."""
    with tunnel(kind, folder, rtt_ms, settings=SETTINGS) as made:
        mover = Mover(case, made)
        if case is Case.SILENT_DEATH_IDLE:
            for number in range(moves):
                mover.idle_move()
                _say(case, kind, rtt_ms, number, mover.result)
            return mover.result
        ours = kind is Kind.OURS
        watching = XfrmWatch(made.lab.host("endpoint")) if ours else nullcontext()
        with watching as watch, mover.ticking() as ticker:
            for number in range(moves):
                mover.move(ticker, watch, number)
                _say(case, kind, rtt_ms, number, mover.result)
        return mover.result


def _say(case: Case, kind: Kind, rtt_ms: int, number: int, moves: Moves) -> None:
    told = (
        f"{way.value} {moves.resumed[way][-1]:.1f} ms, gap {moves.gaps[way][-1]:.1f} ms"
        for way in Way
    )
    sys.stderr.write(
        f"{case}, {kind}, RTT {rtt_ms} ms, move {number + 1}: {'; '.join(told)}; "
        f"lost {moves.lost[-1]}\n"
    )
