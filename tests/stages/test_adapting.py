from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transfer.test_suits import settle

import graftgan
from graftgan.checkpoints.adapters import ADAPTER, Adapter, read_adapter
from graftgan.checkpoints.store import WEIGHTS, load_gan, read_tensors, same_law, save_gan
from graftgan.config import Finetune
from graftgan.contract import digest_file
from graftgan.errors import ConfigError, GraftganError
from graftgan.gans.base import Gan, sample
from graftgan.gans.laws import TruncatedNormal
from graftgan.gans.prior import Mixture
from graftgan.params import load
from graftgan.stages import adapting, finetune
from graftgan.training.loop import History, Loop
from graftgan.training.state import read_state, write_state
from graftgan.transfer import method
from graftgan.transfer.adapters import apply
from graftgan.transfer.invariants import Fixed, displacement
from graftgan.transfer.storage import storage
from stages.test_finetune import FILES, Workshop, quick


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    return Workshop(tmp_path).furnish()


@pytest.mark.parametrize(
    ("name", "keys", "moving"),
    [("lora", {"finetune__adapter_rank": 2}, 7 * 2 * (8 + 8 * 9)), ("gan_memory", {}, None)],
)
def test_the_file_and_the_source_give_the_model_bit_for_bit(
    workshop: Workshop, name: str, keys: dict[str, int], moving: int | None
) -> None:
    workshop.run(**quick(finetune__method=name, **keys))
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
        "source_format": "graftgan", "extractor": report["protocol"],
        "trainable_generator": report["trainable_parameters"]["generator"],
        "trainable_discriminator": report["trainable_parameters"]["discriminator"],
        "frozen_sha256": report["invariant"]["frozen_sha256"],
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
    assert report["invariant"]["frozen_parameters"] == {"generator": 0, "discriminator": 0}
    tensors = read_tensors(workshop.models / "chosen" / WEIGHTS)
    moved = {
        "generator": displacement(source.generator_ema, "generator_ema.", tensors),
        "discriminator": displacement(source.discriminator, "discriminator.", tensors),
    }
    assert report["displacement"] == moved
    assert all(0 < share < 0.5 for share in moved.values() if share is not None)


def test_something_else_that_moved_is_an_error(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    real = adapting.extract

    def forgetful(*given: Any) -> Adapter:
        adapter = real(*given)
        adapter.tensors.pop("synthesis.b8.conv1.bias")
        return adapter

    monkeypatch.setattr(adapting, "extract", forgetful)
    workshop.fails(GraftganError, "synthesis.b8.conv1.bias of the averaged", finetune__method="scale_shift")


def tamper(monkeypatch: pytest.MonkeyPatch, network: str, name: str) -> None:
    """Let a tensor move behind the run's back, once it was trained."""
    real = finetune.train

    def moved(loop: Loop, arm: finetune.Arm) -> History:
        history = real(loop, arm)
        with torch.no_grad():
            tensor = getattr(loop.trainer.gan, network).state_dict()[name]
            tensor[(0,) * tensor.ndim] += 1e-3
        return history

    monkeypatch.setattr(finetune, "train", moved)


@pytest.mark.parametrize(
    ("keys", "network", "name"),
    [
        ({"method": "lora"}, "generator", "synthesis.b8.torgb.weight"),
        ({"method": "filter_transfer"}, "discriminator", "b32.conv0.weight"),
        ({"method": "freeze_d"}, "discriminator", "b32.fromrgb.bias"),
        (
            {"method": "minegan", "minegan": "{joint_from: null}"},
            "generator_ema",
            "synthesis.b8.conv1.weight",
        ),
        ({"method": "bsa", "style_mixing": 0}, "generator", "conv_img.weight"),
    ],
    ids=str,
)
def test_a_fixed_tensor_that_moved_is_an_error(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], network: str, name: str
) -> None:
    if keys["method"] == "bsa":
        settle(workshop, "resnet_gan")
    tamper(monkeypatch, network, name)
    found = rf"{network}\.{re.escape(name)} changed, which finetune\.method={keys['method']} fixes"
    workshop.fails(GraftganError, found, **{f"finetune__{key}": value for key, value in keys.items()})


def test_a_method_without_a_discriminator_tells_what_batch_fits(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settle(workshop, "resnet_gan")
    keys = {"finetune__method": "bsa", "finetune__style_mixing": 0, "finetune__controls": "[]"}
    monkeypatch.setattr("graftgan.training.memory.available_bytes", lambda device: 5 << 20)
    with caplog.at_level("WARNING"):
        workshop.run(**quick(**keys, finetune__batch=64))
    assert re.search(
        r"training needs about .* finetune\.batch=64, .* finetune\.batch=\d+ would fit", caplog.text
    )


def test_a_source_that_was_cut_is_held_to_what_it_was_cut_to(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {**workshop.source("near", 1, resolution=64), "resolution": 64}
    (workshop.root / "catalogue.yaml").write_text(yaml.safe_dump([entry]))
    keys = quick(finetune__method="freeze_g", finetune__controls="[]")
    workshop.run(**keys)
    assert f"there is no {ADAPTER}" in " ".join(workshop.report()["warnings"])
    assert workshop.report()["invariant"]["frozen_parameters"]["generator"] > 0
    tamper(monkeypatch, "generator", "synthesis.b4.const")
    with pytest.raises(GraftganError, match=r"generator\.synthesis\.b4\.const changed"):
        workshop.run(**{**keys, "finetune__seed": 1})


def test_a_run_that_goes_on_is_held_to_its_source_and_not_to_its_state(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, keys = finetune.write_arm, quick(finetune__method="freeze_d")

    def killed(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune, "write_arm", killed)
    with pytest.raises(KeyboardInterrupt):
        workshop.run(**keys)
    monkeypatch.setattr(finetune, "write_arm", real)
    home = Path(os.environ["GRAFTGAN_HOME"])
    newest = max(home.glob("state/finetune-*/chosen/images-*"))
    whole = shutil.copytree(newest, workshop.root / "whole")
    state = read_state(newest)
    state["trainer"]["discriminator"]["b32.skip.weight"] += 1e-3
    shutil.rmtree(newest)
    write_state(newest, state)
    with pytest.raises(GraftganError, match=r"discriminator\.b32\.skip\.weight changed"):
        workshop.run(resume="must", **keys)
    shutil.rmtree(newest)
    shutil.copytree(whole, newest)
    workshop.run(resume="must", **keys)
    again = load_gan(workshop.root / "near")
    method("freeze_d").apply(again, Finetune(method="freeze_d"))
    assert workshop.report()["invariant"] == Fixed.of(again).facts()


def test_settings_that_cannot_go_together_are_refused_first(workshop: Workshop) -> None:
    keys = {"finetune__method": "adafm", "finetune__adafm__start_kimg": 9}
    workshop.fails(ConfigError, "finetune.adafm.start_kimg=9 with finetune.budget.kimg", **keys)


LAW = {
    "finetune__prior": "gmm", "finetune__mixture__components": 3, "finetune__inversion__epochs": 2,
    "finetune__inversion__batch": 12,
}  # fmt: skip


def laws_shown(workshop: Workshop) -> tuple[Gan, Gan]:
    """The model of the run, and what its adapter makes of the source."""
    folder = workshop.models / "chosen"
    base = load_gan(workshop.root / "near")
    return load_gan(folder), apply(base, read_adapter(folder / ADAPTER))


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("stylegan2", {"finetune__method": "lora", "finetune__adapter_rank": 2}),
        ("stylegan2", {"finetune__method": "adafm", "finetune__low_level_from_px": 16}),
        ("resnet_gan", {"finetune__method": "gan_memory", "finetune__style_mixing": 0}),
    ],
)
def test_the_adapter_of_a_run_with_a_prior_brings_it_and_is_as_large_as_is_counted(
    workshop: Workshop, family: str, keys: dict[str, Any]
) -> None:
    settle(workshop, family)
    keys = quick(**LAW, **keys)
    workshop.run(**keys)
    model, made = laws_shown(workshop)
    assert isinstance(model.prior, Mixture) and model.prior.components == 3
    assert same_law(made.prior, model.prior)
    assert np.array_equal(sample(made.generator_ema, 5, 0), sample(model.generator_ema, 5, 0))
    made.prior = None
    assert not np.array_equal(sample(made.generator_ema, 5, 0), sample(model.generator_ema, 5, 0))
    assert not any(ADAPTER in text for text in workshop.report()["warnings"])
    counted = storage(model.spec, load(None, workshop.assignments(**keys)).finetune)
    file = workshop.models / "chosen" / ADAPTER
    buffers = dict(model.generator.named_buffers())
    held = {
        name: t.numel() * t.element_size() for name, t in read_tensors(file).items() if name not in buffers
    }
    assert sum(held.values()) == counted.stored_bytes
    law = sum(size for name, size in held.items() if name.startswith("prior."))
    assert law == sum(t.numel() * t.element_size() for t in model.prior.tensors().values())
    over = workshop.report()["adapter_bytes"] - counted.stored_bytes
    assert 0 < over < 20_000, "the header and the buffers"


def test_the_law_of_a_source_is_not_its_adapters(workshop: Workshop) -> None:
    folder, catalogue = workshop.root / "near", workshop.root / "catalogue.yaml"
    old, source = digest_file(folder / WEIGHTS), load_gan(folder)
    source.prior = TruncatedNormal(8, 0.3)
    save_gan(source, folder)
    catalogue.write_text(catalogue.read_text().replace(old, digest_file(folder / WEIGHTS)))
    workshop.run(**quick(finetune__method="lora", finetune__adapter_rank=2))
    model, made = laws_shown(workshop)
    assert load_gan(folder).prior == source.prior and model.prior is None and made.prior is None
    assert np.array_equal(sample(made.generator_ema, 5, 0), sample(model.generator_ema, 5, 0))


def test_an_adapter_without_the_law_of_its_run_is_an_error(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = adapting.extract
    monkeypatch.setattr(adapting, "extract", lambda *given: replace(real(*given), prior=None))
    found = r"law of the latents .* mixture of 3 Gaussians.* The adapter's: .* from N\(0, I\)\."
    workshop.fails(GraftganError, found, **LAW, finetune__method="lora", finetune__adapter_rank=2)
