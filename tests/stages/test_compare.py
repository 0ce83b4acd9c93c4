"""Comparison of arms that were trained and scored elsewhere: folders as finetune and evaluate leave them."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graftgan.config import Params
from graftgan.context import Context
from graftgan.contract import Entry, Result, digest_path, write_json
from graftgan.errors import MissingInput, ProtocolMismatch
from graftgan.params import config_digest
from graftgan.reporting.sheets import save_png
from graftgan.stages import compare
from graftgan.stages.specs import stage

Arms = Callable[..., dict[str, Path]]
PORTS = {"best_models": True, "best_scores": True, "table": True, "comparison": False, "verdict": False}


def write_arm(
    root: Path,
    method: str,
    seed: int,
    kid: float,
    config: str = "f" * 64,
    protocol: str = "p",
    test: Any = 0.5,
) -> None:
    """Write what finetune and evaluate leave of one arm."""
    models, scores = root / "models", root / "scores"
    model = {
        "method": method, "seed": seed, "source": "toon", "images_seen": 640, "protocol": protocol,
        "best": {"kid": kid, "low": kid - 0.01, "high": kid + 0.01},
    }  # fmt: skip
    write_json(models / "chosen" / "model.json", model)
    record = {
        "n_test": 24,
        "runs": {"chosen": {"scores": [{"name": "kid", "value": test, "low": 0, "high": 1}]}},
    }
    write_json(scores / "scores.json", record | {"seed": seed, "method": method})
    (scores / "samples").mkdir()
    save_png(np.full((8, 8, 3), seed * 20, np.uint8), scores / "samples" / "chosen.png")
    made = Entry(digest_path(models), 1), Entry(digest_path(scores), 1)
    Result("finetune", config, "c", {}, {"models": made[0]}).write(root / "trained")
    Result("evaluate", "e", "c", {"models": made[0].digest}, {"scores": made[1]}).write(root / "scored")


def inputs_of(*roots: Path) -> dict[str, Path]:
    """Return the inputs of compare, each list in an order of its own."""
    found = {}
    for name in stage("compare").many:
        order = list(roots)
        random.Random(name).shuffle(order)
        found |= {f"{name}/{n}": root / name for n, root in enumerate(order)}
    return found


@pytest.fixture
def four(tmp_path: Path) -> list[Path]:
    kids = {("full", 0): 0.4, ("full", 1): 0.2, ("lora", 0): 0.1, ("lora", 1): 0.6}
    for (method, seed), kid in kids.items():
        write_arm(tmp_path / f"{method}{seed}", method, seed, kid, test=1 - kid)
    return [tmp_path / f"{method}{seed}" for method, seed in kids]


@pytest.fixture
def outputs(tmp_path: Path) -> dict[str, Path]:
    for name, folder in PORTS.items():
        if folder:
            (tmp_path / "out" / name).mkdir(parents=True)
    return {name: tmp_path / "out" / name for name in PORTS}


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context(tmp_path / "state", tmp_path / "cache")


def test_the_least_validation_kid_wins_whatever_the_test_scores_say(
    four: list[Path], outputs: dict[str, Path], ctx: Context
) -> None:
    outcome = compare.run(inputs_of(*four), Params(), outputs, ctx)
    table = json.loads((outputs["table"] / "comparison.json").read_text())
    assert table["winner"] == "lora/0"
    assert [row["arm"] for row in table["arms"]] == ["lora/0", "full/1", "full/0", "lora/1"]
    assert [row["test"]["kid"] for row in table["arms"]] == [0.9, 0.8, 0.6, 0.4]
    assert outcome.metrics == {"arms": 4.0, "kid_validation": 0.1}
    assert digest_path(outputs["best_models"]) == digest_path(four[2] / "models")
    assert digest_path(outputs["best_scores"]) == digest_path(four[2] / "scores")


def test_methods_are_averaged_over_their_seeds(
    four: list[Path], outputs: dict[str, Path], ctx: Context
) -> None:
    compare.run(inputs_of(*four), Params(), outputs, ctx)
    methods = json.loads((outputs["table"] / "comparison.json").read_text())["methods"]
    assert [(row["method"], row["seeds"]) for row in methods] == [("full", 2), ("lora", 2)]
    assert methods[1]["kid_validation"]["mean"] == pytest.approx(0.35)
    assert methods[1]["kid_validation"]["deviation"] == pytest.approx(statistics.stdev([0.1, 0.6]))
    assert methods[0]["test"]["kid"]["mean"] == pytest.approx(0.7)


def test_the_order_of_the_lists_does_not_matter(
    four: list[Path], outputs: dict[str, Path], ctx: Context
) -> None:
    compare.run(inputs_of(*four), Params(), outputs, ctx)
    first = {name: digest_path(path) for name, path in outputs.items()}
    for path in outputs.values():
        if path.is_dir():
            shutil.rmtree(path)
            path.mkdir()
    compare.run(inputs_of(*reversed(four)), Params(), outputs, ctx)
    assert {name: digest_path(path) for name, path in outputs.items()} == first


def test_the_tables_and_the_page_show_every_arm(
    four: list[Path], outputs: dict[str, Path], ctx: Context
) -> None:
    compare.run(inputs_of(*four), Params(), outputs, ctx)
    rows = list(csv.DictReader(io.StringIO((outputs["table"] / "comparison.csv").read_text())))
    assert (rows[0]["arm"], rows[0]["kid_validation"], rows[0]["kid"]) == ("lora/0", "0.1", "0.9")
    page, text = outputs["comparison"].read_text(), outputs["verdict"].read_text()
    assert page.count("data:image/png;base64,") == 4
    assert text.startswith("# lora/0 wins of 4\n")
    for name in ("lora/0", "lora/1", "full/0", "full/1", "0.35 ± 0.35"):
        assert name in page and name in text.replace("\\", "")
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(("seed", "told"), [(0, "configured"), (3, "full/0")])
def test_an_arm_with_the_configuration_of_the_task_is_told_as_configured(
    seed: int, told: str, tmp_path: Path, outputs: dict[str, Path], ctx: Context
) -> None:
    write_arm(tmp_path / "a", "full", 0, 0.1, config=config_digest(Params(), ("finetune",)))
    params = Params()
    finetune = params.finetune.model_copy(update={"seed": seed})
    compare.run(inputs_of(tmp_path / "a"), params.model_copy(update={"finetune": finetune}), outputs, ctx)
    assert (outputs["table"] / "winner.txt").read_text() == told


def test_a_single_seed_has_no_deviation(tmp_path: Path, outputs: dict[str, Path], ctx: Context) -> None:
    write_arm(tmp_path / "a", "full", 0, 0.1, test=None)
    compare.run(inputs_of(tmp_path / "a"), Params(), outputs, ctx)
    (row,) = json.loads((outputs["table"] / "comparison.json").read_text())["methods"]
    assert row["kid_validation"] == {"mean": 0.1, "deviation": None}
    assert row["test"] == {}
    assert "–" in outputs["verdict"].read_text()


def test_equal_kids_are_decided_by_name(tmp_path: Path, outputs: dict[str, Path], ctx: Context) -> None:
    for name in ("lora", "full"):
        write_arm(tmp_path / name, name, 0, 0.1)
    compare.run(inputs_of(tmp_path / "lora", tmp_path / "full"), Params(), outputs, ctx)
    assert (outputs["table"] / "winner.txt").read_text() == "full/0"


def test_kids_of_different_extractors_are_not_compared(tmp_path: Path) -> None:
    write_arm(tmp_path / "a", "full", 0, 0.1, protocol="inception")
    write_arm(tmp_path / "b", "full", 1, 0.1, protocol="lite")
    with pytest.raises(ProtocolMismatch, match="inception and lite"):
        compare.gather(inputs_of(tmp_path / "a", tmp_path / "b"))


def test_an_artifact_that_a_launcher_left_out_is_named(four: list[Path]) -> None:
    shutil.rmtree(four[1] / "scores")
    with pytest.raises(MissingInput, match=r"full1/scores, one of 4 of scores") as caught:
        compare.gather(inputs_of(*four))
    assert "launcher" in caught.value.remedy


def test_lists_of_different_lengths_are_refused(four: list[Path]) -> None:
    inputs = inputs_of(*four)
    del inputs["scores/3"]
    with pytest.raises(MissingInput, match="4 of models, 4 of trained, 3 of scores"):
        compare.gather(inputs)
    with pytest.raises(MissingInput, match="0 of models"):
        compare.gather({})


def test_scores_of_other_models_are_refused(four: list[Path], tmp_path: Path) -> None:
    write_arm(tmp_path / "other", "miner", 0, 0.3)
    inputs = inputs_of(*four)
    last = next(key for key, path in inputs.items() if path == four[0] / "models")
    with pytest.raises(MissingInput, match="compare lacks models or scores"):
        compare.gather(inputs | {last: tmp_path / "other" / "models"})
