"""Tables of the playground: correlations beside the published ones, and the arms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import pandas as pd

from graftgan.study.playground import ARMS, Playground
from graftgan.study.statistics import Correlation, pearson
from graftgan.study.units import Record

PREDICTORS = ("recall", "precision", "gradient_similarity", "w1")
OUTCOMES = ("min W1", "min W1 after the first", "final W1")
# Printed by the authors' notebook, for source I, n = 101, outcome: the lowest W1.
PUBLISHED = {
    "recall": Correlation(-0.843, 101, 2.0e-28),
    "gradient_similarity": Correlation(-0.728, 101, 6.6e-18),
}
PUBLISHED_NOTE = (
    "published is what the authors' notebook prints for source I; its gradient similarity has the opposite "
    "sign of ours (it compares with the loss gradient, samples move against it), so it stands here negated"
)


def outcome(curve: Sequence[Record], name: str) -> float:
    """Return an outcome of a curve: the published one counts tests from the first update on.

    The first test stands so near to the start that the lowest W1 may be the start's own; hence the others.
    """
    tests = [float(look["w1"]) for look in curve if look["step"] >= 1]
    return {"min W1": min(tests), "min W1 after the first": min(tests[1:]), "final W1": tests[-1]}[name]


@dataclass(frozen=True)
class Finding:
    """One correlation.

    Attributes:
        starts: Which checkpoints: I, II, or both.
        predictor: Measure at the start.
        outcome: Measure after adaptation.
        ours: What was found.
        published: The published coefficient in our sign convention, where there is one.
    """

    starts: str
    predictor: str
    outcome: str
    ours: Correlation
    published: Correlation | None


def correlations(checkpoints: Sequence[Record]) -> list[Finding]:
    """Correlate every measure at the start with every outcome, by source and together."""
    groups: dict[str, Callable[[Record], bool]] = {
        "I": lambda record: record["source"] == "I",
        "II": lambda record: record["source"] == "II",
        "both": lambda record: True,
    }
    findings = []
    for starts, belongs in groups.items():
        curves = [record["curve"] for record in checkpoints if belongs(record)]
        for predictor in PREDICTORS:
            for name in OUTCOMES:
                x, y = [c[0][predictor] for c in curves], [outcome(c, name) for c in curves]
                known = published(predictor) if (starts, name) == ("I", OUTCOMES[0]) else None
                findings.append(Finding(starts, predictor, name, pearson(x, y), known))
    return findings


def published(predictor: str) -> Correlation | None:
    """Return the published correlation with the lowest W1, in our sign convention."""
    known = PUBLISHED.get(predictor)
    if known is None or predictor != "gradient_similarity" or known.r is None:
        return known
    return Correlation(-known.r, known.n, known.p)


@dataclass(frozen=True)
class ArmRow:
    """One arm, averaged over seeds.

    Attributes:
        arm: Its name.
        start: Measures at the start.
        middle: Measures at a quarter of the way.
        end: Measures at the end.
        final_w1: W1 at the end, by seed.
    """

    arm: str
    start: Record
    middle: Record
    end: Record
    final_w1: tuple[float, ...]


def arm_rows(arms: Sequence[Record]) -> list[ArmRow]:
    """Return the arms in their usual order."""
    rows = []
    for arm in ARMS:
        curves = [record["curve"] for record in arms if record["arm"] == arm]
        if curves:
            quarter = min(
                range(len(curves[0])), key=lambda i: abs(curves[0][i]["step"] - _quarter(curves[0]))
            )
            final = tuple(curve[-1]["w1"] for curve in curves)
            rows.append(ArmRow(arm, _mean(curves, 0), _mean(curves, quarter), _mean(curves, -1), final))
    return rows


def _quarter(curve: Sequence[Record]) -> float:
    return float(curve[-1]["step"]) / 4


def _mean(curves: Sequence[Sequence[Record]], place: int) -> Record:
    return {name: fmean(float(curve[place][name]) for curve in curves) for name in curves[0][place]}


def frame(playground: Playground) -> pd.DataFrame:
    """Return every look at every run as one table, a row a look."""
    rows = []
    for part, records in (("correlation", playground.checkpoints), ("arms", playground.arms)):
        for record in records:
            about = {
                "part": part, "source": record.get("source", ""), "checkpoint": record.get("step", -1),
                "arm": record.get("arm", ""), "seed": record["seed"],
            }  # fmt: skip
            rows += [{**about, **{k: float(v) for k, v in look.items()}} for look in record["curve"]]
    return pd.DataFrame(rows)
