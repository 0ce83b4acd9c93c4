"""Lines and clouds of points as SVG, placed between round ticks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graftgan.reporting.drawn import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, ticks

PALETTE = (
    "#2f7de1", "#d9822b", "#8a63d2", "#17a398", "#d1495b", "#7a8b2f", "#5b6675", "#c2569b", "#3aa655",
)  # fmt: skip


@dataclass(frozen=True)
class Trace:
    """Points of one line or cloud of a chart.

    Attributes:
        label: What it is.
        x: Horizontal values.
        y: Vertical values, as many.
        colour: Its colour.
        dashed: Whether the line is dashed.
        dots: Whether single points are drawn instead of a line.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        title: Heading.
        help: What to look for.
        x_label: Name of the horizontal axis.
        traces: What is drawn; charts without points are left out.
    """

    title: str
    help: str
    x_label: str
    traces: tuple[Trace, ...]


@dataclass(frozen=True)
class Drawing:
    """Geometry of a chart.

    Attributes:
        chart: What it shows.
        shapes: Each trace with its points, as pixels.
        x_ticks: Position and text of the ticks of the horizontal axis.
        y_ticks: The same of the vertical axis.
    """

    chart: Chart
    shapes: tuple[tuple[Trace, tuple[tuple[float, float], ...]], ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def drawing(chart: Chart) -> Drawing | None:
    """Return where everything of a chart goes, or None if it has no points."""
    xs = [x for trace in chart.traces for x in trace.x]
    ys = [y for trace in chart.traces for y in trace.y]
    if not xs:
        return None
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        right = LEFT + (WIDTH - RIGHT - LEFT) * (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        down = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return round(right, 1), round(down, 1)

    return Drawing(
        chart,
        tuple((t, tuple(place(x, y) for x, y in zip(t.x, t.y, strict=True))) for t in chart.traces),
        tuple((place(x, y_ticks[0])[0], f"{x:g}") for x in x_ticks),
        tuple((place(x_ticks[0], y)[1], f"{y:g}") for y in y_ticks),
    )
