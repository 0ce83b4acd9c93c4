"""Every stage runs where MLflow, Kubeflow's SDK and DVC cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults.harness import STAGES, environment, write_project

from graftgan.contract import Result

BLOCKED = """
import sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mlflow", "kfp", "dvc"):
            print("blocked", name, file=sys.stderr)
            raise ImportError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Wall())
from graftgan.cli import main
main()
"""


def blocked(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `graftgan` behind the wall."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *words],
        cwd=place, env=os.environ | environment(place), capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_wall_holds(tmp_path: Path) -> None:
    code = BLOCKED.replace("from graftgan.cli import main\nmain()", "import mlflow.tracking")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ImportError: mlflow is blocked" in done.stderr


@pytest.mark.parametrize("mode", ["journal", pytest.param("off", marks=pytest.mark.nightly)])
def test_every_stage_runs_behind_the_wall(tmp_path: Path, mode: str) -> None:
    write_project(tmp_path / "p")
    done = blocked(tmp_path / "p", "run", "--set", f"track.mode={mode}")
    assert done.returncode == 0, done.stderr
    assert "blocked" not in done.stderr
    for stage in STAGES:
        assert Result.read(tmp_path / "p" / "out" / stage / "result.json").stage == stage
    assert bool(list((tmp_path / "p" / "home").rglob("*.jsonl"))) == (mode == "journal")
