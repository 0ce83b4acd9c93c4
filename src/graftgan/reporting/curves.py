"""Which training curves are drawn, from which columns, in which colours; shared by both ways of drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graftgan.reporting.facts import RunFacts
from graftgan.reporting.numbers import number

COLOURS = {"chosen": "#2f7de1", "worst": "#d9822b", "scratch": "#8a63d2"}
OTHER_COLOURS = ("#17a398", "#d1495b", "#7a8b2f")


@dataclass(frozen=True)
class Line:
    """One line of a panel.

    Attributes:
        column: Column of `curves.csv`.
        name: What it is, for the key; empty if the panel has a single line a run.
        dashed: Whether it is drawn dashed.
    """

    column: str
    name: str = ""
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One small chart.

    Attributes:
        key: Identifier in the page.
        title: Heading.
        help: What to look for.
        lines: Its lines, drawn for each run.
        low: Column of the lower end of the band, empty for none.
        high: Column of the upper end.
        log: Whether the vertical axis is logarithmic.
    """

    key: str
    title: str
    help: str
    lines: tuple[Line, ...]
    low: str = ""
    high: str = ""
    log: bool = False


PANELS = (
    Panel(
        "kid",
        "KID on the validation images",
        "Lower is better. The band is the interval, the ring the checkpoint that was kept.",
        (Line("kid_validation"),),
        low="kid_low",
        high="kid_high",
    ),
    Panel(
        "loss",
        "Losses",
        "They balance each other and need not fall; a jump or a steady drift apart means trouble.",
        (Line("loss_g", "generator"), Line("loss_d", "discriminator", dashed=True)),
    ),
    Panel(
        "sign",
        "Signs of the discriminator's output",
        "Mean sign, from −1 to 1. Real near 1 and fake near −1 for long: the discriminator has memorised.",
        (Line("sign_real", "real"), Line("sign_fake", "fake", dashed=True)),
    ),
    Panel(
        "ada", "Augmentation strength p (ADA)", "Rises when the discriminator over-fits.", (Line("ada_p"),)
    ),
    Panel(
        "grad",
        "Gradient norms",
        "Logarithmic. Should stay level; a burst or a collapse to zero means trouble.",
        (Line("grad_norm_g", "generator"), Line("grad_norm_d", "discriminator", dashed=True)),
        log=True,
    ),
    Panel(
        "r1",
        "R1 penalty",
        "Logarithmic. How steep the discriminator is at real images.",
        (Line("r1"),),
        log=True,
    ),
)


@dataclass(frozen=True)
class Series:
    """The points of one line of one run.

    Attributes:
        run: Name of the run.
        label: What the run is.
        colour: Its colour.
        name: Name of the line within the panel.
        dashed: Whether it is dashed.
        x: Thousands of images seen.
        y: Values, all finite and, on a logarithmic axis, positive.
        low: Lower ends, as many as points, or none.
        high: Upper ends.
        best: Position of the kept checkpoint on the line, or None.
    """

    run: str
    label: str
    colour: str
    name: str
    dashed: bool
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    best: tuple[float, float] | None = None


def colours(runs: Sequence[RunFacts]) -> dict[str, str]:
    """Return a colour for each run; the three usual ones always have their own."""
    others = [run.name for run in runs if run.name not in COLOURS]
    extra = {name: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, name in enumerate(others)}
    return {run.name: COLOURS.get(run.name) or extra[run.name] for run in runs}


def series(panel: Panel, runs: Sequence[RunFacts]) -> list[Series]:
    """Return the lines of a panel that have at least one point."""
    palette = colours(runs)
    drawn = [_series(panel, line, run, palette[run.name]) for run in runs for line in panel.lines]
    return [s for s in drawn if s.x]


def _series(panel: Panel, line: Line, run: RunFacts, colour: str) -> Series:
    empty: list[float | None] = [None] * len(run.curves.get("images_seen", []))
    columns = [run.curves.get(name, empty) for name in ("images_seen", line.column, panel.low, panel.high)]
    points = [p for p in zip(*columns, strict=True) if p[0] is not None and p[1] is not None]
    if panel.log:
        points = [p for p in points if p[1] > 0]
    banded = bool(panel.low) and all(p[2] is not None and p[3] is not None for p in points)
    return Series(
        run=run.name,
        label=run.label,
        colour=colour,
        name=line.name,
        dashed=line.dashed,
        x=tuple(p[0] / 1000 for p in points),
        y=tuple(p[1] for p in points),
        low=tuple(p[2] for p in points) if banded else (),
        high=tuple(p[3] for p in points) if banded else (),
        best=_best(run) if panel.key == "kid" else None,
    )


def _best(run: RunFacts) -> tuple[float, float] | None:
    best = run.model.get("best") or {}
    seen, kid = number(best.get("images_seen")), number(best.get("kid"))
    return None if seen is None or kid is None else (seen / 1000, kid)
