"""Static training curves as SVG, for where Bokeh is not installed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graftgan.reporting.curves import PANELS, Panel, Series, series
from graftgan.reporting.facts import RunFacts

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 10, 40

Place = Callable[[float], float]


@dataclass(frozen=True)
class Path:
    """One line of a chart, as the attributes of SVG elements.

    Attributes:
        run: Name of the run.
        title: What the line is.
        colour: Its colour.
        dashed: Whether it is dashed.
        points: Points of the line.
        band: Points of the outline of its interval band, empty for none.
        best: Where the ring of the kept checkpoint is, or None.
    """

    run: str
    title: str
    colour: str
    dashed: bool
    points: str
    band: str
    best: tuple[float, float] | None


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        panel: What it shows.
        paths: Its lines.
        x_ticks: Position and text of the ticks of the horizontal axis.
        y_ticks: The same of the vertical axis.
    """

    panel: Panel
    paths: tuple[Path, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def charts(runs: Sequence[RunFacts]) -> list[Chart]:
    """Return the geometry of every panel that has something to draw."""
    return [_chart(panel, lines) for panel in PANELS if (lines := series(panel, runs))]


def _chart(panel: Panel, lines: Sequence[Series]) -> Chart:
    def flat(y: float) -> float:
        return math.log10(y) if panel.log else y

    xs = [x for line in lines for x in line.x]
    ys = [flat(y) for line in lines for y in (*line.y, *line.low, *line.high)]
    ys += [flat(line.best[1]) for line in lines if line.best]
    x_ticks, y_ticks = ticks(0.0, max(xs)), ticks(min(ys), max(ys))
    across = _place(min(x_ticks[0], 0.0), max(*xs, x_ticks[-1]), LEFT, WIDTH - RIGHT)
    up = _place(min(*ys, y_ticks[0]), max(*ys, y_ticks[-1]), HEIGHT - BOTTOM, TOP)
    return Chart(
        panel=panel,
        paths=tuple(_path(line, across, lambda y: up(flat(y))) for line in lines),
        x_ticks=tuple((across(x), f"{x:g}") for x in x_ticks),
        y_ticks=tuple((up(y), f"{10**y:.3g}" if panel.log else f"{y:g}") for y in y_ticks),
    )


def _place(low: float, high: float, start: float, end: float) -> Place:
    span = (high - low) or 1.0
    return lambda value: round(start + (end - start) * (value - low) / span, 1)


def _path(line: Series, across: Place, up: Place) -> Path:
    def joined(xs: Sequence[float], ys: Sequence[float]) -> str:
        return " ".join(f"{across(x)},{up(y)}" for x, y in zip(xs, ys, strict=True))

    band = f"{joined(line.x, line.low)} {joined(line.x[::-1], line.high[::-1])}" if line.low else ""
    return Path(
        run=line.run,
        title=f"{line.label}, {line.name}" if line.name else line.label,
        colour=line.colour,
        dashed=line.dashed,
        points=joined(line.x, line.y),
        band=band,
        best=(across(line.best[0]), up(line.best[1])) if line.best else None,
    )


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round numbers, steps of 1, 2 or 5 times a power of ten, that enclose a range.

    Args:
        low: Lower end.
        high: Upper end, not below `low`.
        wanted: About how many steps.
    """
    span = high - low or abs(high) or 1.0
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 5, 10) if rough <= m * power * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]
