from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from graftgan.gans.translation import TranslatorSpec, build_translator
from graftgan.training.patches import (
    PATCH_LAYERS,
    adversarial,
    judge_loss,
    l1,
    largest_patch,
    patch_discriminator,
)


@pytest.mark.parametrize("patch_px", sorted(PATCH_LAYERS))
def test_a_logit_depends_on_a_patch_of_the_named_side(patch_px: int) -> None:
    # Batch norm in evaluation mode does not spread information over the image.
    network = patch_discriminator(3, patch_px, 4, "batch").eval().double()
    side = 160
    image = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    logits = network(image)
    middle = logits.shape[2] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], image)
    touched = gradient[0].abs().sum(0) > 0
    for reached in (touched.any(0), touched.any(1)):
        places = torch.nonzero(reached)
        assert int(places.max() - places.min()) + 1 == patch_px


def test_seventy_pixels_are_the_public_network() -> None:
    public = build_translator(TranslatorSpec(kind="patchgan", in_channels=6)).state_dict()
    ours = patch_discriminator(6, 70, 64, "instance").state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in public.items()}


@pytest.mark.parametrize(
    ("side", "px"), [(16, 16), (32, 16), (64, 34), (69, 34), (70, 70), (256, 70), (8, 16)]
)
def test_the_largest_patch_lies_within_the_image(side: int, px: int) -> None:
    assert largest_patch(side) == px


@pytest.mark.parametrize("real", [True, False])
def test_adversarial_losses_are_those_of_torch(real: bool) -> None:
    logits = torch.tensor([[-3.0, 0.5], [2.0, 30.0]], dtype=torch.float64)
    answer = torch.full_like(logits, float(real)).float()
    bce = F.binary_cross_entropy_with_logits(logits.float(), answer)
    assert adversarial(logits, real, "bce") == pytest.approx(float(bce), rel=1e-6)
    assert adversarial(logits, real, "lsgan") == pytest.approx(
        float(F.mse_loss(logits.float(), answer)), rel=1e-6
    )


@pytest.mark.parametrize("kind", ["bce", "lsgan"])
def test_the_loss_of_d_is_the_mean_of_both_answers(kind: Any) -> None:
    real, fake = torch.tensor([0.3]), torch.tensor([-1.2])
    parts = adversarial(real, True, kind), adversarial(fake, False, kind)
    assert judge_loss(real, fake, kind) == pytest.approx(float(sum(parts)) / 2)


def test_l1_is_the_mean_absolute_difference() -> None:
    assert l1(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0])) == pytest.approx(2.0)
    assert l1(torch.ones(2).bfloat16(), torch.zeros(2)).dtype is torch.float32
