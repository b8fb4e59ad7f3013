"""What an endpoint costs that does nothing: packets, octets and wake-ups an hour.

It is attached to two links, and nobody sends anything. One after another, in one lab, there are

ours             with both our daemons, as they are configured by default;
strongswan       stock strongSwan with MOBIKE, which by default never asks its peer;
strongswan_dpd   the same with a dpd_delay of 30 s.

packets, octets  what the endpoint's link carried, both ways, with its Ethernet headers;
wakeups          how often the threads of a process went to sleep, which is how often they were
                 woken (voluntary_ctxt_switches in /proc/PID/task/*/status).

All is counted for the time that is said (`measured_s`), after a time to settle, and scaled to
an hour. Of the server's daemon there is also what it needs without any endpoint (`alone`).
A line tells of each when it has been measured.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from orchestrator.lab.link import Link
from orchestrator.lab.netns import Lab
from orchestrator.lab.product import Product
from orchestrator.lab.stock import StockTunnel
from tests.benchmarks.tunnels import bare_lab

RTT_MS: Final = 20
LINKS: Final = ("wifi", "lte")
"""The first is behind a NAT."""
DPD_DELAY: Final = 30
"""Seconds."""
SETTLE: Final = 40.0
"""Seconds until our intervals have grown; the second tunnel is up then."""
SETTLE_OTHERS: Final = 5.0
SECONDS: Final = {"quick": 50.0, "full": 300.0}
"""Multiples of 12.5 and 25 s, and nearly of what charon does every 20 and 30 s."""
HOUR: Final = 3600.0

Count = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Side:
    """What is counted of one of them, by name."""

    links: Mapping[str, Mapping[str, Count]]
    wakeups: Mapping[str, Count]

    def counted(self) -> dict[str, dict[str, int]]:
        told = {
            link: {name: count() for name, count in counts.items()}
            for link, counts in self.links.items()
        }
        return told | {"wakeups": {name: count() for name, count in self.wakeups.items()}}


@contextmanager
def ours(folder: Path) -> Iterator[Side]:
    with _lab(folder) as lab:
        product = Product(lab)
        product.start()
        endpoint, server = product.endpoint, product.server
        assert endpoint.process is not None
        assert endpoint.charon is not None
        assert server.process is not None
        assert server.charon is not None
        processes = {
            "endpoint": endpoint.process.pid,
            "endpoint_charon": endpoint.charon.pid,
            "server": server.process.pid,
            "server_charon": server.charon.pid,
        }
        yield Side(_links(lab), _wakeups(processes))


@contextmanager
def server_alone(folder: Path) -> Iterator[Side]:
    with bare_lab(folder, RTT_MS, attached=LINKS[0]) as lab:
        product = Product(lab)
        product.start_server()
        assert product.server.process is not None
        yield Side({}, _wakeups({"server": product.server.process.pid}))


@contextmanager
def stock(folder: Path, dpd_delay_s: int) -> Iterator[Side]:
    with _lab(folder) as lab:
        tunnel = StockTunnel(lab, dpd_delay_s)
        processes = {f"{host}_charon": charon.pid for host, charon in tunnel.charons.items()}
        yield Side(_links(lab), _wakeups(processes))


@contextmanager
def _lab(folder: Path) -> Iterator[Lab]:
    with bare_lab(folder, RTT_MS, attached=LINKS[0]) as lab:
        for name in LINKS[1:]:
            lab.link(name).attach()
        yield lab


def _links(lab: Lab) -> dict[str, dict[str, Count]]:
    return {
        name: {
            "packets": _link_count(lab, lab.link(name), "packets"),
            "octets": _link_count(lab, lab.link(name), "bytes"),
        }
        for name in LINKS
    }


def _link_count(lab: Lab, link: Link, what: str) -> Count:
    folder = Path("/sys/class/net") / link.device / "statistics"
    files = [folder / f"{way}_{what}" for way in ("rx", "tx")]
    endpoint = lab.host("endpoint")
    return lambda: sum(int(endpoint.inside(file.read_text)) for file in files)


def _wakeups(processes: Mapping[str, int]) -> dict[str, Count]:
    return {name: partial(wakeups, pid) for name, pid in processes.items()}


def wakeups(pid: int, proc: Path = Path("/proc")) -> int:
    """So many of all threads that the process has now."""
    statuses = (proc / str(pid) / "task").glob("*/status")
    return sum(_voluntary(status.read_text()) for status in statuses)


def _voluntary(status: str) -> int:
    return next(
        int(line.split()[1])
        for line in status.splitlines()
        if line.startswith("voluntary_ctxt_switches:")
    )


def an_hour(
    before: Mapping[str, Mapping[str, int]],
    after: Mapping[str, Mapping[str, int]],
    seconds: float,
) -> dict[str, dict[str, int]]:
    """The differences, scaled."""
    return {
        place: {
            name: round((value - before[place][name]) * HOUR / seconds)
            for name, value in counts.items()
        }
        for place, counts in after.items()
    }


def measure(seconds: float, folder: Path) -> dict[str, dict[str, dict[str, int]]]:
    told = {}
    for name, side, settle in (
        ("ours", ours(folder / "ours"), SETTLE),
        ("alone", server_alone(folder / "alone"), SETTLE_OTHERS),
        ("strongswan", stock(folder / "strongswan", 0), SETTLE_OTHERS),
        ("strongswan_dpd", stock(folder / "dpd", DPD_DELAY), SETTLE_OTHERS),
    ):
        with side as counts:
            told[name] = _measured(counts, settle, seconds)
        sys.stderr.write(f"{table({name: told[name]})}\n")
    return told


def _measured(side: Side, settle: float, seconds: float) -> dict[str, dict[str, int]]:
    pause = threading.Event()
    pause.wait(settle)
    before, began = side.counted(), time.monotonic()
    pause.wait(seconds)
    after, ended = side.counted(), time.monotonic()
    return an_hour(before, after, ended - began)


def table(told: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    lines = []
    for side, places in told.items():
        for place, counts in places.items():
            shown = ", ".join(f"{name} {value}" for name, value in counts.items())
            lines.append(f"{side:<15} {place:<8} {shown}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/bench idle")
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    parser.add_argument("--quick", action="store_true", help="for a shorter time")
    asked = parser.parse_args()
    seconds = SECONDS["quick" if asked.quick else "full"]
    with tempfile.TemporaryDirectory(prefix="idle-") as folder:
        told = measure(seconds, Path(folder))
    if asked.json:
        answer = {"bench": "idle", "measured_s": seconds, "scaled_to_s": HOUR, "hourly": told}
        sys.stdout.write(json.dumps(answer) + "\n")
    else:
        sys.stdout.write(f"An hour, from {seconds:g} s:\n{table(told)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
