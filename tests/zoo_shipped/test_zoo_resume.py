"""A source of the zoo whose training was cut short goes on to the same bytes."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from graftgan.checkpoints.store import WEIGHTS
from graftgan.contract import digest_file

ZOO = Path(__file__).parents[2] / "zoo"
NETWORK = {
    "resolution": 32,
    "z_dim": 8,
    "w_dim": 8,
    "mapping_layers": 1,
    "channel_base": 64,
    "channel_max": 4,
}
RECIPES: dict[str, Any] = {
    "network": NETWORK,
    "training": {"batch": 8, "lr_cooldown": 0.3, "augment": "ada", "precision": "fp32"},
}
RECIPE = {"name": "tiny", "data": "micah", "images": 24, "kimg": 0.08, "snapshots": {"tiny-early": 0.04}}


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`zoo/build.py`, writing to a folder of the test."""
    found = importlib.util.spec_from_file_location("zoo_build", ZOO / "build.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    monkeypatch.setattr(module, "ZOO", tmp_path / "zoo")
    monkeypatch.setattr(module, "STATES", tmp_path / "states")
    monkeypatch.setattr(module.StopSignal, "install", lambda self: None)
    return module


def digests(builder: ModuleType) -> dict[str, str]:
    return {path.parent.name: digest_file(path) for path in builder.ZOO.glob(f"*/{WEIGHTS}")}


@pytest.mark.parametrize("at", [3, 8])
def test_a_source_goes_on_where_its_training_was_cut_short(
    builder: ModuleType, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    builder.train(RECIPE, RECIPES)
    whole = digests(builder)
    assert set(whole) == {"tiny", "tiny-early"}
    for folder in (builder.ZOO, builder.STATES):
        shutil.rmtree(folder)
    steps, real, save = 0, builder.Trainer.step, builder.Loop

    def killed(trainer: Any) -> None:
        nonlocal steps
        if steps == at:
            steps += 1
            raise KeyboardInterrupt
        steps += 1
        real(trainer)

    monkeypatch.setattr(builder.Trainer, "step", killed)
    monkeypatch.setattr(builder, "Loop", lambda *given, save_every_s: save(*given, save_every_s=0.0))
    with pytest.raises(KeyboardInterrupt):
        builder.train(RECIPE, RECIPES)
    assert set(digests(builder)) == (set() if at < 5 else {"tiny-early"})
    builder.train(RECIPE, RECIPES)
    # Ten steps, and the one that never was.
    assert steps == 11
    assert digests(builder) == whole
