"""Curves in log-log as one SVG file, a panel each, with the growth of the work beside them."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Protocol

COLUMNS = 3
WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 40, 40
TIME, WORK, INK, FAINT = "#2f7de1", "#d9822b", "#333333", "#dddddd"


class Curve(Protocol):
    """What a panel shows."""

    name: str
    of: str
    sizes: tuple[float, ...]
    seconds: tuple[float, ...]
    work: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """Exponent of the time."""

    @property
    def work_exponent(self) -> float:
        """Exponent of the work."""


def svg(curves: Sequence[Curve]) -> str:
    """Return all panels."""
    rows = math.ceil(len(curves) / COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="11" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, curve in enumerate(curves):
        x, y = number % COLUMNS * WIDTH, number // COLUMNS * HEIGHT
        parts.append(f'<g transform="translate({x} {y})">{panel(curve)}</g>')
    return "\n".join([*parts, "</svg>", ""])


def panel(curve: Curve) -> str:
    """Return one panel: time as points and a line, and dashed the work, scaled to the first time."""
    scale = curve.seconds[0] / curve.work[0]
    work = [value * scale for value in curve.work]
    values = [*curve.seconds, *work]
    low, high = math.log10(min(values)), math.log10(max(values))
    first, last = math.log10(curve.sizes[0]), math.log10(curve.sizes[-1])

    def place(size: float, value: float) -> tuple[float, float]:
        right = LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(size) - first) / max(last - first, 1e-9)
        up = (HEIGHT - TOP - BOTTOM) * (math.log10(value) - low) / max(high - low, 1e-9)
        return round(right, 1), round(HEIGHT - BOTTOM - up, 1)

    shapes = [
        f'<text x="8" y="16" font-weight="bold">{html.escape(curve.name)}</text>',
        f'<text x="8" y="31"><tspan fill="{TIME}">time: exponent {curve.exponent:.2f}</tspan>, '
        f'<tspan fill="{WORK}">work: {curve.work_exponent:.2f}</tspan></text>',
    ]
    heights = {value: place(curve.sizes[0], value)[1] for value in (curve.seconds[0], curve.seconds[-1])}
    for value, down in heights.items():
        shapes.append(f'<path d="M{LEFT} {down}H{WIDTH - RIGHT}" stroke="{FAINT}"/>')
        shapes.append(f'<text x="{LEFT - 5}" y="{down + 4}" text-anchor="end">{value:.2g} s</text>')
    for size in curve.sizes:
        right, _ = place(size, curve.seconds[0])
        shapes.append(f'<text x="{right}" y="{HEIGHT - 22}" text-anchor="middle">{size:g}</text>')
    shapes.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{html.escape(curve.of)}</text>"
    )
    for points, colour, dash in ((work, WORK, ' stroke-dasharray="4 3"'), (curve.seconds, TIME, "")):
        places = [place(*pair) for pair in zip(curve.sizes, points, strict=True)]
        line = " ".join(f"{right},{down}" for right, down in places)
        shapes.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>')
        if colour == TIME:
            shapes += [f'<circle cx="{right}" cy="{down}" r="3" fill="{TIME}"/>' for right, down in places]
    return "".join(shapes)
