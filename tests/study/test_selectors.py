from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import sem, spearmanr
from scipy.stats import t as student

from graftgan.stages.choosing import SELECTORS
from graftgan.study.selectors import Draw, Outcome, judge, scorecard

N = 300


def row(name: str, training_images: int = 0, **values: float) -> dict[str, Any]:
    full = {
        "recall": 0.0,
        "precision": 0.0,
        "density": 0.0,
        "coverage": 0.0,
        "kid": 1.0,
        "fd": 500.0,
    } | values
    cells = {k: {"value": v, "low": v - 1e-6, "high": v + 1e-6} for k, v in full.items()}
    return {"rank": 1, "name": name, "kind": "source", "training_images": training_images, **cells}


def drawn(
    outcomes: dict[str, float], rows: list[dict[str, Any]], margin: float = 0.0, name: str = "t 0"
) -> Draw:
    return Draw(name, rows, N, {n: Outcome(v, v - margin, v + margin) for n, v in outcomes.items()})


ROWS = [
    row("a", recall=0.5, kid=0.9, fd=100), row("b", recall=0.2, kid=0.3, fd=300),
    row("c", recall=0.0, kid=0.5, fd=200),
]  # fmt: skip
OUTCOMES = {"a": 0.2, "b": 0.25, "c": 0.4}


def test_hits_regret_and_rank_correlation_by_hand() -> None:
    draw = drawn(OUTCOMES, ROWS)
    recall, kid = judge(draw, "recall"), judge(draw, "kid")
    assert (recall.choice, recall.best, recall.regret, recall.hit) == ("a", "a", 0.0, True)
    assert kid.choice == "b" and kid.regret == pytest.approx(0.25) and not kid.hit
    assert recall.spearman == pytest.approx(1.0)
    expected = spearmanr([-0.9, -0.3, -0.5], [-0.2, -0.25, -0.4]).statistic
    assert kid.spearman == pytest.approx(expected)


def test_within_five_percent_is_a_hit_and_so_is_within_the_interval_of_the_best() -> None:
    near = {"a": 0.2, "b": 0.2099, "c": 0.4}
    assert judge(drawn(near, ROWS), "kid").hit
    assert not judge(drawn(near | {"b": 0.2101}, ROWS), "kid").hit
    assert judge(drawn(OUTCOMES, ROWS, margin=0.05), "kid").hit
    assert not judge(drawn(OUTCOMES, ROWS, margin=0.049), "kid").hit


def test_both_ways_to_hit_are_told_apart_and_counted_apart() -> None:
    near = judge(drawn({"a": 0.2, "b": 0.2099, "c": 0.4}, ROWS), "kid")
    assert (near.within_5_percent, near.within_interval) == (True, False)
    inside = judge(drawn(OUTCOMES, ROWS, margin=0.05), "kid")
    assert (inside.within_5_percent, inside.within_interval) == (False, True)
    draws = [drawn({"a": 0.2, "b": 0.2099, "c": 0.4}, ROWS), drawn(OUTCOMES, ROWS, 0.05, "t 1")]
    kid = {score.selector: score for score in scorecard(draws)[0]}["kid"]
    assert (kid.hits, kid.within_5_percent, kid.within_interval) == (2, 1, 1)


def test_seeds_have_a_students_interval_and_one_run_its_own() -> None:
    own = Outcome(0.3, 0.1, 0.4)
    assert Outcome.of_runs([own]) == own
    values = (0.2, 0.3, 0.25, 0.5)
    found = Outcome.of_runs([Outcome(value, 0.0, 9.0) for value in values])
    ends = student.interval(0.95, 3, loc=np.mean(values), scale=sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), *ends))


def test_a_worse_seed_of_the_best_does_not_widen_it_to_its_own_kid() -> None:
    alike = [Outcome(value, value, value) for value in (0.2, 0.2, 0.2, 0.2, 0.26)]
    assert Outcome.of_runs(alike).high < 0.26


def test_a_measure_that_is_equal_for_all_is_blind_and_the_rules_for_ties_choose() -> None:
    rows = [row("a", 10), row("b", 90), row("c", 20)]
    found = judge(drawn(OUTCOMES, rows), "coverage")
    assert found.blind and found.choice == "b" and found.spearman is None
    assert not judge(drawn(OUTCOMES, ROWS), "recall").blind


def test_candidates_that_were_not_run_do_not_count() -> None:
    found = judge(drawn({"b": 0.25, "c": 0.4}, ROWS), "recall")
    assert found.choice == found.best == "b"


def test_the_scorecard_counts_over_draws_and_puts_the_best_measure_first() -> None:
    other = [row("a", recall=0.1, kid=0.2), row("b", recall=0.4, kid=0.8), row("c", kid=0.9)]
    draws = [drawn(OUTCOMES, ROWS), drawn(OUTCOMES, other, name="t 1")]
    scores, verdicts = scorecard(draws)
    assert {s.selector for s in scores} == set(SELECTORS) and len(verdicts) == 2 * len(SELECTORS)
    by_name = {s.selector: s for s in scores}
    recall = by_name["recall"]
    assert (recall.hits, recall.draws) == (1, 2)
    assert recall.mean_regret == pytest.approx(0.125) and recall.worst_regret == pytest.approx(0.25)
    assert by_name["kid"].hits == 1 and by_name["coverage"].blind == 2
    assert by_name["coverage"].spearman is None
    assert [s.hits for s in scores] == sorted((s.hits for s in scores), reverse=True)


def test_a_regret_needs_a_positive_best() -> None:
    with pytest.raises(ValueError, match=r"t 0: the best outcome is -0\.1"):
        judge(drawn({"a": -0.1, "b": 0.2, "c": 0.3}, ROWS), "recall")


def test_the_order_of_candidates_does_not_matter() -> None:
    a, b = drawn(OUTCOMES, ROWS), drawn(OUTCOMES, ROWS[::-1])
    assert scorecard([a])[0] == scorecard([b])[0]
