"""The scores as the page shows them: runs side by side, drawn intervals, differences, copy verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftgan.metrics.copying import FAR, HONEST
from graftgan.reporting.facts import Facts, RunFacts
from graftgan.reporting.glossary import COPY_MEASURES, Measure, in_order, measure
from graftgan.reporting.numbers import (
    Bar,
    Interval,
    Scale,
    decimals_for,
    floor_text,
    number,
    range_text,
    text,
)


@dataclass(frozen=True)
class Cell:
    """One score of one run.

    Attributes:
        run: Name of the run.
        value: The score, or a dash.
        interval: `low to high`, or empty.
        best: Whether every other run has a worse value.
        bar: Its drawing, or None.
        note: What a reader must know.
    """

    run: str
    value: str
    interval: str
    best: bool
    bar: Bar | None
    note: str


@dataclass(frozen=True)
class Row:
    """One measure of all runs.

    Attributes:
        key: Measure without the extractor.
        name: Full name of the score.
        measure: How it is read.
        cells: One a run, in the order of the runs.
        floor: Real-versus-real value, or a dash.
        floor_n: Images a side of the floor, or None.
    """

    key: str
    name: str
    measure: Measure
    cells: tuple[Cell, ...]
    floor: str
    floor_n: int | None


def score_rows(facts: Facts) -> list[Row]:
    """Return one row for each score that any run has."""
    names = in_order(score["name"] for run in facts.runs for score in _scores(run))
    return [_row(name, facts) for name in names]


def _scores(run: RunFacts) -> Sequence[Mapping[str, Any]]:
    return run.scores.get("scores") or []


def _find(run: RunFacts, name: str) -> Mapping[str, Any]:
    return next((s for s in _scores(run) if s["name"] == name), {})


def _row(name: str, facts: Facts) -> Row:
    key, meaning = measure(name)
    found = [_find(run, name) for run in facts.runs]
    intervals = [Interval.of(score) for score in found]
    shared = facts.scores.get("floor") or {}
    floors = [number(s.get("floor")) for s in found] + [number(shared.get(name)), number(shared.get(key))]
    floor = next((f for f in floors if f is not None), None)
    decimals = decimals_for(intervals)
    scale = Scale.over(intervals, [floor])
    best = _best([i.value for i in intervals], meaning.direction)
    cells = tuple(
        Cell(
            run=run.name,
            value=text(interval.value, decimals),
            interval=range_text(interval, decimals),
            best=interval.value is not None and interval.value == best,
            bar=scale.bar(interval, floor),
            note=str(score.get("note") or ""),
        )
        for run, score, interval in zip(facts.runs, found, intervals, strict=True)
    )
    sides = next((s["floor_n"] for s in found if s.get("floor_n")), None)
    return Row(key, name, meaning, cells, floor_text(floor, decimals), sides)


def _best(values: Sequence[float | None], direction: int) -> float | None:
    known = [v for v in values if v is not None]
    if direction == 0 or len(known) < 2:
        return None
    best = max(known) if direction > 0 else min(known)
    return best if known.count(best) == 1 else None


@dataclass(frozen=True)
class Difference:
    """A paired comparison of two runs.

    Attributes:
        title: What is compared.
        value: First less second.
        interval: Its interval.
        outcome: Who is better, in words.
        decided: Whether the comparison is decided.
    """

    title: str
    value: str
    interval: str
    outcome: str
    decided: bool


def differences(facts: Facts) -> list[Difference]:
    """Return the paired comparisons in words."""
    names = {run.name for run in facts.runs}
    return [_difference(raw) for raw in facts.scores.get("paired") or [] if {raw["a"], raw["b"]} <= names]


def _difference(raw: Mapping[str, Any]) -> Difference:
    interval = Interval.of(raw, "difference")
    decimals = decimals_for([interval])
    decided = raw.get("better") in (raw["a"], raw["b"])
    return Difference(
        title=f"{measure(str(raw['metric']))[1].title}: {raw['a']} less {raw['b']}",
        value=text(interval.value, decimals, signed=True),
        interval=range_text(interval, decimals, signed=True),
        outcome=f"{raw['better']} is better" if decided else "undecided: the interval contains 0",
        decided=decided,
    )


@dataclass(frozen=True)
class CopyVerdict:
    """What the copy test says of a run.

    Attributes:
        state: `good`, `bad` or `unknown`.
        short: The verdict in two or three words.
        sentence: The verdict with its numbers.
    """

    state: str
    short: str
    sentence: str


def copy_verdict(run: RunFacts) -> CopyVerdict:
    """Return the copy verdict of a run.

    The statistic is the chance that a sample lies nearer to the training set than an unseen real image does;
    a model is said to copy if the whole interval lies above one half. Far below it the samples are like no
    real image, so that nothing can be said.
    """
    raw = run.scores.get("copy") or {}
    if not raw.get("available"):
        reason = str(raw.get("reason") or "there are no scores of it").rstrip(".")
        return CopyVerdict("unknown", "not measured", f"The copy test was not made: {reason}.")
    found = Interval.of(raw, "auc")
    if found.value is None or found.low is None:
        return CopyVerdict("unknown", "not measured", "The copy test gave no interval.")
    numbers = f"chance {text(found.value, 2)}, interval {range_text(found, 2)}; 0.5 is honest"
    if found.low > HONEST:
        sentence = "Samples lie nearer to the training images than unseen real images do: the model copies"
        return CopyVerdict("bad", "copies training images", f"{sentence} ({numbers}).")
    if found.high is not None and found.high < FAR:
        sentence = (
            "Samples lie much farther from the training images than unseen real images do: too far to copy"
        )
        return CopyVerdict(
            "unknown", "too far to tell", f"{sentence}, and too far for good pictures ({numbers})."
        )
    sentence = "Samples lie no nearer to the training images than unseen real images do"
    return CopyVerdict("good", "no sign of copying", f"{sentence} ({numbers}).")


def main_score(facts: Facts) -> Row | None:
    """Return the row that decides: KID, or the first one where there is no KID."""
    rows = [row for row in score_rows(facts) if row.key not in COPY_MEASURES]
    return next((row for row in rows if row.key == "kid"), rows[0] if rows else None)
