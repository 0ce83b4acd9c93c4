from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from training.nets import recipe

from graftgan.errors import ConfigError
from graftgan.gans.folding import adapters
from graftgan.transfer import method
from graftgan.transfer.adafm import FilterModulation
from transfer import parametrised
from transfer.families import RESOLVED, UNRESOLVED, count, moved, names, on_meta, small, train, trainer

RUN = {"method": "adafm", "low_level_from_px": 16, "low_level_d_from_px": 32}
MODULATED = {
    "stylegan2": {f"synthesis.b{r}.conv{i}" for r in (16, 32) for i in (0, 1)},
    "stylegan3": {f"synthesis.{name}" for name in ("L0_36_8", "L1_52_8", "L2_52_4", "L3_32_4")},
    "biggan_deep": {f"generator.layers.{j}.conv_{i}" for j in (2, 3, 4) for i in (1, 2)},
    "biggan": {f"blocks.{b}.0.conv{i}" for b in (1, 2) for i in (1, 2)},
    "resnet_gan": {f"resnet_{s}_{b}.conv_{i}" for s in (2, 3) for b in (0, 1) for i in (0, 1)},
}
TOP = ("layers.2", "layers.3", "layers.4")
KEPT = {
    "stylegan2": (("synthesis.b16.", "synthesis.b32."), ("b32.",)),
    "stylegan3": (
        ("synthesis.L0", "synthesis.L1", "synthesis.L2", "synthesis.L3", "synthesis.L4"),
        ("b32.",),
    ),
    "biggan_deep": (tuple(f"generator.{part}." for part in (*TOP, "bn", "conv_to_rgb")), ("blocks.0.",)),
    "biggan": (("blocks.1.", "blocks.2.", "output_layer."), ("blocks.0.",)),
    "resnet_gan": (("resnet_2_", "resnet_3_", "conv_img."), ("resnet_0_", "conv_img.")),
}


def test_modulation_is_the_formula_and_its_gradients_are_the_closed_forms() -> None:
    weight, upstream = torch.randn(5, 4, 3, 3), torch.randn(5, 4, 3, 3)
    layer = FilterModulation(weight)
    assert torch.equal(layer(weight), weight)
    (layer(weight) * upstream).sum().backward()
    assert layer.gamma.grad is not None and layer.beta.grad is not None
    torch.testing.assert_close(layer.gamma.grad, (upstream * weight).sum((2, 3), keepdim=True))
    torch.testing.assert_close(layer.beta.grad, upstream.sum((2, 3), keepdim=True))
    with torch.no_grad():
        layer.gamma.normal_()
        layer.beta.normal_()
    expected = torch.einsum("oi,oikl->oikl", layer.gamma[..., 0, 0], weight) + layer.beta
    torch.testing.assert_close(layer(weight), expected)


@pytest.mark.parametrize("family", RESOLVED)
def test_the_start_is_the_source_bit_for_bit(family: str) -> None:
    parametrised.check_start_is_the_source(family, **RUN)


@pytest.mark.parametrize("family", RESOLVED)
def test_filters_keep_their_bits_and_their_scales_and_shifts_move(family: str) -> None:
    parametrised.check_frozen_originals(family, MODULATED[family], **RUN)


@pytest.mark.parametrize("family", RESOLVED)
def test_what_moves_by_name(family: str) -> None:
    run = trainer(family, **RUN)
    g, d = moved(run)
    of_g, of_d = KEPT[family]
    plain = names(run.gan.generator, "") - names(run.gan.generator, *of_g)
    weight = "weight_orig" if family == "biggan_deep" else "weight"
    added = {
        f"{layer}.parametrizations.{weight}.0.{name}"
        for layer in MODULATED[family]
        for name in ("gamma", "beta")
    }
    assert g == plain | added
    assert d == names(run.gan.discriminator, "") - names(run.gan.discriminator, *of_d)


@pytest.mark.parametrize("family", RESOLVED)
def test_the_average_follows(family: str) -> None:
    parametrised.check_average_follows(family, **RUN)


@pytest.mark.parametrize("family", RESOLVED)
def test_folded_it_is_a_plain_checkpoint_of_the_same_images(family: str, tmp_path: Path) -> None:
    parametrised.check_folding(family, tmp_path, **RUN)


def test_half_precision_trains_it_too() -> None:
    run = train(trainer("stylegan2", **RUN, precision="bf16"), 2)
    assert run.finite()
    assert all(p.dtype is torch.float32 for p in run.gan.generator.parameters())


def test_a_run_goes_on_exactly(tmp_path: Path) -> None:
    parametrised.check_resuming(tmp_path, **RUN)


def test_counts_of_the_published_network() -> None:
    gan = on_meta("resnet_gan", resolution=128, variant="resnet2", embed_dim=1)
    method("adafm").apply(gan, recipe(method="adafm"))
    added = sum(p.numel() for p in adapters(gan.generator).values())
    assert added == 860_160
    assert count(gan.generator, False) == 4_046_275
    assert count(gan.generator) == 92_055_553 + added


SHAPES = ((8, 4, 3, 3), (8, 8, 3, 3), (3, 8, 3, 3))
Filters = list[torch.Tensor]


def regression(related: bool, *ways: str) -> dict[str, float]:
    """The sheet's toy, three layers 4 -> 8 -> 8 -> 3: error over the target's variance, by what moves.

    Args:
        related: The teacher has the source's filters with each plane scaled and shifted, or others.
        ways: Of frozen, film (a scale and a shift an output), adafm (for each plane) and full.
    """
    torch.manual_seed(0)
    source = [torch.randn(shape) / (9 * shape[1]) ** 0.5 for shape in SHAPES]
    if related:
        planes = [(1 + torch.randn(*s[:2], 1, 1), 0.1 * torch.randn(*s[:2], 1, 1)) for s in SHAPES]
        teacher = [scale * w + shift for w, (scale, shift) in zip(source, planes, strict=True)]
    else:
        teacher = [torch.randn(shape) / (9 * shape[1]) ** 0.5 for shape in SHAPES]
    x = torch.randn(64, 4, 8, 8)

    def through(filters: Filters) -> torch.Tensor:
        first = F.leaky_relu(F.conv2d(x, filters[0], padding=1), 0.2)
        return F.conv2d(F.leaky_relu(F.conv2d(first, filters[1], padding=1), 0.2), filters[2], padding=1)

    target = through(teacher)
    return {way: fitted(way, source, through, target) for way in ways}


def fitted(
    way: str, source: Filters, through: Callable[[Filters], torch.Tensor], target: torch.Tensor
) -> float:
    layers = [FilterModulation(w) for w in source]
    if way == "film":
        for layer, w in zip(layers, source, strict=True):
            layer.gamma = torch.nn.Parameter(torch.ones(len(w), 1, 1, 1))
            layer.beta = torch.nn.Parameter(torch.zeros(len(w), 1, 1, 1))
    whole = [torch.nn.Parameter(w.clone()) for w in source]
    moving = whole if way == "full" else [p for layer in layers for p in layer.parameters()]
    sizes = {"frozen": 240, "film": 38, "adafm": 240, "full": 1080}
    assert sum(p.numel() for p in moving) == sizes[way]
    adam = torch.optim.Adam(moving, lr=1e-2)
    for step in range(301):
        made = through(whole if way == "full" else [m(w) for m, w in zip(layers, source, strict=True)])
        loss = F.mse_loss(made, target) / target.var()
        if way == "frozen" or step == 300:
            break
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
    return float(loss.detach())


def test_it_fits_what_output_scales_cannot() -> None:
    errors = regression(True, "frozen", "film", "adafm")
    assert errors["adafm"] < 0.05 * errors["film"] and errors["film"] < errors["frozen"]


def test_of_an_unrelated_teacher_more_parameters_learn_more() -> None:
    errors = regression(False, "frozen", "film", "adafm", "full")
    assert errors["full"] < errors["adafm"] < errors["film"] < errors["frozen"]


def test_a_limit_beyond_the_image_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"finetune.low_level_from_px=64 with finetune.method=adafm"
    ) as error:
        trainer("stylegan2", method="adafm", low_level_from_px=64)
    assert "32 or less" in error.value.remedy


@pytest.mark.parametrize("family", UNRESOLVED)
def test_a_family_without_sizes_is_refused(family: str) -> None:
    with pytest.raises(ConfigError, match=rf"finetune.method=adafm .* family={family}"):
        method("adafm").apply(small(family), recipe(method="adafm"))
