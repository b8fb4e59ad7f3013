"""Draws dots on a line for each row: what a median hides. Plain SVG, for any browser."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

ROW: Final = 28
LEFT: Final = 400
WIDTH: Final = 640
MARGIN: Final = 40
RADIUS: Final = 4
COLOURS: Final = ("#0b6e4f", "#b23a48", "#33658a", "#8f6593")
TICKS: Final = 5


def draw(
    path: Path, title: str, unit: str, rows: Mapping[str, Sequence[float]], colours: int = 2
) -> None:
    """Writes one row of dots for each series, on a common axis from 0; the median as a bar.

    So many rows that follow each other are compared: each has a colour of its own.
    """
    most = max((value for values in rows.values() for value in values), default=1.0) or 1.0
    height = MARGIN * 2 + ROW * len(rows)
    size = f'width="{LEFT + WIDTH + MARGIN}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">',
        f'<text x="{MARGIN / 2}" y="{MARGIN / 2}" font-weight="bold">{escape(title)}</text>',
    ]

    def across(value: float) -> float:
        return LEFT + WIDTH * value / most

    for tick in range(TICKS + 1):
        at = across(most * tick / TICKS)
        parts.append(
            f'<line x1="{at:.1f}" y1="{MARGIN}" x2="{at:.1f}" y2="{height - MARGIN}" '
            f'stroke="#ddd"/><text x="{at:.1f}" y="{height - MARGIN / 2}" '
            f'text-anchor="middle">{most * tick / TICKS:.0f} {escape(unit)}</text>'
        )
    for number, (name, values) in enumerate(rows.items()):
        y = MARGIN + ROW * (number + 0.5)
        colour = COLOURS[number % colours]
        parts.append(f'<text x="{MARGIN / 2}" y="{y + 4:.1f}">{escape(name)}</text>')
        parts += [
            f'<circle cx="{across(value):.1f}" cy="{y:.1f}" r="{RADIUS}" fill="{colour}" '
            f'fill-opacity="0.5"/>'
            for value in values
        ]
        middle = sorted(values)[len(values) // 2]
        parts.append(
            f'<rect x="{across(middle) - 1:.1f}" y="{y - ROW / 3:.1f}" width="3" '
            f'height="{ROW * 2 / 3:.1f}" fill="{colour}"/>'
        )
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")
