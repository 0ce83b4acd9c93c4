"""Few-shot adaptation by cross-domain correspondence (Ojha et al., CVPR 2021, arXiv:2104.06820).

Two parts. The penalty `cdc` keeps the source's distances between images. And since a handful of images says
little about what all images may look like, D judges whole images only near a few anchors of the latent space;
elsewhere it judges patches, from its own inner features. Heads on these are trained with it and then dropped.
"""

from __future__ import annotations

import torch

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, draw_latents
from graftgan.gans.patch_heads import PatchLayer, attach, patch_layers
from graftgan.transfer.base import Method, every_parameter

LEAST_SHARE, LARGEST_SHARE = 1 / 12, 1 / 4
"""Of the image side: details, neither single pixels nor most of an object."""


def check(settings: Finetune) -> None:
    """Refuse a batch that has no two halves.

    Raises:
        ConfigError: Naming both keys.
    """
    low, high = settings.cdc.patch_px or (1, 1)
    if low > high:
        raise ConfigError(
            f"finetune.cdc.patch_px is [{low}, {high}], the least side above the largest", "swap them"
        )
    if settings.cdc.patches and settings.batch % 2:
        raise ConfigError(
            f"finetune.batch={settings.batch} has no halves, which finetune.cdc.patches=true judges apart",
            "use an even finetune.batch, or set finetune.cdc.patches=false",
        )


def chosen_layers(gan: Gan, settings: Finetune) -> list[PatchLayer]:
    """Return the blocks of D whose patches have the wanted size.

    By default, where none has, it is the block with the smallest patches that are large enough, or the last
    one before attention, which lets a block see the whole image.

    Raises:
        ConfigError: None has the size that was asked for.
    """
    layers, side, wanted = patch_layers(gan.discriminator), gan.spec.resolution, settings.cdc.patch_px
    low, high = wanted or (side * LEAST_SHARE, side * LARGEST_SHARE)
    chosen = [layer for layer in layers if low <= layer.patch_px <= high]
    if not chosen and wanted is None:
        chosen = [layer for layer in layers if layer.patch_px >= low][:1] or layers[-1:]
    if not chosen:
        raise ConfigError(
            f"finetune.cdc.patch_px is [{low}, {high}], but D's blocks see patches of "
            f"{', '.join(str(layer.patch_px) for layer in layers)} pixels",
            "set finetune.cdc.patch_px to a range with one of these, or to null",
        )
    return chosen


def prepare(gan: Gan, settings: Finetune) -> None:
    """Give D heads on its patches, and anchors drawn by the run's seed."""
    if settings.cdc.patches:
        rng = torch.Generator().manual_seed(settings.seed)
        anchors = draw_latents(gan.spec, settings.cdc.anchors, rng)[0]
        attach(gan.discriminator, chosen_layers(gan, settings), anchors)


METHOD = Method(
    name="cdc",
    help="As full, with the penalty cdc, and D judges half the fakes by patches (CDC, Ojha et al. 2021).",
    trainable_generator=lambda gan, settings: every_parameter(gan.generator),
    trainable_discriminator=lambda gan, settings: every_parameter(gan.discriminator),
    prepare=prepare,
    check=check,
    penalties=("cdc",),
)
