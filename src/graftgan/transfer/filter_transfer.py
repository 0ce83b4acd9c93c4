"""Filter transfer (Zhao, Cong, Carin, ICML 2020, arXiv:2002.11810): G and D keep the filters near the image.

The published setting G4-D2 of a 128 px network keeps G from 32 px on and D at 128 px. The part of G that is
trained keeps its shape and starts from the source, as in the paper's sweep, or is the paper's small head.
"""

from __future__ import annotations

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan
from graftgan.gans.resnet_gan.spec import ResnetGanSpec
from graftgan.transfer import small_head
from graftgan.transfer.base import Method, every_parameter
from graftgan.transfer.levels import FAMILY_LEVELS, levels

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
    names = {name for name in every_parameter(gan.generator) if sides.get(name, 0) < limit}
    headed = isinstance(gan.spec, ResnetGanSpec) and gan.spec.head_px
    return names - small_head.UNUSED if headed else names


def moving_discriminator(gan: Gan, settings: Finetune) -> set[str]:
    """Return the names of D's parameters that are not low-level; its head never is, and nothing of a fresh D.

    Raises:
        ConfigError: If the family's layers have no sizes.
    """
    if "discriminator" in gan.fresh:
        return every_parameter(gan.discriminator)
    _, sides = levels(gan, settings)
    limit = settings.low_level_d_from_px or gan.spec.resolution
    return {name for name in every_parameter(gan.discriminator) if sides.get(name, 0) < limit}


def prepare(gan: Gan, settings: Finetune) -> None:
    """Put the small head in the place of G's high-level blocks, if the settings want it.

    Raises:
        ConfigError: The source's family or sizes leave no place for it.
    """
    if settings.filter_transfer.head == "small":
        small_head.graft(gan, settings, low_level_from(gan, settings))


def check(settings: Finetune) -> None:
    """Refuse settings of a small head that is not there, and a prior of latents that it does not know.

    Raises:
        ConfigError: `head_z_dim` is given and `head` is `source`, or `head` is `small` and `prior` is not
            `normal`.
    """
    section = settings.filter_transfer
    if section.head == "small" and settings.prior != "normal":
        raise ConfigError(
            f"finetune.prior={settings.prior} with finetune.filter_transfer.head=small: "
            "latents found in the source say nothing to a fresh head",
            "set finetune.prior=normal, or head=source",
        )
    if section.head_z_dim is not None and section.head != "small":
        raise ConfigError(
            f"finetune.filter_transfer.head_z_dim={section.head_z_dim} with "
            f"finetune.filter_transfer.head={section.head}: the source's head keeps the latent's size",
            "set head=small, or head_z_dim=null",
        )


METHOD = Method(
    name="filter_transfer",
    families=tuple(FAMILY_LEVELS),
    help="Blocks of G and D near the image stay fixed, the others move (Zhao et al. 2020).",
    trainable_generator=moving_generator,
    trainable_discriminator=moving_discriminator,
    prepare=prepare,
    check=check,
    adapter=True,
    fixes_d=True,
)
