"""The compiled pipeline executed with several sources and arms, each task in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from graftgan.contract import digest_path

ARMS = ("configured", "full/1", "freeze_d/1")


@pytest.fixture(scope="module")
def ran(make_project: Callable[[], Any]) -> Path:
    project = make_project()
    catalogue = project.root / "zoo" / "catalogue.yaml"
    (entry,) = yaml.safe_load(catalogue.read_text())
    catalogue.write_text(yaml.safe_dump([entry, entry | {"name": "twin"}]))
    arms, sources = json.dumps(ARMS), json.dumps(["tiny", "twin"])
    settings = ["--set", f"arms={arms}", "--set", f"sources={sources}"]
    project.set("finetune.controls", [])
    project.run("python", "-m", "pipelines.transfer", "run", "--root", "artifacts", *settings)
    (run,) = (project.root / "artifacts").iterdir()
    assert isinstance(run, Path)
    return run


def tasks(run: Path, name: str) -> list[Path]:
    return sorted(path.parent for path in run.glob(f"**/{name}/executor_output.json"))


def result(task: Path) -> dict[str, Any]:
    return dict(json.loads((task / "result").read_text()))


@pytest.mark.nightly
def test_every_source_and_arm_is_a_task(ran: Path) -> None:
    counts = {
        name: len(tasks(ran, name)) for name in ("rank-source", "finetune", "evaluate", "compare", "register")
    }
    assert counts == {"rank-source": 2, "finetune": 3, "evaluate": 3, "compare": 1, "register": 1}


@pytest.mark.nightly
def test_the_ranking_is_of_the_sources_that_were_given(ran: Path) -> None:
    (rank,) = tasks(ran, "rank")
    rows = json.loads((rank / "ranking" / "ranking.json").read_text())["rows"]
    assert {row["name"] for row in rows} == {"tiny", "twin", "scratch"}


@pytest.mark.nightly
def test_each_arm_has_its_method_and_seed(ran: Path) -> None:
    models = [
        json.loads((t / "models" / "chosen" / "model.json").read_text()) for t in tasks(ran, "finetune")
    ]
    assert sorted((m["method"], m["seed"]) for m in models) == [("freeze_d", 1), ("full", 0), ("full", 1)]
    assert len({digest_path(t / "models") for t in tasks(ran, "finetune")}) == 3


@pytest.mark.nightly
def test_the_least_validation_kid_is_reported_and_registered(ran: Path) -> None:
    (compare,), (report,), (register,) = (tasks(ran, name) for name in ("compare", "report", "register"))
    table = json.loads((compare / "table" / "comparison.json").read_text())
    kids = {row["arm"]: row["kid_validation"]["value"] for row in table["arms"]}
    assert set(kids) == {"full/0", "full/1", "freeze_d/1"}
    assert table["winner"] == min(kids, key=lambda arm: kids[arm])
    written = json.loads((compare / "executor_output.json").read_text())["parameterValues"]["winner"]
    assert written in (table["winner"], "configured")
    assert (written == "configured") == (table["winner"] == "full/0")
    models = digest_path(compare / "best_models")
    assert result(report)["inputs"]["models"] == result(register)["inputs"]["models"] == models
    package = json.loads((register / "package" / "model.json").read_text())["provenance"]
    assert f"{package['method']}/{package['seed']}" == table["winner"]


@pytest.mark.nightly
def test_a_cards_pictures_and_verdict_are_there(ran: Path) -> None:
    for name in ("rank", "finetune", "evaluate"):
        for task in tasks(ran, name):
            assert "data:image/" in (task / "pictures").read_text()
    (compare,) = tasks(ran, "compare")
    assert (compare / "comparison").read_text().count("data:image/") == 3
    assert "wins of 3" in (compare / "verdict").read_text()
