"""`scores.standalone`: beside each task of a list, a model of its own at the same budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from stages.lifelong_project import description, write_params, write_project

from graftgan import cli as cli_module
from graftgan.context import StopSignal


def run(root: Path, patch: pytest.MonkeyPatch, tasks: dict[str, Any], standalone: bool) -> Path:
    """Learn a list of tasks in a new project and return the folder of the results."""
    root.mkdir()
    write_project(root)
    write_params(root, tasks=tasks, scores=description()["scores"] | {"standalone": standalone})
    patch.chdir(root)
    patch.setattr(StopSignal, "install", lambda self: None)
    result = CliRunner().invoke(cli_module.cli, ["lifelong", "run"])
    assert result.exception is None, result.exception
    return root / "out" / "lifelong"


def scores(out: Path, name: str, file: str = "result.json") -> Any:
    return json.loads((out / "tasks" / name / file).read_text())["scores"]


@pytest.mark.parametrize("name", ["edges", "swap"])
def test_a_task_has_the_scores_of_the_model_that_it_would_be_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey, task = (description()["tasks"][key] for key in ("grey", name))
    chain = run(tmp_path / "chain", monkeypatch, {"grey": grey, name: task}, standalone=True)
    alone = run(tmp_path / "alone", monkeypatch, {name: task | {"init": "random"}}, standalone=False)
    assert scores(chain, name, "standalone.json") == scores(alone, name) != scores(chain, name)
    assert scores(chain, "grey", "standalone.json") == scores(chain, "grey")
    assert not list(alone.rglob("standalone.json"))
    shown = [(out / "report" / "report.html").read_text() for out in (chain, alone)]
    assert ["Model of its own" in page for page in shown] == [True, False]
