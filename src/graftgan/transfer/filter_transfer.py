"""Filter transfer (Zhao, Cong, Carin, ICML 2020, arXiv:2002.11810): G and D keep the filters near the image.

The published setting G4-D2 of a 128 px network keeps G from 32 px on and D at 128 px. The part of G that is
trained keeps its shape and starts from the source, as in the paper's sweep without its small head.
"""

from __future__ import annotations

from graftgan.config import Finetune
from graftgan.gans.base import Gan
from graftgan.transfer.base import Method, every_parameter
from graftgan.transfer.levels import levels

G_SHARE = 4


def low_level_from(gan: Gan, settings: Finetune) -> int:
    """Return the side in pixels from which on G's blocks are low-level."""
    return settings.low_level_from_px or gan.spec.resolution // G_SHARE


def moving_generator(gan: Gan, settings: Finetune) -> set[str]:
    """Return the names of G's parameters that are not low-level.

    Raises:
        ConfigError: If the family's layers have no sizes.
    """
    sides, _ = levels(gan, settings)
    limit = low_level_from(gan, settings)
    return {name for name in every_parameter(gan.generator) if sides.get(name, 0) < limit}


def moving_discriminator(gan: Gan, settings: Finetune) -> set[str]:
    """Return the names of D's parameters that are not low-level; its head never is.

    Raises:
        ConfigError: If the family's layers have no sizes.
    """
    _, sides = levels(gan, settings)
    limit = settings.low_level_d_from_px or gan.spec.resolution
    return {name for name in every_parameter(gan.discriminator) if sides.get(name, 0) < limit}


METHOD = Method(
    name="filter_transfer",
    help="Blocks of G and D near the image stay fixed, the others move (Zhao et al. 2020).",
    trainable_generator=moving_generator,
    trainable_discriminator=moving_discriminator,
)
