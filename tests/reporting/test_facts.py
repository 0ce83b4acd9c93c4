from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graftgan.errors import MissingInput
from graftgan.reporting.facts import MAX_POINTS, Facts, read_curves, read_facts, read_split
from reporting.synthetic import SPLITS, blobs, build, curves, edit


def test_runs_come_in_their_order_with_their_scores(facts: Facts) -> None:
    assert [run.name for run in facts.runs] == ["chosen", "worst", "scratch"]
    assert [run.label for run in facts.runs] == [
        "Chosen: Portraits faces",
        "Worst-ranked: Flowers faces",
        "From scratch",
    ]
    assert facts.chosen.scores["scores"][2]["name"] == "kid_efflite0"
    assert facts.chosen.timeline == (0, 6000, 12000, 18000, 24000)


def test_unusual_runs_come_last(tmp_path: Path) -> None:
    found = read_facts(build(tmp_path, runs=("extra", "scratch", "chosen")))
    assert [run.name for run in found.runs] == ["chosen", "scratch", "extra"]


def test_warnings_of_all_stages_come_once_and_in_order(inputs: dict[str, Path]) -> None:
    edit(inputs["dataset"] / "dataset.json", missing={"test": "too few images"})
    edit(inputs["models"] / "worst" / "model.json", warnings=["diverged"])
    edit(inputs["scores"] / "scores.json", warnings=["few samples", "the images are few faces"])
    assert read_facts(inputs).warnings() == [
        "No test images: too few images",
        "Data check failed: few blank images",
        "the images are few faces",
        "Worst-ranked: Flowers faces: diverged",
        "few samples",
    ]


def test_what_prepare_told_stands_for_the_splits_that_are_missing(inputs: dict[str, Path]) -> None:
    told = [
        "12 images are smaller than 32 pixels and were enlarged",
        "there is no test split: too few images",
    ]
    edit(inputs["dataset"] / "dataset.json", missing={"test": "too few images"}, warnings=told)
    facts = read_facts(inputs)
    assert facts.warnings()[:3] == [*told, "Data check failed: few blank images"]
    assert not any(text.startswith("No test images") for text in facts.warnings())
    edit(inputs["dataset"] / "dataset.json", missing={}, warnings=[])
    assert read_facts(inputs).warnings()[0] == "Data check failed: few blank images"


@pytest.mark.parametrize(
    ("file", "key", "writer"),
    [
        ("dataset/dataset.json", "digest", "prepare"),
        ("ranking/ranking.json", "choice", "rank"),
        ("models/chosen/model.json", "method", "finetune"),
        ("scores/scores.json", "verdict", "evaluate"),
    ],
)
def test_a_missing_key_is_named_with_its_stage(
    inputs: dict[str, Path], file: str, key: str, writer: str
) -> None:
    path = inputs["dataset"].parent / file
    path.write_text(path.read_text().replace(f'"{key}"', '"other"'))
    with pytest.raises(MissingInput) as caught:
        read_facts(inputs)
    assert key in caught.value.message and file.rsplit("/", 1)[1] in caught.value.message
    assert f"graftgan {writer}" in caught.value.remedy
    path.write_text("[]")
    with pytest.raises(MissingInput, match="lacks"):
        read_facts(inputs)


def test_no_chosen_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no run called chosen"):
        read_facts(build(tmp_path, runs=("scratch",)))


def test_curves_are_columns_with_gaps(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    path.write_text("images_seen,loss_g,kid_validation\n0,1.23456789,\n1000,nan,0.5\n2000,word,inf\n")
    assert read_curves(path) == {
        "images_seen": [0.0, 1000.0, 2000.0],
        "loss_g": [1.23457, None, None],
        "kid_validation": [None, 0.5, None],
    }
    assert read_curves(tmp_path / "none.csv") == {}
    path.write_text("a,b\n1,2\n")
    with pytest.raises(MissingInput, match="images_seen"):
        read_curves(path)


def test_long_curves_are_thinned_but_keep_every_kid(tmp_path: Path) -> None:
    curves(tmp_path / "curves.csv", 1.0, points=5000)
    found = read_curves(tmp_path / "curves.csv")
    kept = sum(kid is not None for kid in found["kid_validation"])
    assert kept == len(range(0, 5000, 6))
    assert len(found["images_seen"]) < MAX_POINTS + kept
    assert found["images_seen"] == sorted(found["images_seen"])


def test_split_images_are_spread_over_the_split(inputs: dict[str, Path]) -> None:
    images = blobs(len(SPLITS), 1)
    np.testing.assert_array_equal(read_split(inputs["dataset"], "test", 100), images[32:])
    np.testing.assert_array_equal(read_split(inputs["dataset"], "train", 3), images[[0, 14, 27]])
    assert len(read_split(inputs["dataset"], "unused", 3)) == 0
