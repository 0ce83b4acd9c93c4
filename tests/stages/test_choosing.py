from __future__ import annotations

import math
from typing import Any, get_args

import pytest

from graftgan.config import Rank
from graftgan.metrics.intervals import wilson
from graftgan.stages.choosing import (
    SELECTORS,
    choose,
    goodness,
    order_rows,
    standard_error,
    tied_with,
)
from graftgan.stages.rank import SCORES

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
    assert Rank().selector == "recall", "the paper's is the default"


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
    assert pick(rows)[0] == "wide"
    chosen, why, *_ = pick(rows, selector="kid")
    assert chosen == "near"
    assert "KID 0.3 (0.29 to 0.31)" in why and "less than any other source (next is wide with 0.9)" in why
    assert "Recall would choose wide instead: its samples cover 50%" in why


def test_ties_of_recall_go_by_the_error_of_a_share_then_training_images_then_distance() -> None:
    share = 0.3
    error = math.sqrt(share * (1 - share) / N)
    assert standard_error(row("a", recall=share), N, "recall") == pytest.approx(wilson(share, N).stderr)
    rows = [
        row("top", 50, recall=share, fd=1), row("tied-far", 900, recall=share - 1.9 * error, fd=9),
        row("tied-near", 900, recall=share - 1.9 * error, fd=3), row("out", 5000, recall=share - 2.1 * error),
    ]  # fmt: skip
    assert names(rows, "recall") == ["tied-near", "tied-far", "top", "out"]
    _, why, tied, *_ = pick(rows)
    assert set(tied) == {"top", "tied-far", "tied-near"} and "among equals" in why


def test_ties_of_precision_density_and_coverage_go_by_their_own_interval() -> None:
    # 0.01 to each side at 95 % is a standard error of 0.0051
    assert standard_error(row("a"), N, "density") == pytest.approx(0.01 / 1.96, rel=1e-3)
    rows = [row("top", 10, density=0.5), row("tied", 20, density=0.491), row("out", 30, density=0.489)]
    assert names(rows, "density") == ["tied", "top", "out"]
    unknown = row("top", density=0.5)
    unknown["density"] |= {"low": None, "high": None}
    assert tied_with(unknown, [unknown, *rows[1:]], N, "density") == [unknown], "no interval, no ties"
    unknown["density"]["value"] = None
    assert goodness(unknown, "density") == -math.inf


@pytest.mark.parametrize("selector", ["kid", "fd"])
def test_distances_are_taken_as_they_are(selector: str) -> None:
    rows = [row("top", 10, **{selector: 0.5}), row("next", 20, **{selector: 0.501})]
    assert names(rows, selector) == ["top", "next"]
    assert pick(rows, selector=selector)[2] == ["top"]
    same = [row("few", 10, **{selector: 0.5}), row("many", 20, **{selector: 0.5})]
    assert names(same, selector) == ["many", "few"], "equal ones by training images"


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
