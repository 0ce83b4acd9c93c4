"""Every family goes through the same trainer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftgan.checkpoints.store import load_gan, save_gan
from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import build, sample
from graftgan.gans.spec import FAMILIES, GanSpec
from graftgan.training.augment import make_augment
from graftgan.training.trainer import Trainer

SIZES: dict[str, dict[str, Any]] = {
    "stylegan2": {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 128, "channel_max": 8},
    "stylegan3": {"z_dim": 8, "w_dim": 8, "channel_base": 128, "channel_max": 8, "num_layers": 4},
    "biggan": {"z_dim": 20, "classes": 3, "g_ch": 4, "d_ch": 4, "shared_dim": 4},
    "biggan_deep": {
        "z_dim": 8, "classes": 3, "channel_width": 8, "class_embed_dim": 4, "d_ch": 8, "d_attn": (),
        "layers": ((True, 16, 8), (True, 8, 4), (True, 4, 2), (False, 2, 1)), "attention_layer_position": 1,
    },
    "resnet_gan": {"variant": "resnet", "z_dim": 8, "nfilter": 4, "nfilter_max": 8, "stages": 4},
    "dcgan": {"z_dim": 8, "g_ch": 4, "d_ch": 4},
}  # fmt: skip


def trainer(family: str, **settings: Any) -> Trainer:
    spec = GanSpec.from_dict({"family": family, "resolution": 32, **SIZES[family]})
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, spec.resolution, spec.resolution, 3), dtype=np.uint8)
    labels = np.arange(6, dtype=np.int32) % spec.classes if spec.classes else None
    recipe = Finetune(**{"batch": 2, "precision": "fp32", "r1_interval": 1, "augment": "none"} | settings)
    return Trainer(build(spec, seed=1), images, labels, recipe, make_augment("none"), torch.device("cpu"))


def test_every_family_is_here() -> None:
    assert set(SIZES) == set(FAMILIES)


@pytest.mark.parametrize("family", SIZES)
def test_a_spec_and_its_networks_survive_a_folder(family: str, tmp_path: Path) -> None:
    gan = build(GanSpec.from_dict({"family": family, "resolution": 32, **SIZES[family]}), seed=1)
    save_gan(gan, tmp_path)
    again = load_gan(tmp_path)
    assert again.spec == gan.spec
    assert (sample(again.generator_ema, 2, 0) == sample(gan.generator_ema, 2, 0)).all()


@pytest.mark.parametrize("family", SIZES)
def test_two_steps_move_both_networks_and_leave_them_finite(family: str) -> None:
    run = trainer(family)
    moving = [*run.gan.generator.parameters(), *run.gan.discriminator.parameters()]
    before = [parameter.detach().clone() for parameter in moving]
    run.step()
    run.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, moving, strict=True)]
    assert run.finite() and run.images_seen == 4
    assert sum(moved) > 0.8 * len(moved)


@pytest.mark.parametrize("family", SIZES)
def test_a_state_goes_on_exactly(family: str) -> None:
    # Each seeds the global generators, so one is finished before the next is made.
    whole = trainer(family)
    for _ in range(3):
        whole.step()
    first = trainer(family)
    first.step()
    state = copy.deepcopy(first.state_dict())
    second = trainer(family)
    second.load_state_dict(state)
    for _ in range(2):
        second.step()
    for name, tensor in whole.gan.generator_ema.state_dict().items():
        assert torch.equal(tensor, second.gan.generator_ema.state_dict()[name]), name
    images = [sample(run.gan.generator_ema, 2, 0) for run in (whole, second)]
    assert (images[0] == images[1]).all()


@pytest.mark.parametrize("key", ["style_mixing", "path_length_weight"])
def test_terms_of_styles_are_refused_for_families_without(key: str) -> None:
    with pytest.raises(ConfigError, match=key) as error:
        trainer("resnet_gan", **{key: 0.5})
    assert f"finetune.{key}=0" in error.value.remedy
