"""FreezeD (Mo, Cho, Shin, CVPR-W 2020): D's layers nearest to the pixels stay as the source had them."""

from __future__ import annotations

from typing import Any

from torch import nn

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Discriminator, Gan
from graftgan.gans.biggan.discriminator import BigGANDiscriminator
from graftgan.gans.resnet_gan.networks import ResnetDiscriminator
from graftgan.transfer.base import Method, every_parameter

LAYER_ORDER = ("fromrgb", "conv0", "conv1", "skip")


def layers(discriminator: nn.Module) -> list[str]:
    """Return the prefixes of D's layers from the image side, attention among them, without its head.

    In a StyleGAN's D the count is StyleGAN2-ADA's: the first block has four layers (fromrgb, conv0, conv1,
    skip), each further block three. A BigGAN's block has its two convolutions and the shortcut's, if it has
    one, then attention, if it has any. The residual GAN begins with `conv_img`, its blocks are alike.
    """
    return [layer for block in blocks(discriminator) for layer in block]


def blocks(discriminator: nn.Module) -> list[list[str]]:
    """Return the same prefixes block by block; what reads the image belongs to the first."""
    if isinstance(discriminator, BigGANDiscriminator):
        return [_biggan_block(f"blocks.{i}", block) for i, block in enumerate(discriminator.blocks)]
    if isinstance(discriminator, ResnetDiscriminator):
        return _resnet_blocks(discriminator)
    return _stylegan_blocks(discriminator)


def _stylegan_blocks(discriminator: nn.Module) -> list[list[str]]:
    names = sorted(
        (name for name, _ in discriminator.named_children() if name[:1] == "b" and name[1:].isdigit()),
        key=lambda name: -int(name[1:]),
    )
    found = []
    for block in names:
        children = {name for name, child in discriminator.get_submodule(block).named_children()}
        if "conv1" in children:
            found.append([f"{block}.{layer}." for layer in LAYER_ORDER if layer in children])
    return found


def _biggan_block(prefix: str, block: Any) -> list[str]:
    found = [f"{prefix}.0.{layer}." for layer in ("conv1", "conv2", "conv_sc") if _has(block[0], layer)]
    return found + [f"{prefix}.{i}." for i in range(1, len(block))]


def _resnet_blocks(discriminator: ResnetDiscriminator) -> list[list[str]]:
    spec, found = discriminator.spec, []
    for stage in range(spec.stages):
        for index in range(spec.layout.blocks):
            name = spec.layout.block_name(stage, index)
            module = discriminator.get_submodule(name)
            found.append(
                [f"{name}.{layer}." for layer in ("conv_0", "conv_1", "conv_s") if _has(module, layer)]
            )
    return [["conv_img.", *found[0]], *found[1:]]


def _has(module: nn.Module, layer: str) -> bool:
    return getattr(module, layer, None) is not None


def frozen_layers(discriminator: Discriminator, settings: Finetune) -> list[str]:
    """Return the prefixes of the layers that stay: whole blocks where `freeze_d_blocks` is given.

    Raises:
        ConfigError: If D has fewer blocks or layers than are to be frozen.
    """
    whole, order = blocks(discriminator), layers(discriminator)
    count = settings.freeze_d_blocks
    if count is not None:
        _require("freeze_d_blocks", count, len(whole))
        return [layer for block in whole[:count] for layer in block]
    _require("freeze_d_layers", settings.freeze_d_layers, len(order))
    return order[: settings.freeze_d_layers]


def _require(key: str, wanted: int, there: int) -> None:
    if wanted > there:
        raise ConfigError(
            f"finetune.{key}={wanted}, but the discriminator that rank.choose brought has {there} "
            f"{key.removeprefix('freeze_d_')} below its head",
            f"set finetune.{key} to {there} or less, or choose a source with a larger one",
        )


def moving(gan: Gan, settings: Finetune) -> set[str]:
    """Return the names of D's parameters beyond the first layers.

    Raises:
        ConfigError: If D has fewer than are to be frozen.
    """
    chosen = tuple(frozen_layers(gan.discriminator, settings))
    # What is fresh has nothing to keep.
    frozen = () if "discriminator" in gan.fresh else chosen
    return {name for name in every_parameter(gan.discriminator) if not name.startswith(frozen)}


METHOD = Method(
    name="freeze_d",
    families=("stylegan2", "stylegan3", "biggan", "biggan_deep", "resnet_gan"),
    help="As full, but D's first freeze_d_layers or freeze_d_blocks stay fixed (FreezeD, Mo et al. 2020).",
    trainable_generator=lambda gan, settings: every_parameter(gan.generator),
    trainable_discriminator=moving,
    fixes_d=True,
)
