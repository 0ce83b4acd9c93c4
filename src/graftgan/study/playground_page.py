"""The playground's page and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from graftgan.contract import atomic_path, write_text
from graftgan.reporting.linechart import PALETTE, Chart, Trace
from graftgan.study.findings import (
    PUBLISHED_NOTE,
    ArmRow,
    Finding,
    arm_rows,
    correlations,
    frame,
    outcome,
)
from graftgan.study.page import Page, Section, Table, number, render
from graftgan.study.playground import ARMS, Playground
from graftgan.study.statistics import Correlation
from graftgan.study.units import Record, made_by

COLOURS = dict(zip(ARMS, PALETTE, strict=True))
SOURCE_COLOURS = {"I": PALETTE[0], "II": PALETTE[1]}
DEPENDENT = (
    "Checkpoints of one source are stages of one run and not independent: p is smaller than it ought to be, "
    "in the published numbers as in ours."
)


def write(playground: Playground, out: Path) -> tuple[Path, Path]:
    """Write `playground.parquet` and `playground.html` and return their paths."""
    table, page = out / "playground.parquet", out / "playground.html"
    with atomic_path(table) as temporary:
        frame(playground).to_parquet(temporary, index=False)
    write_text(page, render(make_page(playground)))
    return table, page


def make_page(playground: Playground) -> Page:
    """Return what the page shows."""
    findings = correlations(playground.checkpoints)
    rows = arm_rows(playground.arms)
    return Page(
        "Two-dimensional playground",
        verdict(findings, rows),
        facts(playground),
        (
            correlation_section(playground, findings),
            arm_section(playground, rows),
            source_section(playground),
        ),
    )


def verdict(findings: Sequence[Finding], rows: Sequence[ArmRow]) -> str:
    """Return what was found, in a sentence."""
    found = next(f for f in findings if (f.starts, f.predictor, f.outcome) == ("I", "recall", "min W1"))
    final = {row.arm: row.end["w1"] for row in rows}
    order = " < ".join(sorted(("I both", "scratch", "II both"), key=final.__getitem__))
    return (
        f"Recall at the start against the lowest W1 on source I: r = {number(found.ours.r)} over "
        f"{found.ours.n} starts (published: {number(found.published.r if found.published else None)} over "
        "101). "
        f"Final W1: {order}."
    )


def facts(playground: Playground) -> tuple[tuple[str, str], ...]:
    """Return the settings as text."""
    settings = tuple(
        (name.replace("_", " "), f"{value:g}") for name, value in asdict(playground.scale).items()
    )
    records = [*playground.sources, *playground.checkpoints, *playground.arms]
    return (("seeds", str(playground.seeds)), *settings, ("code", made_by(records)))


def _cell(found: Correlation | None) -> str:
    if found is None:
        return "–"
    return "constant" if found.r is None else f"{found.r:+.3f} (n = {found.n}, p = {found.p:.1g})"


def correlation_section(playground: Playground, findings: Sequence[Finding]) -> Section:
    """Return correlations, and recall against the outcome as a cloud."""
    table = Table(
        "Pearson correlation of a measure at the start with an outcome",
        ("starts", "measure at the start", "outcome", "ours", "published"),
        tuple((f.starts, f.predictor, f.outcome, _cell(f.ours), _cell(f.published)) for f in findings),
    )
    clouds = {
        law: [record for record in playground.checkpoints if record["source"] == law]
        for law in SOURCE_COLOURS
    }
    charts = tuple(
        Chart(
            f"{predictor} at the start and {name}", "Each dot is one checkpoint.", predictor,
            tuple(
                Trace(
                    f"source {law}", [r["curve"][0][predictor] for r in records],
                    [outcome(r["curve"], name) for r in records], SOURCE_COLOURS[law], dots=True,
                )
                for law, records in clouds.items()
            ),
        )
        for predictor, name in (("recall", "min W1"), ("recall", "final W1"), ("w1", "final W1"))
    )  # fmt: skip
    text = (
        "Every checkpoint of both sources is adapted to the ten modes in the published setting (no penalty).",
        f"{PUBLISHED_NOTE[0].upper()}{PUBLISHED_NOTE[1:]}.",
        "The lowest W1 counts the test after the first update, so it is partly the start's own W1; the other "
        "two outcomes are not.",
        DEPENDENT,
    )
    return Section("Does recall at the start tell the outcome?", text, (table,), charts)


def arm_section(playground: Playground, rows: Sequence[ArmRow]) -> Section:
    """Return what G and D bring, alone and crossed."""
    table = Table(
        f"Arms, mean of {playground.seeds} seeds",
        ("arm", "recall, precision at the start", "W1 at start", "at a quarter", "at the end", "by seed",
         "modes", "fidelity", "recall at the end"),
        tuple(
            (
                row.arm, f"{row.start['recall']:.2f}, {row.start['precision']:.2f}",
                number(row.start["w1"], 1), number(row.middle["w1"], 1), number(row.end["w1"], 1),
                ", ".join(number(v, 1) for v in row.final_w1), number(row.end["modes"], 1),
                number(row.end["fidelity"], 2), number(row.end["recall"], 2),
            )
            for row in rows
        ),
    )  # fmt: skip
    measures = {
        "w1": ("W1 to the target", "Lower is better."),
        "recall": ("Recall", "Share of the target that is covered."),
        "precision": ("Precision", "Share of samples on the target."),
        "modes": ("Modes covered", "Of ten."),
    }
    charts = tuple(
        Chart(title, help_text, "generator updates", _arm_traces(playground.arms, name))
        for name, (title, help_text) in measures.items()
    )
    text = (
        "Both networks, one of them, none, or G of one source beside D of the other; with R1 (gamma 1), "
        "which keeps the game stable. A fresh G has a fresh average too.",
    )
    return Section("What do G and D bring?", text, (table,), charts)


def _arm_traces(arms: Sequence[Record], name: str) -> tuple[Trace, ...]:
    first = [record for record in arms if record["seed"] == 0]
    return tuple(
        Trace(
            record["arm"], [look["step"] for look in record["curve"]],
            [look[name] for look in record["curve"]], COLOURS[record["arm"]], dashed="II" in record["arm"],
        )
        for record in first
    )  # fmt: skip


def source_section(playground: Playground) -> Section:
    """Return how near the sources came to their own laws."""
    traces = tuple(
        Trace(
            f"source {s['law']}, {s['part']}", [step for step, _ in s["trace"]], [w for _, w in s["trace"]],
            SOURCE_COLOURS[s["law"]], dashed=s["part"] == "arms",
        )
        for s in playground.sources if s["seed"] == 0
    )  # fmt: skip
    chart = Chart("W1 to the own law", "Of seed 0.", "generator updates", traces)
    return Section("The sources", ("How near each source came to its own law.",), charts=(chart,))
