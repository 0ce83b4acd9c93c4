from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from stages.models import tiny_gan, write_models

from graftgan.contract import digest_path
from graftgan.errors import CheckpointError, MissingInput
from graftgan.gans.base import sample
from graftgan.packages import load_package, write_package

FACTS = {"truncation_default": 0.5}


def make(tmp_path: Path, name: str = "package") -> Path:
    models = tmp_path / f"{name}-models"
    gan = tiny_gan(1)
    write_models(models, gan, "d")
    package = tmp_path / name
    package.mkdir()
    write_package(models / "chosen", package, FACTS | {"spec": gan.spec.to_dict()}, "# card\n")
    return package


def test_package_holds_the_averaged_generator_alone_and_samples_like_it(tmp_path: Path) -> None:
    package = load_package(make(tmp_path))
    expected = sample(tiny_gan(1).generator_ema, 3, 9, 0.5)
    assert np.array_equal(package.sample(3, 9), expected)
    assert np.array_equal(package.sample(3, 9, 1.0), sample(tiny_gan(1).generator_ema, 3, 9, 1.0))
    names = load_file(tmp_path / "package" / "model.safetensors")
    assert set(names) == set(tiny_gan(1).generator_ema.state_dict())
    assert {f.name for f in (tmp_path / "package").iterdir()} == {
        "model.safetensors",
        "model.json",
        "card.md",
        "samples.png",
    }


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    assert digest_path(make(tmp_path, "a")) == digest_path(make(tmp_path, "b"))


def test_damage_is_named(tmp_path: Path) -> None:
    package = make(tmp_path)
    weights = package / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_package(package)
    tensors = load_file(make(tmp_path, "other") / "model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match="missing"):
        load_package(package)
    weights.unlink()
    with pytest.raises(MissingInput):
        load_package(package)


def test_other_schema_is_refused(tmp_path: Path) -> None:
    package = make(tmp_path)
    facts = json.loads((package / "model.json").read_text())
    (package / "model.json").write_text(json.dumps(facts | {"schema": 99}))
    with pytest.raises(CheckpointError, match="schema"):
        load_package(package)


def test_checkpoint_without_average_is_refused(tmp_path: Path) -> None:
    models = write_models(tmp_path / "models", tiny_gan(1), "d")
    weights = models / "chosen" / "gan.safetensors"
    save_file({k: v for k, v in load_file(weights).items() if "ema" not in k}, weights)
    (tmp_path / "package").mkdir()
    with pytest.raises(CheckpointError, match="averaged"):
        write_package(models / "chosen", tmp_path / "package", FACTS, "")
