"""AdaFM (Zhao, Cong, Carin, ICML 2020, arXiv:2002.11810): fixed filters, each plane with scale and shift.

In StyleGAN2 the raw weight is modulated, before the style: demodulation cancels a factor common to a whole
filter. In BigGAN it is the weight before its spectral norm, which is computed anew: a norm kept as it was
could not be written back into a plain weight.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan
from graftgan.gans.folding import adapters
from graftgan.transfer import filter_transfer
from graftgan.transfer.base import Method
from graftgan.transfer.levels import is_convolution, levels


class FilterModulation(nn.Module):
    """Computes ``gamma[o, i] * W[o, i] + beta[o, i]``, which is ``W`` at the start.

    Args:
        weight: Filters [O, I, k, k]; gamma and beta are [O, I, 1, 1].
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        shape = (*weight.shape[:2], 1, 1)
        self.gamma = nn.Parameter(torch.ones(shape, device=weight.device))
        self.beta = nn.Parameter(torch.zeros(shape, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """Map filters [O, I, k, k] to modulated ones."""
        return self.gamma * weight + self.beta


def prepare(gan: Gan, settings: Finetune) -> None:
    """Modulate the 3x3 convolutions of G's low-level blocks; shortcuts and the layers to RGB stay plain.

    Raises:
        ConfigError: If `low_level_from_px` leaves nothing to modulate, or the family's layers have no sizes.
    """
    sides, _ = levels(gan, settings)
    limit = filter_transfer.low_level_from(gan, settings)
    chosen = [
        name
        for name, module in gan.generator.named_modules()
        if is_convolution(name, module) and sides.get(f"{name}.weight", 0) >= limit
    ]
    if not chosen:
        raise ConfigError(
            f"finetune.low_level_from_px={limit} with finetune.method=adafm leaves nothing to modulate",
            f"use {gan.spec.resolution} or less, or finetune.method=full",
        )
    for network in (gan.generator, gan.generator_ema):
        for name in chosen:
            module = network.get_submodule(name)
            modulation = FilterModulation(network.get_parameter(f"{name}.weight"))
            parametrize.register_parametrization(module, "weight", modulation)


def moving(gan: Gan, settings: Finetune) -> set[str]:
    """Return the names of G's parameters that are not low-level, and of all scales and shifts."""
    return filter_transfer.moving_generator(gan, settings) | set(adapters(gan.generator))


METHOD = Method(
    name="adafm",
    help="As filter_transfer, with a scale and a shift for each fixed filter plane of G (Zhao et al. 2020).",
    trainable_generator=moving,
    trainable_discriminator=filter_transfer.moving_discriminator,
    prepare=prepare,
)
