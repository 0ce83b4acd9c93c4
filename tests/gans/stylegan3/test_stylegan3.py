from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from graftgan.checkpoints.store import load_gan, save_gan
from graftgan.gans.base import Gan, build, parameter_count, sample
from graftgan.gans.stylegan3 import StyleGAN3Spec

from .sizes import SHORT, TINY, TINY_R


def _on_meta(spec: StyleGAN3Spec) -> Gan:
    with torch.device("meta"):
        return build(spec)


@pytest.mark.parametrize(
    ("resolution", "channel_base", "variant", "parameters", "buffers"),
    [
        (256, 16384, "t", 23_320_443, 2456),
        (256, 16384, "r", 15_779_565, 5576),
        (1024, 32768, "t", 22_313_167, 2480),
        (512, 32768, "r", 16_665_594, 5588),
    ],
)
def test_parameter_counts_of_the_public_checkpoints(
    resolution: int, channel_base: int, variant: str, parameters: int, buffers: int
) -> None:
    spec = StyleGAN3Spec(resolution=resolution, channel_base=channel_base, variant=variant)
    net = _on_meta(spec).generator
    assert parameter_count(net) == parameters
    assert sum(buffer.numel() for buffer in net.buffers()) == buffers


def test_discriminator_is_stylegan2s() -> None:
    for variant in "tr":
        spec = StyleGAN3Spec(resolution=256, channel_base=16384, variant=variant)
        assert parameter_count(_on_meta(spec).discriminator) == 24_001_089


def test_keys_and_shapes_are_the_public_ones() -> None:
    spec = StyleGAN3Spec(resolution=256, channel_base=16384)
    state = {k: tuple(v.shape) for k, v in _on_meta(spec).generator.state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {
        "mapping.w_avg": (512,),
        "mapping.fc0.weight": (512, 512),
        "mapping.fc0.bias": (512,),
        "mapping.fc1.weight": (512, 512),
        "mapping.fc1.bias": (512,),
        "synthesis.input.weight": (512, 512),
        "synthesis.input.transform": (3, 3),
        "synthesis.input.freqs": (512, 2),
        "synthesis.input.phases": (512,),
        "synthesis.input.affine.weight": (4, 512),
        "synthesis.input.affine.bias": (4,),
    }
    sizes = (36, 36, 36, 52, 52, 84, 84, 148, 148, 148, 276, 276, 276, 256, 256)
    widths = (512, 512, 512, 512, 512, 512, 512, 362, 256, 181, 128, 91, 64, 64, 3)
    for i, (size, width) in enumerate(zip(sizes, widths, strict=True)):
        name, inner, side = f"synthesis.L{i}_{size}_{width}", widths[max(i - 1, 0)], 1 if i == 14 else 3
        expected |= {
            f"{name}.weight": (width, inner, side, side),
            f"{name}.bias": (width,),
            f"{name}.magnitude_ema": (),
            f"{name}.affine.weight": (inner, 512),
            f"{name}.affine.bias": (inner,),
        }
        if i < 14:
            # Four times upsampling where the rate doubles; the rate before is 2 * half the margin less.
            up = 24 if i and size > sizes[i - 1] else 12
            expected |= {f"{name}.up_filter": (up,), f"{name}.down_filter": (12,)}
    assert state == expected


def test_radial_filters_are_square_but_for_critical_layers() -> None:
    spec = StyleGAN3Spec(resolution=256, channel_base=16384, variant="r")
    state = {k: tuple(v.shape) for k, v in _on_meta(spec).generator.state_dict().items()}
    assert state["synthesis.L0_36_1024.down_filter"] == (12, 12)
    assert state["synthesis.L11_276_181.down_filter"] == (12, 12)
    assert state["synthesis.L12_276_128.down_filter"] == (12,)
    assert state["synthesis.L0_36_1024.weight"] == (1024, 1024, 1, 1)
    assert not any(name.startswith("synthesis.L14_256_3.down") for name in state)


@pytest.mark.parametrize("spec", [TINY, TINY_R, dataclasses.replace(SHORT, classes=3, channels=1)])
def test_sampling_is_deterministic(spec: StyleGAN3Spec) -> None:
    gan, again = build(spec, seed=0), build(spec, seed=0)
    images = sample(gan.generator_ema, 3, seed=1)
    assert images.shape == (3, 32, 32, spec.channels)
    assert (sample(again.generator, 3, seed=1) == images).all()
    cut = sample(gan.generator, 3, seed=1, batch=2).astype(int)
    assert abs(cut - images).max() <= 1


def test_weights_survive_a_file(tmp_path: Path) -> None:
    gan = build(SHORT, seed=0)
    save_gan(gan, tmp_path)
    back = load_gan(tmp_path)
    assert back.spec == SHORT
    for network in ("generator", "generator_ema", "discriminator"):
        theirs = getattr(back, network).state_dict()
        assert all(torch.equal(theirs[k], v) for k, v in getattr(gan, network).state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_networks_train(dtype: torch.dtype) -> None:
    gan = build(dataclasses.replace(SHORT, classes=2), seed=0)
    before = gan.generator.state_dict()["synthesis.L0_36_8.magnitude_ema"].clone()
    labels = torch.tensor([0, 1, 1, 0])
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        fake = gan.generator(torch.randn(4, SHORT.z_dim), labels)
        loss = F.softplus(-gan.discriminator(fake, labels)).mean()
    loss.backward()
    for net in (gan.generator, gan.discriminator):
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    assert gan.generator.state_dict()["synthesis.L0_36_8.magnitude_ema"] != before
