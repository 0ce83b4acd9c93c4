"""Patch discriminators of several patch sizes, and the losses of image-to-image training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from graftgan.gans.translation import PatchDiscriminator, TranslatorSpec
from graftgan.gans.translation.networks import initialise
from graftgan.lifelong_config import GanLoss

PATCH_LAYERS = {16: 1, 34: 2, 70: 3}
"""Side of the judged patch in pixels -> halvings of the discriminator (Isola et al. 2017, 6.1.2)."""


@dataclass(frozen=True)
class PatchSpec(TranslatorSpec):
    """Sizes of a patch discriminator whose patches may be smaller than 70 pixels.

    Attributes:
        layers: Halvings, a value of `PATCH_LAYERS`.
    """

    kind: str = "patchgan"
    layers: int = 3

    @property
    def depth(self) -> int:
        """Halvings."""
        return self.layers


def largest_patch(resolution: int) -> int:
    """Return the largest side of a patch that lies within images of `resolution` pixels, at least 16."""
    return max((px for px in PATCH_LAYERS if px <= resolution), default=min(PATCH_LAYERS))


def patch_discriminator(in_channels: int, patch_px: int, ndf: int, norm: str) -> PatchDiscriminator:
    """Build a freshly initialised discriminator.

    Args:
        in_channels: Channels of the image, or of input and output together.
        patch_px: Side of the patch that each logit judges, a key of `PATCH_LAYERS`.
        ndf: Feature maps of the first layer.
        norm: `instance` or `batch`.
    """
    layers = PATCH_LAYERS[patch_px]
    network = PatchDiscriminator(PatchSpec(in_channels=in_channels, ndf=ndf, norm=norm, layers=layers))
    initialise(network)
    return network


def adversarial(logits: Tensor, real: bool, kind: GanLoss) -> Tensor:
    """Return the mean loss of logits against one answer for all patches.

    `bce` is the logistic loss of Goodfellow et al. 2014, `lsgan` the squared distance to 1 for real and to 0
    for generated (Mao et al. 2017, equation 2 with b = c = 1 and a = 0).
    """
    logits = logits.float()
    if kind == "bce":
        return F.softplus(-logits if real else logits).mean()
    return (logits - float(real)).square().mean()


def judge_loss(real_logits: Tensor, fake_logits: Tensor, kind: GanLoss) -> Tensor:
    """Return half the sum of both losses, which slows D down against G (Isola et al. 2017, section 3.3)."""
    total = adversarial(real_logits, True, kind) + adversarial(fake_logits, False, kind)
    return total / 2


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean absolute difference of two batches of images, in float32."""
    return torch.mean(torch.abs(a.float() - b.float()))
