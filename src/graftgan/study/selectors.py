"""How well each measure of the ranking would have chosen a source: hits, regret and rank correlation.

A start counts as optimal if its outcome is within 5 % of the best over all sources (Grigoryev et al. 2022),
or within the interval of the best. What a measure would have chosen is what the rank stage recommends with
it, rules for ties included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from graftgan.stages.choosing import SELECTORS, goodness, order_rows
from graftgan.study.statistics import spearman, student_interval

OPTIMAL = 0.05


@dataclass(frozen=True)
class Outcome:
    """How an adapted source ended; lower is better.

    Attributes:
        value: The outcome.
        low: Lower end of its interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of_runs(cls, runs: Sequence[Outcome]) -> Outcome:
        """Return the outcome of several training seeds: their mean with its 95 % Student interval.

        A single run keeps the interval that it has.
        """
        if len(runs) == 1:
            return runs[0]
        return cls(*student_interval([run.value for run in runs]))


@dataclass(frozen=True)
class Draw:
    """One image set drawn from a target, with what the ranking saw and how the sources ended.

    Attributes:
        name: Target and draw.
        rows: Rows of `ranking.json`.
        n_target: Number of images that the ranking saw.
        outcomes: Outcome of every candidate, scratch included.
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    n_target: int
    outcomes: Mapping[str, Outcome]

    @property
    def best(self) -> str:
        """The candidate that ended best."""
        return min(self.outcomes, key=lambda name: (self.outcomes[name].value, name))


@dataclass(frozen=True)
class Verdict:
    """What one measure did on one draw.

    Attributes:
        draw: Name of the draw.
        selector: The measure.
        choice: What it would have chosen.
        best: What ended best.
        regret: Outcome of the choice over that of the best, less one.
        within_5_percent: Whether the choice ended within 5 % of the best.
        within_interval: Whether it ended within the interval of the best.
        hit: Whether either holds.
        blind: Whether the measure is equal for all candidates.
        spearman: Rank correlation of the measure with the outcome, 1 where it orders them all; None if blind.
    """

    draw: str
    selector: str
    choice: str
    best: str
    regret: float
    within_5_percent: bool
    within_interval: bool
    hit: bool
    blind: bool
    spearman: float | None


@dataclass(frozen=True)
class Score:
    """One measure over all draws.

    Attributes:
        selector: The measure.
        hits: Draws with a hit.
        within_5_percent: Draws whose choice ended within 5 % of the best.
        within_interval: Draws whose choice ended within the interval of the best.
        draws: Number of draws.
        mean_regret: Mean regret.
        worst_regret: Largest regret.
        spearman: Mean rank correlation over the draws where it is not blind, or None.
        blind: Draws where it is.
    """

    selector: str
    hits: int
    within_5_percent: int
    within_interval: int
    draws: int
    mean_regret: float
    worst_regret: float
    spearman: float | None
    blind: int


def judge(draw: Draw, selector: str) -> Verdict:
    """Return what a measure would have done on a draw.

    Raises:
        ValueError: If an outcome is not positive, for which a regret means nothing.
    """
    rows = [row for row in draw.rows if row["name"] in draw.outcomes]
    known = [{key: value for key, value in row.items() if key != "rank"} for row in rows]
    values = {row["name"]: goodness(row, selector) for row in known}
    choice = order_rows(known, draw.n_target, selector)[0]["name"]
    best, found = draw.outcomes[draw.best], draw.outcomes[choice]
    if best.value <= 0:
        raise ValueError(f"{draw.name}: the best outcome is {best.value:g}; a regret needs positive outcomes")
    regret = found.value / best.value - 1
    near, inside = regret <= OPTIMAL, found.value <= best.high
    return Verdict(
        draw.name, selector, choice, draw.best, regret, near, inside, near or inside,
        blind=len(set(values.values())) == 1,
        spearman=spearman(list(values.values()), [-draw.outcomes[name].value for name in values]),
    )  # fmt: skip


def scorecard(draws: Sequence[Draw]) -> tuple[list[Score], list[Verdict]]:
    """Judge every measure on every draw.

    Returns:
        A score a measure, most hits and then least regret first; and all verdicts.
    """
    verdicts = [judge(draw, selector) for selector in SELECTORS for draw in draws]
    scores = []
    for selector in SELECTORS:
        its = [verdict for verdict in verdicts if verdict.selector == selector]
        seen = [verdict.spearman for verdict in its if verdict.spearman is not None]
        scores.append(
            Score(
                selector, sum(v.hit for v in its), sum(v.within_5_percent for v in its),
                sum(v.within_interval for v in its), len(its), fmean(v.regret for v in its),
                max(v.regret for v in its), fmean(seen) if seen else None, sum(v.blind for v in its),
            )
        )  # fmt: skip
    return sorted(scores, key=lambda score: (-score.hits, score.mean_regret)), verdicts
