"""FreezeG (Lee 2020, github.com/bryandlee/FreezeG): G's layers nearest to the latent stay as they were.

Those layers place and shape what is drawn, so the same latent keeps its layout and changes its rendering.
"""

from __future__ import annotations

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan
from graftgan.transfer.base import Method, every_parameter
from graftgan.transfer.levels import FAMILY_LEVELS, levels


def moving(gan: Gan, settings: Finetune) -> set[str]:
    """Return the names of G's parameters at sizes beyond the first `freeze_g_blocks`.

    With one or more, what leads to the first block (mapping, class embedding, linear layer) is fixed too.

    Raises:
        ConfigError: If no size would be left to train, or the family's layers have no sizes.
    """
    sides, _ = levels(gan, settings)
    order = sorted(set(sides.values()))
    count = settings.freeze_g_blocks
    if count >= len(order):
        raise ConfigError(
            f"finetune.freeze_g_blocks={count} with finetune.method=freeze_g: "
            f"G has {len(order)} sizes, so none is left to train",
            f"use {len(order) - 1} or less",
        )
    if not count:
        return every_parameter(gan.generator)
    return {name for name, side in sides.items() if side >= order[count]}


METHOD = Method(
    name="freeze_g",
    families=tuple(FAMILY_LEVELS),
    help="As full, but G's freeze_g_blocks smallest sizes stay fixed (FreezeG, Lee 2020).",
    trainable_generator=moving,
    trainable_discriminator=lambda gan, settings: every_parameter(gan.discriminator),
    adapter=True,
)
