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
from graftgan.transfer.levels import FAMILY_LEVELS, is_convolution, levels, weight_name


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
        ConfigError: If `low_level_from_px` leaves nothing to modulate, or the family's layers have no sizes
            or no such convolutions.
    """
    filter_transfer.prepare(gan, settings)
    sides, _ = levels(gan, settings)
    limit = filter_transfer.low_level_from(gan, settings)
    chosen = [
        name
        for name, module in gan.generator.named_modules()
        if is_convolution(name, module) and sides.get(f"{name}.{weight_name(module)}", 0) >= limit
    ]
    if not chosen:
        raise ConfigError(
            f"finetune.low_level_from_px={limit} with finetune.method=adafm leaves nothing to modulate",
            f"use {gan.spec.resolution} or less, or finetune.method=full",
        )
    for network in (gan.generator, gan.generator_ema):
        for name in chosen:
            module = network.get_submodule(name)
            weight = weight_name(module)
            modulation = FilterModulation(module.get_parameter(weight))
            parametrize.register_parametrization(module, weight, modulation)


def moving(gan: Gan, settings: Finetune) -> set[str]:
    """Return the names of G's parameters that are not low-level, and of all scales and shifts."""
    return filter_transfer.moving_generator(gan, settings) | set(adapters(gan.generator))


def resting(gan: Gan, settings: Finetune, images_seen: int) -> set[str]:
    """Return the names of all scales and shifts before `adafm.start_kimg`, none from then on."""
    if images_seen >= 1000 * settings.adafm.start_kimg:
        return set()
    return {f"generator.{name}" for name in adapters(gan.generator)}


def begins(settings: Finetune) -> tuple[str, float]:
    """Return the key of the start, and the images after which scales and shifts move."""
    return "adafm.start_kimg", 1000 * settings.adafm.start_kimg


def check(settings: Finetune) -> None:
    """Refuse a start beyond the budget.

    Raises:
        ConfigError: The scales and shifts would never move, or as for `filter_transfer`.
    """
    filter_transfer.check(settings)
    start, kimg = settings.adafm.start_kimg, settings.budget.kimg
    if kimg is not None and start >= kimg:
        raise ConfigError(
            f"finetune.adafm.start_kimg={start:g} with finetune.budget.kimg={kimg:g}: "
            "scales and shifts would never move",
            "start earlier, or use finetune.method=filter_transfer",
        )


METHOD = Method(
    name="adafm",
    families=tuple(FAMILY_LEVELS),
    help="As filter_transfer, with a scale and a shift for each fixed filter plane of G (Zhao et al. 2020).",
    trainable_generator=moving,
    trainable_discriminator=filter_transfer.moving_discriminator,
    prepare=prepare,
    resting=resting,
    begins=begins,
    check=check,
    adapter=True,
    fixes_d=True,
)
