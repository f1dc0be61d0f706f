"""Line charts as SVG files for the documentation: nothing to install, nothing that moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT, GAP = 340, 300, 20  # of a panel, in pixels
COLUMNS = 2
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 34, 76
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#555555")  # told apart by all eyes
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4")


@dataclass(frozen=True, slots=True)
class Line:
    """A curve; `low` and `high` bound a shaded band. All of one length."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart."""

    title: str
    x_title: str
    y_title: str
    lines: Sequence[Line]


def write_svg(path: Path, panels: Sequence[Panel]) -> None:
    """Panels in rows of two, each with scales of its own."""
    width = min(len(panels), COLUMNS) * (WIDTH + GAP)
    height = -(-len(panels) // COLUMNS) * HEIGHT
    drawn = "\n".join(
        f'<g transform="translate({index % COLUMNS * (WIDTH + GAP)} '
        f'{index // COLUMNS * HEIGHT})">{_panel(panel)}</g>'
        for index, panel in enumerate(panels)
    )
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">'
        f'<rect width="{width}" height="{height}" fill="white"/>\n{drawn}\n</svg>\n',
        encoding="utf-8",
    )


def _panel(panel: Panel) -> str:
    xs = [x for line in panel.lines for x in line.x]
    ys = [y for line in panel.lines for y in (*line.y, *line.low, *line.high)]
    x_of = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y_of = _scale(min(ys), max(ys), HEIGHT - BOTTOM, TOP)
    parts = [f'<text x="{LEFT}" y="18" font-size="13">{escape(panel.title)}</text>']
    for value in _ticks(min(ys), max(ys)):
        y = y_of(value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for value in _ticks(min(xs), max(xs)):
        x, y = x_of(value), HEIGHT - BOTTOM + 15
        parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{value:.3g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    below = HEIGHT - BOTTOM + 31
    parts.append(
        f'<text x="{middle}" y="{below}" text-anchor="middle">{escape(panel.x_title)}</text>'
    )
    across = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text transform="translate(14 {across}) rotate(-90)" text-anchor="middle">'
        f"{escape(panel.y_title)}</text>"
    )
    for index, line in enumerate(panel.lines):
        colour, dash = COLOURS[index % 5], DASHES[index % 5]
        points = [f"{x_of(x):.1f} {y_of(y):.1f}" for x, y in zip(line.x, line.y, strict=True)]
        if line.low:
            edge = [*zip(line.x, line.high, strict=True)]
            edge += reversed([*zip(line.x, line.low, strict=True)])
            band = "L".join(f"{x_of(x):.1f} {y_of(y):.1f}" for x, y in edge)
            parts.append(f'<path d="M{band}Z" fill="{colour}" opacity="0.12"/>')
        stroke = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        parts.append(f'<path d="M{"L".join(points)}" {stroke}/>')
        x, y = LEFT + (index % 2) * 140, HEIGHT - 28 + (index // 2) * 17
        parts.append(f'<path d="M{x} {y - 4}h24" {stroke}/>')
        parts.append(f'<text x="{x + 30}" y="{y}">{escape(line.name)}</text>')
    return "".join(parts)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers within a range."""
    span = (high - low) or 1.0
    rough = span / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(each * magnitude for each in (1, 2, 5, 10) if each * magnitude >= rough)
    first = -(-low // step) * step
    return [first + i * step for i in range(int((high - first) / step) + 1)]
