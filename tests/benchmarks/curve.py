"""A walk as data: what links do to packets, second by second."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.lab.internet import Quality

BUILDING: Final = Path(__file__).with_name("building.csv")
"""It says itself how it was made."""


@dataclass(frozen=True, slots=True)
class Moment:
    at: float
    """Seconds since the walk began."""
    links: Mapping[str, Quality]


def load(path: Path) -> tuple[Moment, ...]:
    """From a table with a header, and comments before it."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    links = [name.removesuffix("_delay_ms") for name in rows[0] if name.endswith("_delay_ms")]
    return tuple(
        Moment(
            float(row["second"]),
            {
                link: Quality(
                    delay_ms=float(row[f"{link}_delay_ms"]),
                    loss_percent=float(row[f"{link}_loss_percent"]),
                )
                for link in links
            },
        )
        for row in rows
    )


def crossings(curve: Iterable[Moment]) -> list[float]:
    """When another link than before became the one that loses least."""
    found = []
    best: str | None = None
    for moment in curve:
        least = min(quality.loss_percent for quality in moment.links.values())
        names = [name for name, each in moment.links.items() if each.loss_percent == least]
        if best is not None and best not in names:
            found.append(moment.at)
        if best not in names:
            best = names[0]
    return found
