"""The connection proxy beside HAProxy and nginx: one process each, TPROXY, the source kept.

All relay between the same two namespaces, under the firewall of our server, and are asked in
turn, round after round; the figures are medians over the rounds. Client, proxy and peer share
the machine's cores. Cases:

bulk_1, bulk_8  a download over so many connections, Mbit/s;
rr_1, rr_64     64 octets and their echo, round trips a second over so many connections, and
                the 99th percentile of one;
connect         opened, 64 octets echoed, closed by the peer: connections a second.

cpu is what the proxy's process took, as the kernel accounts it: seconds for each GB, or us for
each round trip or connection.

HAProxy is measured with its defaults and with splicing forced; the better one of a case counts.
ratio above 1: ours is better than it.
"""

import argparse
import asyncio
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Final

from orchestrator.core.firewall import ProxyPorts
from orchestrator.services.proxy_client import ProxyClient
from tests.benchmarks import load
from tests.kernel.netns import Namespace
from tests.kernel.proxy.lan import PEER, SETTINGS, Lan, connect, until, worker

PORT: Final = 7000
"""Of the peer."""
HAPROXY: Final = """\
global
    nbthread 1
    maxconn 4000
    tune.pipesize 1048576
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
{options}
listen proxied
    bind 127.0.0.1:{port} transparent
    source 0.0.0.0 usesrc clientip
    server peer {peer}:{peer_port}
"""
_IP_TRANSPARENT: Final = 19
"""include/uapi/linux/in.h"""
SPLICED: Final = "    option splice-request\n    option splice-response\n"
NGINX: Final = """\
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 10000; }}
stream {{
    server {{
        listen 127.0.0.1:{port};
        proxy_pass {peer}:{peer_port};
        proxy_bind $remote_addr transparent;
        proxy_timeout 1h;
    }}
}}
"""


class Contestant(StrEnum):
    OURS = "ours"
    HAPROXY = "haproxy"
    HAPROXY_SPLICED = "haproxy-spliced"
    NGINX = "nginx"


PORTS: Final = {
    each: ProxyPorts(11110 + 10 * place, 11111 + 10 * place)
    for place, each in enumerate(Contestant)
}


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    kind: str
    connections: int
    unit: str
    per_unit: float
    """What is measured, in units a second, is divided by this."""


CASES: Final = (
    Case("bulk_1", "bulk", 1, "Mbit/s", 1e6 / 8),
    Case("bulk_8", "bulk", 8, "Mbit/s", 1e6 / 8),
    Case("rr_1", "rr", 1, "round trips/s", 1),
    Case("rr_64", "rr", 64, "round trips/s", 1),
    Case("connect", "connect", load.AT_ONCE, "connections/s", 1),
)


@dataclass(slots=True)
class Rounds:
    """What one contestant showed in one case, each round."""

    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)

    def note(self, case: Case, measured: load.Measured, cpu_seconds: float) -> None:
        self.rates.append(measured.rate / case.per_unit)
        # The time in which windows opened counts for the CPU, and not for the amount.
        share = measured.seconds / (measured.seconds + load.SETTLE)
        per = 1e9 if case.kind == "bulk" else 1e6
        self.cpu.append(cpu_seconds * share / measured.amount * per)
        if measured.latencies_us:
            ordered = sorted(measured.latencies_us)
            self.p99_us.append(ordered[math.ceil(0.99 * len(ordered)) - 1])


Results = Mapping[Case, Mapping[Contestant, Rounds]]


# ---- the contestants


@contextmanager
def _started(each: Contestant, lan: Lan, folder: Path) -> Iterator[int]:
    """The pid of the process that relays."""
    own, port = folder / each, PORTS[each].from_endpoints
    own.mkdir()
    match each:
        case Contestant.OURS:
            running = _ours(lan, own)
        case Contestant.HAPROXY:
            running = _haproxy(lan, own, port, "")
        case Contestant.HAPROXY_SPLICED:
            running = _haproxy(lan, own, port, SPLICED)
        case Contestant.NGINX:
            running = _nginx(lan, own, port)
    with running as pid:
        yield pid


@contextmanager
def _ours(lan: Lan, folder: Path) -> Iterator[int]:
    path = folder / "proxy.sock"
    settings = replace(SETTINGS, ports=PORTS[Contestant.OURS], flows_per_vip=16384)

    async def configure() -> None:
        async with await ProxyClient.connect(path) as client:
            await client.configure(settings)

    with worker(lan.server, path) as process:
        asyncio.run(configure())
        yield process.pid


@contextmanager
def _haproxy(lan: Lan, folder: Path, port: int, options: str) -> Iterator[int]:
    file = folder / "haproxy.cfg"
    file.write_text(
        HAPROXY.format(options=options, port=port, peer=PEER[4], peer_port=PORT), "ascii"
    )
    with _program(lan.server, ("haproxy", "-db", "-f", str(file))) as process:
        yield process.pid


@contextmanager
def _nginx(lan: Lan, folder: Path, port: int) -> Iterator[int]:
    """It does not know of IP_TRANSPARENT for its listeners, so it inherits one of ours."""
    file = folder / "nginx.conf"
    file.write_text(
        NGINX.format(folder=folder, port=port, peer=PEER[4], peer_port=PORT), "ascii"
    )
    with lan.server.entered():
        listener = socket.socket()
    with listener:
        listener.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(4096)
        environment = {**os.environ, "NGINX": f"{listener.fileno()};"}
        command = ("nginx", "-c", str(file), "-p", str(folder))
        passed = (listener.fileno(),)
        with _program(lan.server, command, environment, passed) as process:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            until(lambda: bool(children.read_text()))
            yield int(children.read_text().split()[0])


@contextmanager
def _program(
    namespace: Namespace,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    passed: tuple[int, ...] = (),
) -> Iterator["subprocess.Popen[bytes]"]:
    with namespace.entered():
        process = subprocess.Popen(command, env=environment, pass_fds=passed)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


# ---- the rounds


class Arena:
    """Everything that is needed for one run; ends with its `stack`."""

    def __init__(self, stack: ExitStack) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proxy-")))
        self._lan = Lan(
            lambda: stack.enter_context(closing(Namespace.create())),
            esp=False,  # what the proxies do is to be seen, not what encryption costs
        )
        to = (PEER[4], PORT)
        self._peer = load.Process(self._lan.peer, load.peer, *to)
        stack.callback(self._peer.close)
        self._peer.answer()
        self._client = load.Process(self._lan.endpoint, load.client, to)
        stack.callback(self._client.close)
        self._pids: dict[Contestant, int] = {}
        for each in Contestant:
            self._pids[each] = stack.enter_context(_started(each, self._lan, folder))
            self._choose(each)
            until(self._serves)

    def run(self, case: Case, each: Contestant, seconds: float) -> tuple[load.Measured, float]:
        """What was measured, and the CPU seconds of the proxy's process meanwhile."""
        self._choose(each)
        before = _cpu_seconds(self._pids[each])
        self._client.pipe.send((case.kind, case.connections, seconds))
        measured: load.Measured = self._client.answer()
        return measured, _cpu_seconds(self._pids[each]) - before

    def _choose(self, each: Contestant) -> None:
        self._lan.load(replace(self._lan.firewall, proxy=PORTS[each]))

    def _serves(self) -> bool:
        with suppress(OSError), connect(self._lan.endpoint, (PEER[4], PORT)) as sock:
            sock.sendall(b"C")
            return sock.recv(1) == b"C"
        return False


def _cpu_seconds(pid: int) -> float:
    """User and system time of the process (proc(5), stat, fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def race(cases: Sequence[Case], rounds: int, seconds: float) -> Results:
    results = {case: {each: Rounds() for each in Contestant} for case in cases}
    with ExitStack() as stack:
        arena = Arena(stack)
        for number in range(rounds):
            for case in cases:
                for each in Contestant:
                    results[case][each].note(case, *arena.run(case, each, seconds))
            sys.stderr.write(f"proxy: round {number + 1} of {rounds}\n")
    return results


# ---- what is said


def as_json(results: Results) -> list[dict[str, object]]:
    return [_row(case, of) for case, of in results.items()]


def _row(case: Case, of: Mapping[Contestant, Rounds]) -> dict[str, object]:
    rates = {each: median(rounds.rates) for each, rounds in of.items()}
    haproxy = max(
        (Contestant.HAPROXY, Contestant.HAPROXY_SPLICED), key=lambda each: rates[each]
    )
    row: dict[str, object] = {
        "case": case.name,
        "unit": case.unit,
        "ours": round(rates[Contestant.OURS], 1),
        "haproxy": round(rates[haproxy], 1),
        "haproxy_is": haproxy.value,
        "nginx": round(rates[Contestant.NGINX], 1),
        "ratio": round(rates[Contestant.OURS] / rates[haproxy], 3),
    }
    for name in ("cpu", "p99_us"):
        if getattr(of[haproxy], name):
            shown = {
                "ours": of[Contestant.OURS],
                "haproxy": of[haproxy],
                "nginx": of[Contestant.NGINX],
            }
            row[name] = {
                who: round(median(getattr(rounds, name)), 3) for who, rounds in shown.items()
            }
    return row


def table(rows: Sequence[Mapping[str, object]]) -> str:
    names = ("case", "unit", "ours", "haproxy", "nginx", "ratio", "cpu", "p99_us")
    lines = [names, *(tuple(_cell(row.get(name)) for name in names) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return " / ".join(f"{each:g}" for each in value.values())
    return "" if value is None else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/bench proxy")
    parser.add_argument("--json", action="store_true", help="one array as the last line")
    parser.add_argument("--quick", action="store_true", help="3 rounds, not 8, of 1 s, not 2")
    parser.add_argument("--case", action="append", help="this one alone; may be repeated")
    asked = parser.parse_args()
    cases = [case for case in CASES if not asked.case or case.name in asked.case]
    if not cases:
        parser.error(f"--case is one of {', '.join(case.name for case in CASES)}")
    rounds, seconds = (3, 1.0) if asked.quick else (8, 2.0)
    rows = as_json(race(cases, rounds, seconds))
    sys.stdout.write((json.dumps(rows) if asked.json else table(rows)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
