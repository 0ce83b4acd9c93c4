"""Ranking split into tasks: the same ranking as in one, made from the other tasks' features."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from graftgan.context import StopSignal
from graftgan.contract import Result, digest_path
from graftgan.kfp_task import run_task
from graftgan.metrics.cache import save_features
from graftgan.params import load
from graftgan.stages.specs import stage

Run = Callable[..., Result]


@pytest.fixture
def run(make_project: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a task with a cache and outputs of its own."""
    project = make_project()
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("GRAFTGAN_HOME", "home")
    config = load(Path("params.yaml")).model_dump_json()

    def task(name: str, out: str, warm: tuple[str, ...] = (), **parameters: Any) -> Result:
        monkeypatch.setenv("GRAFTGAN_CACHE", f"{out}/cache")
        spec = stage(name)
        ports = [*(port.name for port in spec.outputs), "result", "summary"]
        inputs = {n: [f"prepared/{origin.split('.')[1]}"] for n, origin in spec.inputs.items()}
        listed = inputs | ({"features": list(warm)} if spec.warm else {})
        message = {
            "inputs": {
                "parameterValues": {"config_json": config, **parameters},
                "artifacts": {n: {"artifacts": [{"uri": u} for u in uris]} for n, uris in listed.items()},
            },
            "outputs": {
                "artifacts": {n: {"artifacts": [{"uri": f"{out}/{n}"}]} for n in ports},
                "outputFile": f"{out}/executor_output.json",
            },
        }
        return run_task(spec, json.dumps(message), StopSignal())[0]

    task("prepare", "prepared")
    return task


def test_features_of_another_task_give_the_same_ranking_and_are_what_is_ranked(run: Run) -> None:
    alone = run("rank", "alone")
    split = run("rank-source", "split", sources="tiny")
    assert split.metrics == {"sources": 1.0}
    (file,) = Path("split/features").rglob("*.safetensors")
    joined = run("rank", "joined", warm=("split/features", "split/absent"), sources=["tiny"])
    assert digest_path(Path("joined/ranking")) == digest_path(Path("alone/ranking"))
    assert joined.metrics == alone.metrics and joined.inputs == alone.inputs
    origin = file.relative_to("split/features")
    assert (Path("alone/cache/features") / origin).read_bytes() == file.read_bytes()

    with safe_open(file, framework="numpy") as stored:
        told = json.loads(stored.metadata()["graftgan"])
        rows = stored.get_tensor("features")
    other = np.random.default_rng(0).normal(size=rows.shape).astype(np.float32)
    save_features(Path("wrong") / origin, other, told["protocol"], told["content"])
    run("rank", "misled", warm=("wrong",), sources=["tiny"])
    assert digest_path(Path("misled/ranking")) != digest_path(Path("alone/ranking"))


def test_all_that_the_configuration_names_are_one_task(run: Run) -> None:
    assert run("rank-source", "all", sources="configured").metrics == {"sources": 1.0}
    assert len(list(Path("all/features").rglob("*.safetensors"))) == 1
