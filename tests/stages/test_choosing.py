from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest

from graftgan.config import Rank
from graftgan.metrics.intervals import wilson
from graftgan.stages.choosing import (
    SELECTORS,
    choose,
    goodness,
    margin,
    order_rows,
    tied_with,
)
from graftgan.stages.rank import SCORES

ROOT = Path(__file__).parents[2]
N = 200


def row(name: str, training_images: int = 100, **values: float) -> dict[str, Any]:
    """A row of a ranking, with intervals a hundredth to each side."""
    full = {
        "recall": 0.0,
        "precision": 0.0,
        "density": 0.0,
        "coverage": 0.0,
        "kid": 1.0,
        "fd": 500.0,
    } | values
    cells = {k: {"value": v, "low": v - 0.01, "high": v + 0.01} for k, v in full.items()}
    kind = "scratch" if name == "scratch" else "source"
    return {"name": name, "kind": kind, "training_images": training_images, **cells}


def names(rows: list[dict[str, Any]], selector: str) -> list[str]:
    return [r["name"] for r in order_rows(rows, N, selector)]


def pick(rows: list[dict[str, Any]], **rank: Any) -> tuple[str, str, list[str], list[str], str | None]:
    settings = Rank.model_validate(rank)
    choice, worst, tied, warnings = choose(order_rows(rows, N, settings.selector), settings, N)
    return choice["name"], choice["why"], tied, warnings, worst


def test_every_score_of_the_ranking_can_select_and_only_those() -> None:
    assert set(SELECTORS) == set(SCORES) == set(get_args(Rank.model_fields["selector"].annotation))


def test_the_default_is_the_measure_that_chose_best_and_well_often_enough() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "selection.json").read_text(encoding="utf-8"))
    scores = {score["selector"]: score for score in results["scores"]}
    assert set(scores) == set(SELECTORS)
    chosen = scores[Rank().selector]
    assert chosen["hits"] == max(score["hits"] for score in scores.values())
    assert chosen["draws"] >= 10 and chosen["hits"] >= 0.8 * chosen["draws"]
    rivals = [score for score in scores.values() if score["hits"] == chosen["hits"]]
    assert chosen["mean_regret"] == min(score["mean_regret"] for score in rivals)


@pytest.mark.parametrize("selector", list(SELECTORS))
def test_each_selector_puts_its_best_first(selector: str) -> None:
    good, bad = (0.2, 0.6) if SELECTORS[selector].sign < 0 else (0.6, 0.2)
    rows = [row("a", **{selector: bad}), row("b", **{selector: good}), row("scratch", **{selector: bad / 2})]
    if SELECTORS[selector].sign < 0:
        rows[2] = row("scratch", **{selector: 0.9})
    assert names(rows, selector) == ["b", "a", "scratch"]
    assert names(rows[::-1], selector) == ["b", "a", "scratch"], "whatever the order they come in"
    chosen, why, _, warnings, worst = pick(rows, selector=selector)
    assert chosen == "b" and worst == "a" and why.startswith("b: its samples ")
    assert ("Recall would choose" in why) == (selector != "recall")
    assert not any("rank.selector" in text for text in warnings)


def test_the_two_measures_disagree_and_the_sentence_says_so() -> None:
    rows = [row("wide", recall=0.5, kid=0.9), row("near", recall=0.1, kid=0.3)]
    assert pick(rows, selector="recall")[0] == "wide"
    chosen, why, *_ = pick(rows, selector="kid")
    assert chosen == "near"
    assert "KID 0.3 (0.29 to 0.31)" in why and "less than any other source (next is wide with 0.9)" in why
    assert "Recall would choose wide instead: its samples cover 50%" in why


def test_ties_of_recall_go_by_the_error_of_a_share_then_training_images_then_distance() -> None:
    share = 0.3
    error = math.sqrt(share * (1 - share) / N)
    assert margin(row("a", recall=share), N, "recall") == pytest.approx(2 * wilson(share, N).stderr)
    rows = [
        row("top", 50, recall=share, fd=1), row("tied-far", 900, recall=share - 1.9 * error, fd=9),
        row("tied-near", 900, recall=share - 1.9 * error, fd=3), row("out", 5000, recall=share - 2.1 * error),
    ]  # fmt: skip
    assert names(rows, "recall") == ["tied-near", "tied-far", "top", "out"]
    _, why, tied, *_ = pick(rows, selector="recall")
    assert set(tied) == {"top", "tied-far", "tied-near"} and "among equals" in why


def test_ties_of_precision_density_and_coverage_go_by_their_own_interval() -> None:
    # 0.01 to each side at 95 % is a standard error of 0.0051
    assert margin(row("a"), N, "density") == pytest.approx(2 * 0.01 / 1.96, rel=1e-3)
    rows = [row("top", 10, density=0.5), row("tied", 20, density=0.491), row("out", 30, density=0.489)]
    assert names(rows, "density") == ["tied", "top", "out"]
    unknown = row("top", density=0.5)
    unknown["density"] |= {"low": None, "high": None}
    assert tied_with(unknown, [unknown, *rows[1:]], N, "density") == [unknown], "no interval, no ties"
    unknown["density"]["value"] = None
    assert goodness(unknown, "density") == -math.inf


@pytest.mark.parametrize("selector", ["kid", "fd"])
def test_of_equal_distances_the_one_with_more_recall_is_first(selector: str) -> None:
    near, wide = row("near", **{selector: 0.5}), row("wide", recall=0.2, **{selector: 0.524})
    far = row("far", recall=0.9, **{selector: 0.526})
    assert names([near, wide, far], selector) == ["wide", "near", "far"], "5 % is a tie, more is not"
    chosen, why, tied, *_ = pick([near, wide, far], selector=selector)
    assert chosen == "wide" and tied == ["wide", "near"] and "more recall decides" in why
    blind = [row("next", 20, **{selector: 0.501}), row("top", 10, **{selector: 0.5})]
    assert names(blind, selector) == ["top", "next"], "without recall, the nearer"


def test_a_distance_below_zero_has_a_margin_too() -> None:
    rows = [row("low", kid=-0.10), row("tied", recall=0.1, kid=-0.096), row("out", recall=0.2, kid=-0.09)]
    assert names(rows, "kid") == ["tied", "low", "out"]


def test_a_measure_that_is_zero_everywhere_is_called_blind() -> None:
    rows = [row("a", 5), row("b", 9)]
    chosen, _, tied, warnings, _ = pick(rows, selector="coverage")
    assert chosen == "b" and tied == []
    assert any("rank.selector: coverage is 0 for every source" in text for text in warnings)
    assert any("no source covers your data" in text for text in pick(rows)[3])


def test_a_choice_by_name_is_kept_whatever_the_measure() -> None:
    rows = [row("a", kid=0.2), row("b", kid=0.9)]
    chosen, why, _, _, worst = pick(rows, choose="b", selector="kid")
    assert (chosen, worst) == ("b", "a") and "was asked for by rank.choose" in why
