"""What DVC reruns, what it takes from its caches, and experiments."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pytest

from graftgan.stages.specs import STAGES

NAMES = [spec.name for spec in STAGES]


def ran(output: str) -> list[str]:
    """Return the stages that DVC ran."""
    return re.findall(r"Running stage '(\w+)'", output)


def restored(output: str) -> list[str]:
    """Return the stages that DVC took from the run-cache."""
    return re.findall(r"Stage '(\w+)' is cached", output)


def test_a_second_repro_does_nothing(project: Any) -> None:
    lock = (project.root / "dvc.lock").read_bytes()
    done = project.run("dvc", "repro")
    assert ran(done.stdout) == [] and "up to date" in done.stdout
    assert (project.root / "dvc.lock").read_bytes() == lock


def test_an_evaluation_key_reruns_evaluation_and_what_reads_it_and_the_run_cache_undoes_it(
    project: Any,
) -> None:
    before = project.results()
    project.set("evaluate.confidence", 0.9)
    assert ran(project.run("dvc", "repro").stdout) == ["evaluate", "report", "register"]
    after = project.results()
    assert after["finetune"] == before["finetune"] and after["evaluate"] != before["evaluate"]
    project.set("evaluate.confidence", 0.95)
    back = project.run("dvc", "repro").stdout
    assert ran(back) == []
    assert restored(back) == ["evaluate", "report", "register"]
    assert project.results() == before


def test_runtime_and_tracking_keys_rerun_nothing(project: Any) -> None:
    project.set("runtime.workers", 3)
    project.set("track.experiment", "other")
    assert ran(project.run("dvc", "repro").stdout) == []


def test_metrics_show_the_scores(project: Any) -> None:
    shown = json.loads(project.run("dvc", "metrics", "show", "--json").stdout)
    scores = shown[""]["data"]["out/evaluate/scores/metrics.json"]["data"]
    assert scores["chosen"] and all(isinstance(value, float) for value in scores["chosen"].values())


def test_plots_hold_curves_and_pictures(project: Any) -> None:
    done = project.run("dvc", "plots", "show", "-o", "plots")
    page = (project.root / "plots" / "index.html").read_text()
    pictures = {path.name for path in (project.root / "plots" / "static").iterdir()}
    assert "kid_validation" in page and "datum['kid_validation'] !== ''" in page
    assert any("timeline" in name for name in pictures) and any("real" in name for name in pictures), (
        done.stderr
    )


def test_the_declared_model_holds_weights(project: Any) -> None:
    assert (project.root / "out" / "register" / "package" / "model.safetensors").is_file()


@pytest.mark.nightly
def test_an_experiment_changes_the_method(project: Any) -> None:
    done = project.run("dvc", "exp", "run", "-n", "frozen", "-S", "finetune.method=freeze_d")
    assert ran(done.stdout) == ["finetune", "evaluate", "report", "register"]
    model = json.loads((project.root / "out/finetune/models/chosen/model.json").read_text())
    assert model["method"] == "freeze_d"


@pytest.mark.nightly
def test_a_queued_grid_runs_with_the_code_of_its_own_copy(project: Any) -> None:
    project.run("dvc", "exp", "run", "--queue", "-S", "finetune.seed=1,2")
    done = project.run("dvc", "exp", "run", "--run-all", "-j", "1")
    assert ran(done.stdout).count("finetune") == 2, done.stdout + done.stderr
    table = project.run("dvc", "exp", "show", "--csv").stdout
    rows = list(csv.DictReader(io.StringIO(table)))
    seeds = {row["finetune.seed"] for row in rows if row["State"] == "Success"}
    assert seeds == {"1", "2"}
    assert len({row["out/finetune/models"] for row in rows if row["State"] == "Success"}) == 2


@pytest.mark.nightly
def test_a_fresh_clone_makes_the_same_outputs_again(project: Any, make_project: Any) -> None:
    again = make_project()
    (again.root / "dvc.lock").write_bytes((project.root / "dvc.lock").read_bytes())
    again.git_commit()
    assert ran(again.run("dvc", "repro").stdout) == NAMES
    assert again.results() == project.results()
