from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import graftgan
from graftgan.checkpoints.adapters import ADAPTER, Adapter, read_adapter
from graftgan.checkpoints.store import WEIGHTS, load_gan
from graftgan.contract import digest_file
from graftgan.errors import ConfigError, GraftganError
from graftgan.stages import adapting, finetune
from graftgan.training.loop import History
from graftgan.transfer.adapters import apply
from stages.test_finetune import FILES, Workshop, quick


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    return Workshop(tmp_path).furnish()


@pytest.mark.parametrize(("name", "moving"), [("lora", 7 * 2 * (8 + 8 * 9)), ("gan_memory", None)])
def test_the_file_and_the_source_give_the_model_bit_for_bit(
    workshop: Workshop, name: str, moving: int | None
) -> None:
    workshop.run(**quick(finetune__method=name, finetune__adapter_rank=2))
    folder, report = workshop.models / "chosen", workshop.report()
    assert {p.name for p in folder.iterdir()} == FILES | {ADAPTER}
    assert (
        report["adapter_bytes"] == (folder / ADAPTER).stat().st_size < (folder / WEIGHTS).stat().st_size / 3
    )
    if moving is not None:
        assert report["trainable_parameters"]["generator"] == moving
    adapter = read_adapter(folder / ADAPTER)
    assert adapter.base_sha256 == digest_file(workshop.root / "near" / WEIGHTS) == report["source_sha256"]
    assert adapter.origin == {
        "seed": 0, "code_version": graftgan.__version__, "source": "near", "licence": "CC0-1.0",
    }  # fmt: skip
    made = apply(load_gan(workshop.root / "near"), adapter).generator_ema.state_dict()
    chosen = load_gan(folder).generator_ema.state_dict()
    assert all(torch.equal(made[key], chosen[key]) for key in chosen)


def test_full_fine_tuning_keeps_none_and_says_what_moved(workshop: Workshop) -> None:
    workshop.run(**quick())
    source, report = load_gan(workshop.root / "near"), workshop.report()
    assert report["adapter_bytes"] is None and not (workshop.models / "chosen" / ADAPTER).exists()
    assert report["trainable_parameters"] == {
        name: sum(p.numel() for p in getattr(source, name).parameters())
        for name in ("generator", "discriminator")
    }


def test_something_else_that_moved_is_an_error(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    real = adapting.extract

    def forgetful(*given: Any) -> Adapter:
        adapter = real(*given)
        adapter.tensors.pop("synthesis.b8.conv1.bias")
        return adapter

    monkeypatch.setattr(adapting, "extract", forgetful)
    workshop.fails(GraftganError, "synthesis.b8.conv1.bias of the averaged", finetune__method="scale_shift")


def test_a_fixed_tensor_that_moved_is_an_error(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    real = finetune.keep_adapter

    def moved(history: History, *given: Any) -> list[str]:
        history.best_tensors["generator_ema.synthesis.b8.torgb.weight"] += 1
        return real(history, *given)

    monkeypatch.setattr(finetune, "keep_adapter", moved)
    workshop.fails(GraftganError, "b8.torgb.weight of the averaged generator moved", finetune__method="lora")


def test_settings_that_cannot_go_together_are_refused_first(workshop: Workshop) -> None:
    keys = {"finetune__method": "adafm", "finetune__adafm__start_kimg": 9}
    workshop.fails(ConfigError, "finetune.adafm.start_kimg=9 with finetune.budget.kimg", **keys)
