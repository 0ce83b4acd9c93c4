"""The transfer study's page and files."""

from __future__ import annotations

from pathlib import Path

from graftgan.contract import atomic_path, write_text
from graftgan.reporting.linechart import PALETTE, Chart, Trace
from graftgan.study.page import Page, Section, Table, number, render
from graftgan.study.selectors import Score, Verdict, scorecard
from graftgan.study.transfer import ARMS, Study
from graftgan.study.transfer_findings import (
    Times,
    averaged,
    draws,
    frame,
    grouped,
    left_out,
    not_judged,
    times,
)
from graftgan.study.units import made_by

ARM_COLOURS = dict(zip(ARMS, PALETTE, strict=False))
NEAR = 0.05
MEASURES = {
    "kid": ("KID on the validation images", "Lower is better."),
    "recall": ("Recall", "Share of validation images that are covered."),
    "precision": ("Precision", "Share of samples that look like a validation image."),
    "moved": ("Movement of fixed latents", "Distance since the look before; 1 is that of two real images."),
}  # fmt: skip


def write(study: Study, out: Path) -> tuple[Path, Path]:
    """Write `transfer.parquet` and `transfer.html` and return their paths."""
    table, page = out / "transfer.parquet", out / "transfer.html"
    with atomic_path(table) as temporary:
        frame(study).to_parquet(temporary, index=False)
    write_text(page, render(make_page(study)))
    return table, page


def make_page(study: Study) -> Page:
    """Return what the page shows."""
    rows = times(study.records)
    judged = draws(study)
    scores, verdicts = scorecard(judged) if judged else ([], [])
    plan = study.plan
    facts = (
        ("targets", ", ".join(study.rankings)),
        ("sources", ", ".join(sorted({r["source"] for r in study.records}))),
        ("arms", ", ".join(plan.arms)), ("seeds", str(plan.seeds)),
        ("images seen", f"{study.records[0]['curve'][-1]['images']:g}"),
        ("protocol", study.records[0]["protocol"]),
        ("code", made_by(study.records)),
    )  # fmt: skip
    sections = [
        Section(
            "Which measure would have chosen?",
            (
                "A hit is a choice whose lowest validation KID is within 5 % of the best, or within the "
                "interval of the best: the KID's own of one seed, Student's over several, which is wide for "
                "few. The choice is what the rank stage recommends by the measure.",
                *(f"{target} is not judged: {why}." for target, why in not_judged(study).items()),
            ),
            (score_table(scores), verdict_table(verdicts)),
        ),
        Section(
            "Time and end of every run",
            (
                "Images until KID is as low as scratch's best of the same seed, and until within 5 % of the "
                "run's own best. Movement is the feature distance between images of the same latents at "
                f"consecutive looks ({study.records[0]['protocol']}), over that of two real images.",
                *(f"On {row['target']}, {row['why']}." for row in left_out(study)),
            ),
            (time_table(rows),),
        ),
        *(section for target in study.rankings for section in target_sections(study, target)),
    ]
    return Page("Transfer study", verdict(rows, scores), facts, tuple(sections))


def verdict(rows: list[Times], scores: list[Score]) -> str:
    """Return what was found, in a sentence."""
    targets = dict.fromkeys(row.target for row in rows)
    text = " ".join(_lowest([row for row in rows if row.target == target]) for target in targets)
    if scores:
        hits = ", ".join(f"{score.selector} {score.hits}" for score in scores)
        text += f" Choices that were right, of {scores[0].draws}: {hits}."
    return text


def _lowest(rows: list[Times]) -> str:
    first, *others = rows
    near = [f"{r.source} ({r.arm})" for r in others if r.best <= first.best + NEAR * abs(first.best)]
    alike = f"; within {NEAR:.0%} of it: {', '.join(near)}" if near else ""
    return f"On {first.target} the lowest KID, {first.best:.3f}, is of {first.source} ({first.arm}){alike}."


def score_table(scores: list[Score]) -> Table:
    """Return hits, regret and rank correlation of every measure."""
    return Table(
        "Measures as selectors",
        ("measure", "hits", "within 5 %", "within the interval", "mean regret", "worst regret", "Spearman",
         "blind"),
        tuple(
            (
                s.selector, f"{s.hits} of {s.draws}", f"{s.within_5_percent} of {s.draws}",
                f"{s.within_interval} of {s.draws}", f"{s.mean_regret:.1%}", f"{s.worst_regret:.1%}",
                number(s.spearman, 2), str(s.blind),
            )
            for s in scores
        ),
    )  # fmt: skip


def verdict_table(verdicts: list[Verdict]) -> Table:
    """Return what every measure would have chosen on every target."""
    return Table(
        "What each would have chosen",
        ("target", "measure", "choice", "best", "regret", "within 5 %", "within the interval"),
        tuple(
            (
                v.draw,
                v.selector,
                v.choice,
                v.best,
                f"{v.regret:.1%}",
                *map(_said, (v.within_5_percent, v.within_interval)),
            )
            for v in sorted(verdicts, key=lambda v: v.draw)
        ),
    )


def _said(holds: bool) -> str:
    return "yes" if holds else "no"


def time_table(rows: list[Times]) -> Table:
    """Return times, last scores and movements."""
    return Table(
        "Runs, best first",
        ("target", "source", "arm", "lowest KID", "images to scratch's best", "images to own best",
         "precision", "recall", "coverage", "first and last movement", "ADA p"),
        tuple(
            (
                row.target, row.source, row.arm, number(row.best),
                "–" if row.cross is None else f"{row.cross:g} ({row.reached} of {row.seeds})", f"{row.own:g}",
                number(row.last["precision"], 2), number(row.last["recall"], 2),
                number(row.last["coverage"], 2), f"{row.first_move:.2f}, {row.last_move:.2f}",
                number(row.last["ada_p"], 2),
            )
            for row in rows
        ),
    )  # fmt: skip


def target_sections(study: Study, target: str) -> list[Section]:
    """Return a section that compares the sources of a target, and one a source that compares its arms."""
    groups = {key: its for key, its in grouped(study.records).items() if key[0] == target}
    sources = sorted({source for _, source, arm in groups if arm != "scratch"})
    colours = {source: PALETTE[i % len(PALETTE)] for i, source in enumerate([*sources, "scratch"])}
    whole = {s: its for (_, s, arm), its in groups.items() if arm in ("both", "scratch")}
    lines = [(source, its, colours[source]) for source, its in whole.items()]
    sections = [Section(f"{target}: all sources, both networks", charts=_charts(lines))]
    scratch = [its for (_, _, arm), its in groups.items() if arm == "scratch"]
    for source in sources:
        arms = {arm: its for (_, s, arm), its in groups.items() if s == source}
        lines = [(arm, its, ARM_COLOURS[arm]) for arm, its in arms.items()]
        lines += [("scratch", its, ARM_COLOURS["scratch"]) for its in scratch]
        sections.append(Section(f"{target}: arms of {source}", charts=_charts(lines)))
    return sections


def _charts(lines: list[tuple[str, list[dict[str, object]], str]]) -> tuple[Chart, ...]:
    charts = []
    for name, (title, help_text) in MEASURES.items():
        traces = []
        for label, records, colour in lines:
            curve = averaged(records)
            scale = _yardstick(records) if name == "moved" else 1.0
            looks = [look for look in curve if name in look]
            xs, ys = [look["images"] / 1000 for look in looks], [look[name] / scale for look in looks]
            traces.append(Trace(label, xs, ys, colour))
        charts.append(Chart(title, help_text, "thousands of images seen", tuple(traces)))
    return tuple(charts)


def _yardstick(records: list[dict[str, object]]) -> float:
    return float(str(records[0]["real_distance"]))
