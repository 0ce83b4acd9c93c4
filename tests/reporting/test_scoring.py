from __future__ import annotations

import json
from pathlib import Path

import pytest

from graftgan.reporting.facts import Facts, RunFacts, read_facts
from graftgan.reporting.glossary import MEASURES, in_order, measure
from graftgan.reporting.scoring import copy_verdict, differences, main_score, score_rows
from reporting.synthetic import build, edit


def test_rows_come_in_the_order_of_the_glossary(facts: Facts) -> None:
    rows = score_rows(facts)
    assert [row.key for row in rows] == ["kid", "fd", "fd_excess", "precision", "recall", "copying"]
    assert all(len(row.cells) == 3 for row in rows)


def test_a_row_holds_values_intervals_floor_and_the_best(facts: Facts) -> None:
    kid = score_rows(facts)[0]
    assert [(c.value, c.interval, c.best) for c in kid.cells] == [
        ("0.021", "0.015 to 0.027", True),
        ("0.061", "0.055 to 0.067", False),
        ("0.101", "0.095 to 0.107", False),
    ]
    assert (kid.floor, kid.floor_n, kid.measure.advice) == ("0.0004", 4, "lower is better")
    bars = [cell.bar for cell in kid.cells]
    assert all(bars) and bars[0].dot < bars[1].dot < bars[2].dot
    assert bars[0].floor == bars[1].floor == pytest.approx(0.4, abs=0.1)


def test_higher_is_best_where_higher_is_better_and_nothing_where_neither(facts: Facts) -> None:
    rows = {row.key: row for row in score_rows(facts)}
    assert [cell.best for cell in rows["recall"].cells] == [True, False, False]
    assert not any(cell.best for cell in rows["copying"].cells)


def test_a_single_run_is_not_called_the_best(tmp_path: Path) -> None:
    rows = score_rows(read_facts(build(tmp_path, runs=("chosen",))))
    assert not any(cell.best for row in rows for cell in row.cells)


def test_missing_values_are_dashes(inputs: dict[str, Path]) -> None:
    path = inputs["scores"] / "scores.json"
    raw = json.loads(path.read_text())
    for score in raw["runs"]["worst"]["scores"]:
        score["value"] = score["low"] = score["high"] = score["floor"] = None
    del raw["runs"]["scratch"]
    path.write_text(json.dumps(raw))
    kid = score_rows(read_facts(inputs))[0]
    assert [cell.value for cell in kid.cells] == ["0.021", "–", "–"]
    assert kid.cells[1].bar is None and kid.cells[2].interval == ""


def test_the_floor_may_come_from_the_shared_table(inputs: dict[str, Path]) -> None:
    path = inputs["scores"] / "scores.json"
    raw = json.loads(path.read_text())
    for run in raw["runs"].values():
        for score in run["scores"]:
            score["floor"] = None
    path.write_text(json.dumps(raw | {"floor": {"kid_efflite0": 0.25, "fd": 6.5}}))
    assert [row.floor for row in score_rows(read_facts(inputs))[:3]] == ["0.250", "6.5", "–"]


def test_differences_in_words(inputs: dict[str, Path]) -> None:
    found = differences(read_facts(inputs))
    assert len(found) == 1
    assert found[0].title == "KID: chosen less scratch"
    assert (found[0].value, found[0].interval) == ("−0.080", "−0.090 to −0.070")
    assert found[0].outcome == "chosen is better" and found[0].decided
    row = {"a": "chosen", "b": "worst", "metric": "fd_efflite0", "difference": 0.1, "low": -1.0, "high": 1.2}
    edit(inputs["scores"] / "scores.json", paired=[row | {"better": "undecided"}, row | {"b": "gone"}])
    found = differences(read_facts(inputs))
    assert [d.title for d in found] == ["Fréchet distance: chosen less worst"], "unknown runs are left out"
    assert found[0].outcome.startswith("undecided") and not found[0].decided


def run_with(copy: dict[str, object]) -> RunFacts:
    return RunFacts("chosen", Path(), {}, {}, (), {"copy": copy})


@pytest.mark.parametrize(
    ("low", "high", "state"),
    [(0.42, 0.54, "good"), (0.5, 0.6, "good"), (0.51, 0.6, "bad"), (0.2, 0.3, "good")],
)
def test_a_model_copies_if_the_whole_interval_is_above_one_half(low: float, high: float, state: str) -> None:
    found = copy_verdict(run_with({"available": True, "auc": (low + high) / 2, "low": low, "high": high}))
    assert found.state == state
    assert f"{low:.2f} to {high:.2f}" in found.sentence


def test_an_unmade_copy_test_says_why() -> None:
    found = copy_verdict(run_with({"available": False, "reason": "there are no test images."}))
    assert found.state == "unknown"
    assert found.sentence == "The copy test was not made: there are no test images."
    assert copy_verdict(run_with({})).state == "unknown"
    assert (
        copy_verdict(run_with({"available": True, "auc": 0.9, "low": None, "high": None})).state == "unknown"
    )


def test_main_score_is_kid_or_the_first(inputs: dict[str, Path]) -> None:
    found = main_score(read_facts(inputs))
    assert found is not None and found.key == "kid"
    path = inputs["scores"] / "scores.json"
    path.write_text(path.read_text().replace("kid_efflite0", "density_efflite0"))
    found = main_score(read_facts(inputs))
    assert found is not None and found.key == "fd"
    edit(path, runs={})
    assert main_score(read_facts(inputs)) is None


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("kid", "kid"),
        ("fid", "fid"),
        ("kid_efflite0_128", "kid"),
        ("fd_excess_x", "fd_excess"),
        ("fd_x", "fd"),
    ],
)
def test_names_are_recognised(name: str, key: str) -> None:
    assert measure(name) == (key, MEASURES[key])


def test_unknown_names_come_last_under_their_own_name() -> None:
    assert measure("novelty")[1].title == "novelty"
    assert measure("novelty")[1].direction == 0
    assert in_order(["novelty", "recall_x", "kid_x", "recall_x"]) == ["kid_x", "recall_x", "novelty"]


def test_runs_that_tie_are_not_called_the_best(inputs: dict[str, Path]) -> None:
    path = inputs["scores"] / "scores.json"
    raw = json.loads(path.read_text())
    for run in raw["runs"].values():
        for score in run["scores"]:
            score["value"] = 0.0
    path.write_text(json.dumps(raw))
    assert not any(cell.best for row in score_rows(read_facts(inputs)) for cell in row.cells)


def test_samples_far_from_all_images_are_not_cleared_of_copying(inputs: dict[str, Path]) -> None:
    path = inputs["scores"] / "scores.json"
    raw = json.loads(path.read_text())
    raw["runs"]["chosen"]["copy"].update(available=True, auc=0.02, low=0.01, high=0.03)
    path.write_text(json.dumps(raw))
    found = copy_verdict(read_facts(inputs).chosen)
    assert (found.state, found.short) == ("unknown", "too far to tell")
