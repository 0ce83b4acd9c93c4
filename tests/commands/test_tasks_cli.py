"""`graftgan tasks`: what it prints, its exit codes, and that it imports nothing heavy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from graftgan import cli as cli_module
from graftgan.bank.store import Bank
from graftgan.context import StopSignal
from graftgan.errors import CheckpointError, ConfigError, MissingInput
from tests.bank.banks import SIZE_PX, contents, grown


class Colours(torch.nn.Module):
    """Features are mean colours of quarters."""

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(img, 2).flatten(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bank = grown(tmp_path_factory.mktemp("cli") / "bank", ["random", "warm:t1"])
    bank.note_scores("t2", {"l1": 0.125})
    return bank.folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bank"))


def call(*words: object) -> Result:
    return CliRunner().invoke(cli_module.cli, ["tasks", *map(str, words)])


def test_list_shows_costs_starts_and_scores(folder: Path) -> None:
    lines = call("list", "--bank", folder).output.splitlines()
    assert lines[0] == "resnet_6, ngf 2, instance norm, lambda 0.25"
    assert lines[2].split()[2:] == ["100.0%", "1.000", "random"]
    second = lines[3].split()
    assert second[0] == "t2" and second[-3:] == ["warm:t1", "l1", "0.125"]


def test_verify_says_whole_or_names_the_place(folder: Path) -> None:
    assert "whole; 2 tasks make the same images" in call("verify", "--bank", folder).output
    path = folder / "filters" / "model.4.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))
    error = call("verify", "--bank", folder).exception
    assert isinstance(error, CheckpointError)
    assert "filters/model.4.safetensors: layer model.4, task t2" in str(error)


def test_run_writes_pictures(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    done = call("run", "t2", tmp_path / "a.png", "--bank", folder, "--out", tmp_path / "out")
    assert done.output.strip() == str(tmp_path / "out" / "a.png")
    assert Image.open(tmp_path / "out" / "a.png").size == (SIZE_PX, SIZE_PX)


def test_export_and_remove(folder: Path, tmp_path: Path) -> None:
    assert "MB" in call("export", "t2", "--bank", folder, "--out", tmp_path / "x.pth").output
    assert isinstance(call("remove", "t1", "--bank", folder).exception, ConfigError)
    assert "t2 is removed" in call("remove", "t2", "--bank", folder).output
    assert [task.name for task in Bank(folder).tasks] == ["t1"]
    assert isinstance(call("list", "--bank", tmp_path).exception, MissingInput)


def test_the_command_line_loads_nothing_heavy() -> None:
    script = "import sys, graftgan.cli; print('torch' in sys.modules or 'filelock' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "False"


def test_add_makes_a_bank_and_a_second_task_builds_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for number in range(100):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((SIZE_PX, SIZE_PX)).save(pictures / f"{number:03}.png")
    torch.jit.script(Colours()).save(str(tmp_path / "colours.pt"))
    extractor = f"torchscript:{tmp_path / 'colours.pt'}?px=16"
    recipe = {"budget": {"kimg": 0.004}, "batch": 2, "ndf": 4, "precision": "fp32"}
    scores = {"extractor": extractor, "validation_extractor": extractor}
    for name, values in (("train", recipe), ("scores", scores)):
        (tmp_path / name).write_text(yaml.safe_dump(values))
    common = ["--bank", tmp_path / "bank", "--train", tmp_path / "train", "--scores", tmp_path / "scores"]
    common += ["--device", "cpu"]
    # The test's own handlers stay in place.
    monkeypatch.setattr(StopSignal, "install", lambda self: None)
    sizes = ["--generator", "resnet_6", "--ngf", 2, "--lambda", 0.5]
    for number, (make, more) in enumerate((("grey", sizes), ("edges", ["--init", "auto"])), 1):
        data = {"target": str(pictures), "make": make, "resolution": SIZE_PX}
        (tmp_path / make).write_text(yaml.safe_dump(data))
        done = call("add", make, "--data", tmp_path / make, *common, *more)
        assert done.exception is None, done.exception
        assert f"{make} is task {number}; " in done.output
    assert "after 40 steps its L1 on" in done.output
    (tmp_path / "new").write_text(
        yaml.safe_dump({"target": str(pictures), "make": "lowres", "resolution": SIZE_PX})
    )
    before = contents(tmp_path / "bank")
    ranked = call("rank", "new", "--data", tmp_path / "new", *common, "--probe-steps", 2, "--images", 40)
    assert ranked.exception is None, ranked.exception
    head, *rows, key, why = ranked.output.splitlines()
    assert head.split()[:4] == ["init", "start", "2", "steps"] and key == "* not clearly worse than the best"
    inits = [row.removeprefix("*").split()[0] for row in rows]
    assert set(inits) == {"random", "warm:grey", "warm:edges"} and why.startswith(
        f"{inits[0]}: after 2 steps"
    )
    told = call(
        "rank", "new", "--data", tmp_path / "new", *common, "--probe-steps", 2, "--images", 40, "--json"
    )
    found = json.loads(told.output)
    assert [start["init"] for start in found["starts"]] == inits and found["why"] == why
    assert found["images"] == 40
    assert contents(tmp_path / "bank") == before
    bank = Bank(tmp_path / "bank")
    assert [task.name for task in bank.tasks] == ["grey", "edges"]
    assert f"\n{bank.task('edges').init}: after 40 steps" in f"\n{done.output}"
    assert all("l1" in task.scores and task.data_fingerprint for task in bank.tasks)
    assert "whole; 2 tasks" in call("verify", "--bank", bank.folder).output
    again = call("add", "edges", "--data", tmp_path / "edges", *common)
    assert isinstance(again.exception, ConfigError) and "has a task 'edges'" in str(again.exception)
