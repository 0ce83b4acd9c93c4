"""The command line under torchrun does what it does in one process."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from typing import Any

import pytest
from safetensors.torch import load_file

from graftgan.contract import digest_path
from graftgan.stages.specs import STAGES

pytestmark = pytest.mark.timeout(1800)

COUNT = 2
NAMES = [spec.name for spec in STAGES]
CLOSE = 1e-3
"""Largest distance of the weights after training, as a share of their length."""


def torchrun(project: Any, *words: str, count: int = COUNT, check: bool = True) -> Any:
    agent = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
    command = (sys.executable, *agent, "-m", "graftgan", *words, "--params", "params.yaml")
    return project.run(*command, check=check)


@pytest.fixture(scope="module")
def make(make_project: Callable[[], Any]) -> Callable[[], Any]:
    """Return a function that makes the tiny project with samples of more than one block of 64."""

    def made() -> Any:
        project = make_project()
        project.set("evaluate.samples", 96)
        project.set("finetune.validation_samples", 96)
        return project

    return made


@pytest.fixture(scope="module")
def alone(make: Callable[[], Any]) -> Any:
    project = make()
    project.run("graftgan", "run", "--params", "params.yaml")
    return project


@pytest.fixture(scope="module")
def together(make: Callable[[], Any]) -> Any:
    """All stages by two workers."""
    project = make()
    torchrun(project, "run")
    return project


def test_prepare_and_rank_give_the_same_bytes(alone: Any, together: Any) -> None:
    for stage, port in (("prepare", "dataset"), ("rank", "ranking")):
        first, second = (p.root / "out" / stage for p in (alone, together))
        assert digest_path(first / port) == digest_path(second / port)
        assert (first / "result.json").read_bytes() == (second / "result.json").read_bytes()


def test_finetune_ends_near_what_one_process_ends_with(alone: Any, together: Any) -> None:
    folders = [p.root / "out/finetune/models" for p in (alone, together)]
    names = [sorted(str(f.relative_to(folder)) for f in folder.rglob("*")) for folder in folders]
    assert names[0] == names[1]
    for run in ("chosen", "scratch"):
        one, two = (load_file(folder / run / "last.safetensors") for folder in folders)
        apart = sum(float((one[n].double() - two[n].double()).square().sum()) for n in one)
        length = sum(float(one[n].double().square().sum()) for n in one)
        assert (apart / length) ** 0.5 <= CLOSE
        rows = [list(csv.DictReader((folder / run / "curves.csv").open())) for folder in folders]
        for first, second in zip(*rows, strict=True):
            assert first["images_seen"] == second["images_seen"]
            assert float(second["loss_d"]) == pytest.approx(float(first["loss_d"]), rel=1e-3)


def test_evaluate_gives_the_same_bytes(alone: Any) -> None:
    before = digest_path(alone.root / "out/evaluate/scores")
    for cached in (alone.root / ".graftgan/cache/features").rglob("*.safetensors"):
        cached.unlink()
    torchrun(alone, "evaluate", "--force")
    assert digest_path(alone.root / "out/evaluate/scores") == before


def test_each_stage_tells_of_itself_once(together: Any) -> None:
    done = torchrun(together, "run")
    assert [done.stderr.count(f"{name}: up to date") for name in NAMES] == [1] * len(NAMES)


def test_a_batch_that_cannot_be_shared_is_refused(together: Any) -> None:
    done = torchrun(together, "finetune", "--force", count=3, check=False)
    assert done.returncode != 0
    assert "finetune.batch is 16, which WORLD_SIZE" in done.stderr
    assert "set finetune.batch to a multiple of 3" in done.stderr
