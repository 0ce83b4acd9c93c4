"""Which resolution each tensor of a network works at, for families whose layers have one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import nn

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan
from graftgan.gans.biggan import BigGANSpec
from graftgan.gans.biggan.spec import ProjectionSpec
from graftgan.gans.biggan_deep import BigGANDeepSpec
from graftgan.gans.biggan_deep.layers import StoredSpectralNorm
from graftgan.gans.resnet_gan.spec import ResnetGanSpec
from graftgan.gans.spec import GanSpec
from graftgan.gans.stylegan3.generator import SynthesisLayer
from graftgan.gans.stylegan3.spec import StyleGAN3Spec

Levels = dict[str, int]
Prefixes = dict[str, int]


def _stylegan2(spec: GanSpec) -> tuple[Prefixes, Prefixes]:
    sides = [2**power for power in range(2, spec.resolution.bit_length())]
    return {f"synthesis.b{r}.": r for r in sides}, {f"b{r}.": r for r in sides[1:]}


def _stylegan3(spec: GanSpec) -> tuple[Prefixes, Prefixes]:
    assert isinstance(spec, StyleGAN3Spec)
    generator = {f"synthesis.{layer.name}.": layer.target.rate for layer in spec.layers}
    return generator, _stylegan2(spec.discriminator())[1]


def _biggan(spec: GanSpec) -> tuple[Prefixes, Prefixes]:
    assert isinstance(spec, BigGANSpec)
    generator = {f"blocks.{i}.": 8 * 2**i for i in range(len(spec.g_blocks))}
    generator["output_layer."] = spec.resolution
    return generator, _projection_discriminator(spec)


def _biggan_deep(spec: GanSpec) -> tuple[Prefixes, Prefixes]:
    assert isinstance(spec, BigGANDeepSpec)
    generator, side, index = {}, 4, 0
    for position, (doubles, _, _) in enumerate(spec.blocks):
        if position == spec.attention_layer_position:
            generator[f"generator.layers.{index}."] = side
            index += 1
        side = side * 2 if doubles else side
        generator[f"generator.layers.{index}."] = side
        index += 1
    generator["generator.bn."] = generator["generator.conv_to_rgb."] = spec.resolution
    return generator, _projection_discriminator(spec)


def _projection_discriminator(spec: ProjectionSpec) -> Prefixes:
    discriminator, side = {}, spec.resolution
    for index, block in enumerate(spec.d_blocks):
        discriminator[f"blocks.{index}."] = side
        side = side // 2 if block.resizes else side
    return discriminator


def _resnet_gan(spec: GanSpec) -> tuple[Prefixes, Prefixes]:
    assert isinstance(spec, ResnetGanSpec)
    generator, discriminator = {"conv_img.": spec.resolution}, {"conv_img.": spec.resolution}
    top = spec.resolution >> spec.layout.outer
    for stage in range(spec.stages):
        for block in range(spec.layout.blocks):
            prefix = f"{spec.layout.block_name(stage, block)}."
            generator[prefix], discriminator[prefix] = spec.base << stage, top >> stage
    return generator, discriminator


FAMILY_LEVELS: Mapping[str, Callable[[GanSpec], tuple[Prefixes, Prefixes]]] = {
    "stylegan2": _stylegan2,
    "stylegan3": _stylegan3,
    "biggan": _biggan,
    "biggan_deep": _biggan_deep,
    "resnet_gan": _resnet_gan,
}
"""Family -> function that gives the side in pixels of the modules of G and of D, by prefix of their names."""


def _levels(network: nn.Module, prefixes: Prefixes) -> Levels:
    found = {}
    for name, _ in network.named_parameters():
        sides = [side for prefix, side in prefixes.items() if name.startswith(prefix)]
        if sides:
            found[name] = sides[0]
    return found


def levels(gan: Gan, settings: Finetune) -> tuple[Levels, Levels]:
    """Return the side in pixels of the parameters of G and of D that belong to one resolution.

    A block of G belongs to the size that it makes, a block of D to the size that it reads; a layer of a
    StyleGAN3's G to the samples a picture width that it puts out, margins left aside. What lies before G's
    first block (the mapping, the class embedding, the first linear layer, Fourier features) and D's head (in
    StyleGAN2 its 4 px epilogue) have no entry.

    Raises:
        ConfigError: The family's layers are not named here.
    """
    family = gan.spec.family
    if family not in FAMILY_LEVELS:
        raise ConfigError(
            f"finetune.method={settings.method} needs to know the resolution of every layer, "
            f"which the source's family={family} does not give",
            f"use another method, or set rank.sources to those of {', '.join(FAMILY_LEVELS)}",
        )
    of_generator, of_discriminator = FAMILY_LEVELS[family](gan.spec)
    return _levels(gan.generator, of_generator), _levels(gan.discriminator, of_discriminator)


def is_convolution(name: str, module: nn.Module) -> bool:
    """Tell whether `name` is that of a 3x3 convolution's module between feature maps.

    Shortcuts of 1x1 and the layers that write the image are not among them.
    """
    if isinstance(module, SynthesisLayer):
        return not module.shape.to_rgb and module.shape.kernel == 3
    weight = getattr(module, weight_name(module), None)
    between = re.search(r"(^|\.)conv_?[012]$", name) is not None
    return between and weight is not None and tuple(weight.shape[2:]) == (3, 3)


def weight_name(module: nn.Module) -> str:
    """Return the attribute that holds a convolution's weight."""
    return "weight_orig" if isinstance(module, StoredSpectralNorm) else "weight"
