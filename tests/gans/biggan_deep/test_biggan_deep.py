from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftgan.checkpoints.store import load_gan, save_gan
from graftgan.errors import ConfigError
from graftgan.gans.base import build, parameter_count, sample
from graftgan.gans.biggan_deep import BigGANDeepGenerator, BigGANDeepSpec
from graftgan.gans.biggan_deep.spec import PUBLISHED_LAYERS
from graftgan.gans.spec import GanSpec
from graftgan.training.losses import discriminator_loss, generator_loss
from tests.gans.biggan.filling import fill

from .sizes import PLAIN, TINY


def _on_meta(resolution: int) -> BigGANDeepGenerator:
    with torch.device("meta"):
        return BigGANDeepGenerator(BigGANDeepSpec(resolution=resolution, classes=1000))


@pytest.mark.parametrize(
    ("resolution", "tensors", "parameters"),
    [(128, 506, 50_388_609), (256, 602, 55_880_833), (512, 698, 56_163_905)],
)
def test_counts_of_the_public_checkpoints(resolution: int, tensors: int, parameters: int) -> None:
    generator = _on_meta(resolution)
    assert (len(generator.state_dict()), parameter_count(generator)) == (tensors, parameters)


def _normed(name: str, shape: tuple[int, ...], bias: bool = True) -> dict[str, tuple[int, ...]]:
    columns = int(np.prod(shape[1:]))
    keys = {"weight_orig": shape, "weight_u": (shape[0],), "weight_v": (columns,)}
    keys |= {"bias": (shape[0],)} if bias else {}
    return {f"{name}.{key}": value for key, value in keys.items()}


def test_keys_and_shapes_are_the_public_ones() -> None:
    expected: dict[str, tuple[int, ...]] = {"embeddings.weight": (128, 1000)}
    expected |= _normed("generator.gen_z", (32768, 256))
    widths = [2048, 2048, 2048, 2048, 1024, 1024, 512, 512, 256, 256, 128]
    for i in range(10):
        # The attention layer is number 8 and moves the last two blocks by one.
        name, inner = f"generator.layers.{i + (i >= 8)}", widths[i]
        middle = inner // 4
        ends = [(inner, middle, 1), (middle, middle, 3), (middle, middle, 3), (middle, widths[i + 1], 1)]
        for k, (before, after, side) in enumerate(ends):
            expected |= _normed(f"{name}.conv_{k}", (after, before, side, side))
            for part in ("scale", "offset"):
                expected |= _normed(f"{name}.bn_{k}.{part}", (before, 256), bias=False)
            for part in ("running_means", "running_vars"):
                expected[f"{name}.bn_{k}.{part}"] = (51, before)
    attention = {"theta": (32, 256), "phi": (32, 256), "g": (128, 256), "o_conv": (256, 128)}
    for part, shape in attention.items():
        expected |= _normed(f"generator.layers.8.snconv1x1_{part}", (*shape, 1, 1), bias=False)
    expected |= {"generator.layers.8.gamma": (1,), "generator.bn.weight": (128,), "generator.bn.bias": (128,)}
    expected |= {f"generator.bn.running_{part}": (51, 128) for part in ("means", "vars")}
    expected |= _normed("generator.conv_to_rgb", (128, 128, 3, 3))
    state = _on_meta(128).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected


def test_published_layers_lead_to_their_resolutions() -> None:
    for resolution, layers in PUBLISHED_LAYERS.items():
        assert 4 * 2 ** sum(up for up, _, _ in layers) == resolution
        assert BigGANDeepSpec(resolution=resolution).blocks == layers
    assert [len(layers) for layers in PUBLISHED_LAYERS.values()] == [10, 12, 14]


def test_the_discriminator_is_biggans() -> None:
    gan = build(TINY, seed=0)
    assert gan.discriminator.spec is TINY
    assert gan.discriminator(torch.zeros(2, 3, 32, 32), torch.tensor([0, 2])).shape == (2, 1)


@pytest.mark.parametrize("spec", [TINY, PLAIN], ids=["tiny", "plain"])
def test_sampling_is_deterministic_and_of_the_right_form(spec: BigGANDeepSpec) -> None:
    generator = build(spec, seed=0).generator_ema
    fill(generator)
    images = sample(generator, 3, seed=5, truncation_psi=0.5, batch=2)
    assert (images.shape, images.dtype) == ((3, 32, 32, 3), np.uint8)
    assert images.std() > 10
    assert np.array_equal(images[:2], sample(generator, 2, seed=5, truncation_psi=0.5, batch=2))
    assert not np.array_equal(images, sample(generator, 3, seed=5, truncation_psi=0.6, batch=2))


def test_spec_survives_json_with_its_layers() -> None:
    assert GanSpec.from_dict(json.loads(json.dumps(TINY.to_dict()))) == TINY


def test_checkpoint_of_a_generator_alone(tmp_path: Path) -> None:
    gan = build(TINY, seed=1)
    gan.fresh = ("discriminator",)
    fill(gan.generator)
    fill(gan.generator_ema, seed=1)
    save_gan(gan, tmp_path)
    again = load_gan(tmp_path)
    assert (again.spec, again.fresh) == (TINY, ("discriminator",))
    for name in ("generator", "generator_ema"):
        before, after = getattr(gan, name).state_dict(), getattr(again, name).state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("spec", [TINY, PLAIN], ids=["tiny", "plain"])
def test_a_training_step_moves_every_weight(spec: BigGANDeepSpec) -> None:
    gan = build(spec, seed=2)
    nets = {"g": gan.generator, "d": gan.discriminator}
    adams = {}
    for key, net in nets.items():
        fill(net).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        adams[key] = torch.optim.Adam(net.parameters(), 1e-3)
    before = {f"{k}.{n}": p.detach().clone() for k, net in nets.items() for n, p in net.named_parameters()}
    z, labels = torch.randn(4, 6), torch.tensor([0, 1, 2, 0]) if spec.classes else None
    fakes, reals = gan.generator(z, labels), torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        gan.discriminator.linear.bias -= gan.discriminator(fakes, labels).mean()  # type: ignore
    # Two passes before one backward, as gradient accumulation does: buffers move in between.
    loss = generator_loss(gan.discriminator(fakes, labels))
    loss = loss + generator_loss(gan.discriminator(gan.generator(z, labels), labels))
    loss.backward()
    adams["g"].step()
    adams["d"].zero_grad()
    logits = [gan.discriminator(img, labels) for img in (reals, fakes.detach())]
    discriminator_loss(*logits).backward()
    adams["d"].step()
    still = [
        n for k, net in nets.items() for n, p in net.named_parameters() if torch.equal(p, before[f"{k}.{n}"])
    ]
    assert still == []


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"resolution": 64}, "no BigGAN-deep of 64 px"),
        ({"lookup": "nearest"}, "lookup is 'nearest'"),
        ({"n_stats": 1}, "n_stats is 1"),
        ({"channel_width": 2}, "channel_width is 2"),
        ({"class_embed_dim": 0}, "class_embed_dim is 0"),
        ({"attention_layer_position": 10}, "attention_layer_position is 10"),
        ({"attention_layer_position": -1}, "attention_layer_position is -1"),
        ({"layers": ((True, 16, 1),)}, "lead to 8 px"),
        ({"layers": 7}, "layers is 7"),
        ({"bn_eps": 0.0}, "bn_eps is 0.0"),
    ],
)
def test_what_cannot_be_built_is_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BigGANDeepSpec(**sizes)


def test_layers_must_follow_one_another() -> None:
    broken = (TINY.layers[0], (False, 4, 4), *TINY.layers[2:])
    with pytest.raises(ConfigError, match="do not follow one another"):
        dataclasses.replace(TINY, layers=broken)
