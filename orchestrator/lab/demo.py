"""The demo: the walk with our daemons, the same walk with stock strongSwan, and the verdict.

Runs in the lab's kernel (`vagrant/lab demo` sees to that). The timeline goes to stderr as it
happens; the table, or with --json one object, to stdout. Exit code 0 only if everything held.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from orchestrator.lab.internet import INTERNET
from orchestrator.lab.netns import Lab
from orchestrator.lab.product import Product
from orchestrator.lab.stock import StockTunnel
from orchestrator.lab.walk import RATES_MBIT, Walk, Walked

FILE_BYTES: Final = 64 << 20
INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, as of shells."""
TITLES: Final = {"ours": "orchestrator", "stock": "strongSwan, MOBIKE"}


def walk(kind: str, folder: Path) -> Walked:
    """One walk in a lab of its own; `kind` is "ours" or "stock"."""
    _tell(TITLES[kind], "hosts, links and servers are made")
    with Lab(INTERNET, folder) as lab:
        for link, rate in RATES_MBIT.items():
            lab.link(link).set(rate_mbit=rate)
        peers = lab.start_peers(FILE_BYTES)
        lab.link("wifi").attach()
        _tell(TITLES[kind], "its daemons start")
        if kind == "ours":
            Product(lab).start()
        else:
            StockTunnel(lab)
        _tell(TITLES[kind], "attached")
        return Walk(lab, peers, _timeline(TITLES[kind])).run()


def verdict(ours: Walked, stock: Walked) -> dict[str, object]:
    return {**ours.as_json(), "stock": stock.as_json()}


def table(ours: Walked, stock: Walked) -> str:
    """What people read: per roam the outage, and the checks."""
    rows = [("", *TITLES.values())]
    for mine, theirs in zip(ours.roams, stock.roams, strict=True):
        rows.append((mine.kind, "", ""))
        rows.append(("  silence seen by the download", *_ms(mine.outage_ms, theirs.outage_ms)))
        rows.append(("  new address to next byte", *_ms(mine.resumed_ms, theirs.resumed_ms)))
    checks: list[tuple[str, Callable[[Walked], object]]] = [
        ("TCP reconnects", lambda walked: walked.tcp_reconnects),
        ("checksum", lambda walked: "equal" if walked.sha256_ok else "DIFFERENT"),
        ("ssh session", lambda walked: "kept" if walked.session_ok else "LOST"),
        ("packets in clear", lambda walked: walked.cleartext_packets),
        ("packets protected", lambda walked: walked.protected_packets),
    ]
    rows += [(name, str(show(ours)), str(show(stock))) for name, show in checks]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{name:<{widths[0]}}  {mine:>{widths[1]}}  {theirs:>{widths[2]}}".rstrip()
        for name, mine, theirs in rows
    )


def _ms(*values: float | None) -> tuple[str, ...]:
    return tuple("never" if value is None else f"{value:,.0f} ms" for value in values)


def _timeline(title: str) -> Callable[[float, str], None]:
    return lambda seconds, sentence: _tell(title, sentence, f"{seconds:.2f} s")


def _tell(title: str, sentence: str, since: str = "") -> None:
    sys.stderr.write(f"{title:>18}  {since:>8}  {sentence}\n")
    sys.stderr.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="vagrant/lab demo")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="demo-") as folder:
            ours = walk("ours", Path(folder, "ours"))
            stock = walk("stock", Path(folder, "stock"))
    except KeyboardInterrupt:
        sys.stderr.write("lab: interrupted\n")
        return INTERRUPTED
    if asked.json:
        sys.stdout.write(json.dumps(verdict(ours, stock)) + "\n")
    else:
        sys.stdout.write(table(ours, stock) + "\n")
    return 0 if ours.ok else 1


if __name__ == "__main__":
    sys.exit(main())
