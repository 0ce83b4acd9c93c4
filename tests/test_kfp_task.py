"""A stage as a task: executor input in, executor output out, attempts noted; with the real prepare stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graftgan.context import StopSignal
from graftgan.contract import canonical_json, digest_path
from graftgan.errors import DataError, MissingInput
from graftgan.kfp_task import run_task, warm_cache
from graftgan.metrics.cache import FeatureCache
from graftgan.stages.specs import stage


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GRAFTGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KFP_RUN_ID", "r")
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    return tmp_path


def prepare_input(place: Path, **parameters: Any) -> str:
    config = {
        "data": {"path": str(place / "images"), "resolution": 32},
        "track": {"mode": "off"},
        "runtime": {"workers": 1},
    }
    artifacts = {
        name: {"artifacts": [{"name": name, "uri": str(place / "out" / name), "metadata": {}}]}
        for name in ("dataset", "data_docs", "result", "summary")
    }
    outputs = {"artifacts": artifacts, "outputFile": str(place / "out" / "executor_output.json")}
    values = {"config_json": canonical_json(config), **parameters}
    return json.dumps({"inputs": {"parameterValues": values}, "outputs": outputs})


def test_a_task_runs_its_stage_and_writes_the_executor_output(place: Path) -> None:
    digest = digest_path(place / "images")
    result, ran = run_task(stage("prepare"), prepare_input(place, data_digest=digest), StopSignal())
    assert ran and result.inputs["data.path"] == digest
    written = json.loads((place / "out" / "executor_output.json").read_text())["artifacts"]
    assert written["dataset"]["artifacts"][0]["metadata"]["digest"] == digest_path(place / "out" / "dataset")
    assert not list((place / "home" / "failures").glob("*"))


def test_images_other_than_those_submitted_are_refused_and_not_tried_again(place: Path) -> None:
    text = prepare_input(place, data_digest="0" * 64)
    with pytest.raises(MissingInput, match=r"data\.path has digest"):
        run_task(stage("prepare"), text, StopSignal())
    with pytest.raises(MissingInput, match="not tried again"):
        run_task(stage("prepare"), text, StopSignal())
    assert not (place / "out").exists()


def test_a_stage_that_fails_leaves_a_note_that_a_success_removes(place: Path) -> None:
    text = prepare_input(place)
    good = (place / "images" / "0.png").read_bytes()
    (place / "images" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError):
        run_task(stage("prepare"), text, StopSignal())
    (note,) = (place / "home" / "failures").glob("prepare-*.json")
    (place / "images" / "0.png").write_bytes(good)
    with pytest.raises(DataError, match="not tried again"):
        run_task(stage("prepare"), text, StopSignal())
    note.unlink()
    assert run_task(stage("prepare"), text, StopSignal())[1]


def test_features_of_other_tasks_are_found_in_the_cache(place: Path) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    FeatureCache(place / "a").put("content", "protocol", rows)
    warm_cache([place / "a", place / "absent"])
    mine = FeatureCache(place / "cache" / "features")
    found = mine.get("content", "protocol")
    assert found is not None and (found == rows).all()
    before = mine.path("content", "protocol").stat().st_mtime_ns
    warm_cache([place / "a"])
    assert mine.path("content", "protocol").stat().st_mtime_ns == before
    assert not list((place / "cache").rglob(".*"))
