"""FreezeD (Mo, Cho, Shin, CVPR-W 2020): D's layers nearest to the pixels stay as the source had them."""

from __future__ import annotations

from torch import nn

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan
from graftgan.transfer.base import Method, every_parameter

LAYER_ORDER = ("fromrgb", "conv0", "conv1", "skip")


def layers(discriminator: nn.Module) -> list[str]:
    """Return the prefixes of D's convolutions from the image side.

    The count is StyleGAN2-ADA's: the first block has four layers (fromrgb, conv0, conv1, skip),
    each further block three. The epilogue is not listed: it always trains.
    """
    blocks = sorted(
        (name for name, _ in discriminator.named_children() if name[:1] == "b" and name[1:].isdigit()),
        key=lambda name: -int(name[1:]),
    )
    found = []
    for block in blocks:
        children = {name for name, child in discriminator.get_submodule(block).named_children()}
        if "conv1" in children:
            found += [f"{block}.{layer}." for layer in LAYER_ORDER if layer in children]
    return found


def moving(gan: Gan, settings: Finetune) -> set[str]:
    """Return the names of D's parameters beyond the first `freeze_d_layers` layers.

    Raises:
        ConfigError: If D has fewer layers than are to be frozen.
    """
    order = layers(gan.discriminator)
    count = settings.freeze_d_layers
    if count > len(order):
        raise ConfigError(
            f"finetune.freeze_d_layers: D has {len(order)} layers below its head, not {count}",
            "use a smaller number",
        )
    # What is fresh has nothing to keep.
    frozen = () if "discriminator" in gan.fresh else tuple(order[:count])
    return {name for name in every_parameter(gan.discriminator) if not name.startswith(frozen)}


METHOD = Method(
    name="freeze_d",
    families=("stylegan2", "stylegan3"),
    help="As full, but D's first freeze_d_layers layers stay fixed (FreezeD, Mo et al. 2020).",
    trainable_generator=lambda gan, settings: every_parameter(gan.generator),
    trainable_discriminator=moving,
)
