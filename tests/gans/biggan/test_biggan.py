from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from graftgan.checkpoints.store import load_gan, save_gan
from graftgan.gans.base import Gan, autocast, build, parameter_count, sample
from graftgan.gans.biggan import BigGANSpec
from graftgan.gans.biggan.spec import ProjectionSpec
from graftgan.gans.spec import GanSpec
from graftgan.training.ema import update_ema
from graftgan.training.losses import discriminator_loss, generator_loss, r1_penalty
from tests.gans.biggan_deep.sizes import TINY as DEEP

from .filling import fill
from .sizes import PLAIN, TINY, VARIANTS

IMAGENET = {
    128: BigGANSpec(classes=1000),
    256: BigGANSpec(resolution=256, z_dim=140, classes=1000, g_attn=(128,)),
}


def _on_meta(spec: BigGANSpec) -> Gan:
    with torch.device("meta"):
        return build(spec)


@pytest.mark.parametrize(
    ("resolution", "generator", "discriminator"),
    [(128, (166, 70_433_988), (88, 87_982_370)), (256, (194, 82_097_604), (100, 99_225_890))],
)
def test_counts_of_the_public_checkpoints(
    resolution: int, generator: tuple[int, int], discriminator: tuple[int, int]
) -> None:
    gan = _on_meta(IMAGENET[resolution])
    assert (len(gan.generator.state_dict()), parameter_count(gan.generator)) == generator
    assert (len(gan.discriminator.state_dict()), parameter_count(gan.discriminator)) == discriminator


def _normed(name: str, shape: tuple[int, ...], bias: bool = True) -> dict[str, tuple[int, ...]]:
    keys = {f"{name}.weight": shape, f"{name}.u0": (1, shape[0]), f"{name}.sv0": (1,)}
    return keys | ({f"{name}.bias": (shape[0],)} if bias else {})


def _attention(name: str, width: int) -> dict[str, tuple[int, ...]]:
    keys: dict[str, tuple[int, ...]] = {f"{name}.gamma": ()}
    shapes = {"theta": (width // 8, width), "phi": (width // 8, width), "g": (width // 2, width)}
    for part, shape in {**shapes, "o": (width, width // 2)}.items():
        keys |= _normed(f"{name}.{part}", (*shape, 1, 1), bias=False)
    return keys


def test_generator_keys_and_shapes_are_the_public_ones() -> None:
    widths = [1536, 1536, 768, 384, 192, 96]
    expected: dict[str, tuple[int, ...]] = {"shared.weight": (1000, 128)} | _normed("linear", (24576, 20))
    for i in range(5):
        name, inner, out = f"blocks.{i}.0", widths[i], widths[i + 1]
        expected |= _normed(f"{name}.conv1", (out, inner, 3, 3)) | _normed(f"{name}.conv2", (out, out, 3, 3))
        expected |= _normed(f"{name}.conv_sc", (out, inner, 1, 1))
        for bn, width in (("bn1", inner), ("bn2", out)):
            expected |= {f"{name}.{bn}.stored_mean": (width,), f"{name}.{bn}.stored_var": (width,)}
            for line in ("gain", "bias"):
                expected |= _normed(f"{name}.{bn}.{line}", (width, 148), bias=False)
    expected |= _attention("blocks.3.1", 192) | _normed("output_layer.2", (3, 96, 3, 3))
    expected |= {f"output_layer.0.{part}": (96,) for part in ("gain", "bias", "stored_mean", "stored_var")}
    state = _on_meta(IMAGENET[128]).generator.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected


def test_discriminator_keys_and_shapes_are_the_public_ones() -> None:
    widths = [3, 96, 192, 384, 768, 1536, 1536]
    expected = _normed("linear", (1, 1536)) | _normed("embed", (1000, 1536), bias=False)
    expected |= _attention("blocks.0.1", 96)
    for i in range(6):
        name, inner, out = f"blocks.{i}.0", widths[i], widths[i + 1]
        expected |= _normed(f"{name}.conv1", (out, inner, 3, 3)) | _normed(f"{name}.conv2", (out, out, 3, 3))
        if i < 5:
            expected |= _normed(f"{name}.conv_sc", (out, inner, 1, 1))
    state = _on_meta(IMAGENET[128]).discriminator.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected


@pytest.mark.parametrize("resolution", [128, 256])
def test_attention_sits_where_the_public_models_have_it(resolution: int) -> None:
    gan = _on_meta(IMAGENET[resolution])
    places = {128: ("blocks.3.1.gamma", "blocks.0.1.gamma"), 256: ("blocks.4.1.gamma", "blocks.1.1.gamma")}
    for network, place in zip((gan.generator, gan.discriminator), places[resolution], strict=True):
        assert [name for name in network.state_dict() if name.endswith("gamma")] == [place]


def test_512_px_is_built_from_eight_widths() -> None:
    gan = _on_meta(BigGANSpec(resolution=512, z_dim=128, classes=1000))
    state = gan.generator.state_dict()
    widths = [state[f"blocks.{i}.0.conv1.weight"].shape[0] // 96 for i in range(7)]
    assert widths == [16, 8, 8, 4, 2, 1, 1]
    assert state["linear.weight"].shape == (24576, 16)
    assert len(gan.discriminator.blocks) == 8  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_sampling_is_deterministic_and_of_the_right_form(spec: BigGANSpec) -> None:
    gan = build(spec, seed=0)
    fill(gan.generator_ema)
    images = sample(gan.generator_ema, 3, seed=5, batch=2)
    assert images.shape == (3, spec.resolution, spec.resolution, 3)
    assert images.dtype == np.uint8
    assert images.std() > 10
    assert np.array_equal(images[:2], sample(gan.generator_ema, 2, seed=5, batch=2))
    assert not np.array_equal(images, sample(gan.generator_ema, 3, seed=6, batch=2))


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_spec_survives_json(spec: BigGANSpec) -> None:
    assert GanSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("spec", [TINY, PLAIN], ids=["tiny", "plain"])
def test_checkpoint_round_trip(spec: BigGANSpec, tmp_path: Path) -> None:
    gan = build(spec, seed=1)
    for network in (gan.generator, gan.generator_ema, gan.discriminator):
        fill(network)
    save_gan(gan, tmp_path)
    again = load_gan(tmp_path)
    assert again.spec == spec
    for name in ("generator", "generator_ema", "discriminator"):
        before, after = getattr(gan, name).state_dict(), getattr(again, name).state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)


def _step(gan: Gan) -> tuple[float, float]:
    """One step of each network as the trainer does it: one batch of fakes and reals, and R1."""
    spec, rng = gan.spec, torch.Generator().manual_seed(0)
    z = torch.randn(4, spec.z_dim, generator=rng)
    labels = torch.tensor([0, 1, 2, 0]) if spec.classes else None
    reals = torch.rand(4, 3, spec.resolution, spec.resolution, generator=rng) * 2 - 1
    adams = [torch.optim.Adam(net.parameters(), 1e-3) for net in (gan.generator, gan.discriminator)]
    fakes = gan.generator(z, labels)
    loss_g = generator_loss(gan.discriminator(fakes, labels))
    loss_g.backward()
    adams[0].step()
    adams[1].zero_grad()
    both = torch.cat([fakes.detach(), reals])
    twice = None if labels is None else torch.cat([labels, labels])
    fake_logits, real_logits = gan.discriminator(both, twice, mbstd_split=2).chunk(2)
    reals.requires_grad_()
    penalty = r1_penalty(gan.discriminator(reals, labels), reals)
    (discriminator_loss(real_logits, fake_logits) + penalty).backward()
    adams[1].step()
    return float(loss_g.detach()), float(penalty.detach())


@torch.no_grad()
def _centre(gan: Gan) -> None:
    """Shift the logits to where the losses are not flat: features summed over all places give large ones."""
    labels = torch.tensor([0, 1, 2, 0]) if gan.spec.classes else None
    fakes = gan.generator(torch.randn(4, gan.spec.z_dim), labels)
    gan.discriminator.linear.bias -= gan.discriminator(fakes, labels).mean()  # type: ignore[operator,union-attr]


@pytest.mark.parametrize("spec", [TINY, PLAIN], ids=["tiny", "plain"])
def test_a_training_step_moves_every_weight(spec: BigGANSpec) -> None:
    gan = build(spec, seed=2)
    for network in (gan.generator, gan.discriminator):
        fill(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.train()
    _centre(gan)
    before = {name: p.detach().clone() for name, p in _parameters(gan).items()}
    losses = _step(gan)
    assert all(np.isfinite(losses))
    still = [name for name, p in _parameters(gan).items() if torch.equal(p, before[name])]
    assert still == []


def _parameters(gan: Gan) -> dict[str, nn.Parameter]:
    nets = {"g": gan.generator, "d": gan.discriminator}
    return {f"{net}.{name}": p for net, module in nets.items() for name, p in module.named_parameters()}


def test_moving_average_takes_over_statistics() -> None:
    gan = build(TINY, seed=3)
    gan.generator.train()
    gan.generator(torch.randn(4, 8), torch.tensor([0, 1, 2, 2]))
    name = "blocks.0.0.bn1.stored_mean"
    assert not torch.equal(gan.generator.state_dict()[name], gan.generator_ema.state_dict()[name])
    update_ema(gan.generator_ema, gan.generator, 0.9)
    assert torch.equal(gan.generator.state_dict()[name], gan.generator_ema.state_dict()[name])


@pytest.mark.parametrize("spec", [TINY, DEEP], ids=["biggan", "biggan_deep"])
def test_autocast_gives_float32_near_the_exact_result(spec: ProjectionSpec) -> None:
    gan = build(spec, seed=0)
    fill(gan.generator_ema)
    fill(gan.discriminator.eval())
    z, labels = torch.randn(2, spec.z_dim, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    with torch.no_grad():
        img = gan.generator_ema(z, labels)
        logits = gan.discriminator(img, labels)
        with autocast("cpu", torch.bfloat16):
            rough = gan.generator_ema(z, labels)
            judged = gan.discriminator(img, labels)
    assert (rough.dtype, judged.dtype) == (torch.float32, torch.float32)
    assert not torch.equal(rough, img)
    assert float((rough - img).abs().mean()) < 0.05
    torch.testing.assert_close(judged, logits, rtol=0.05, atol=0.1)


def test_grey_and_rgba_images() -> None:
    for channels in (1, 4):
        gan = build(dataclasses.replace(TINY, channels=channels), seed=0)
        img = gan.generator_ema(torch.zeros(1, 8), torch.tensor([0]))
        assert img.shape == (1, channels, 32, 32)
        assert gan.discriminator(img, torch.tensor([0])).shape == (1, 1)
