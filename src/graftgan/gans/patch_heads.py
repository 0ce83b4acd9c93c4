"""Small heads on a discriminator's inner features while it trains: each judges patches, not whole images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from graftgan.gans.base import Discriminator, Gan
from graftgan.gans.biggan.discriminator import BigGANDiscriminator
from graftgan.gans.dcgan.networks import KERNEL, DCGANDiscriminator
from graftgan.gans.resnet_gan.networks import ResnetDiscriminator
from graftgan.gans.stylegan2.discriminator import StyleGAN2Discriminator
from graftgan.gans.stylegan2.layers import at_least_float32, full_precision

NAME = "patches"


class PatchLayer(NamedTuple):
    """A module of D whose every output pixel sees a patch of the image.

    Attributes:
        name: Of the module.
        channels: Its feature maps.
        patch_px: Side of the square of image pixels that an output pixel depends on.
    """

    name: str
    channels: int
    patch_px: int


class _Reach:
    """Side of what an output pixel sees, and the pixels between neighbours, layer by layer."""

    def __init__(self) -> None:
        self.side, self.stride = 1, 1

    def see(self, kernel: int) -> None:
        self.side += (kernel - 1) * self.stride

    def halve(self) -> None:
        self.stride *= 2


def patch_layers(discriminator: Discriminator) -> list[PatchLayer]:
    """Return the blocks of D from the image on, up to the first that sees the whole image at once."""
    for kind, find in _FINDERS:
        if isinstance(discriminator, kind):
            return find(discriminator)
    raise TypeError(f"no patches are known of {type(discriminator).__name__}")


def _stylegan2(discriminator: Any) -> list[PatchLayer]:
    spec, reach, found = discriminator.spec, _Reach(), []
    for resolution in reversed(spec.block_resolutions[1:]):
        # The main branch sees more than the shortcut: 3x3, then a filter of four taps before a 3x3.
        for kernel in (3, 4, 3):
            reach.see(kernel)
        reach.halve()
        found.append(PatchLayer(f"b{resolution}", spec.width(resolution // 2), reach.side))
    return found


def _biggan(discriminator: Any) -> list[PatchLayer]:
    reach, found = _Reach(), []
    for index, sizes in enumerate(discriminator.spec.d_blocks):
        for kernel in (3, 3, *((2,) if sizes.resizes else ())):
            reach.see(kernel)
        if sizes.resizes:
            reach.halve()
        found.append(PatchLayer(f"blocks.{index}.0", sizes.out_channels, reach.side))
        if sizes.attention:
            break
    return found


def _resnet_gan(discriminator: Any) -> list[PatchLayer]:
    spec, reach, found = discriminator.spec, _Reach(), []
    reach.see(discriminator.conv_img.kernel_size[0])
    for stage in range(spec.stages):
        if stage or spec.layout.outer:
            reach.see(3)
            reach.halve()
        for block in range(spec.layout.blocks):
            name = spec.layout.block_name(stage, block)
            for _ in range(2):
                reach.see(3)
            channels = discriminator.get_submodule(name).conv_1.out_channels
            found.append(PatchLayer(name, channels, reach.side))
    return found


def _dcgan(discriminator: Any) -> list[PatchLayer]:
    reach, found = _Reach(), []
    # The last convolution is the head.
    convolutions = [(i, m) for i, m in enumerate(discriminator.main) if isinstance(m, nn.Conv2d)][:-1]
    for index, module in convolutions:
        reach.see(KERNEL)
        reach.halve()
        found.append(PatchLayer(f"main.{index}", module.out_channels, reach.side))
    return found


_FINDERS: tuple[tuple[type[Discriminator], Callable[[Any], list[PatchLayer]]], ...] = (
    (StyleGAN2Discriminator, _stylegan2),
    (BigGANDiscriminator, _biggan),
    (ResnetDiscriminator, _resnet_gan),
    (DCGANDiscriminator, _dcgan),
)


class PatchHeads(nn.Module):
    """A linear map from the features of each layer to a logit a patch, 0 at the start; and the anchors.

    Weights are divided by the root of their number, as elsewhere where a learning rate serves all layers.

    Args:
        layers: What the heads sit on.
        anchors: Latents [K, z_dim] whose neighbours the whole D judges; they stay.
    """

    anchors: Tensor

    def __init__(self, layers: Sequence[PatchLayer], anchors: Tensor) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.register_buffer("anchors", anchors)
        for i, layer in enumerate(self.layers):
            self.register_parameter(f"weight{i}", nn.Parameter(torch.zeros(layer.channels)))
            self.register_parameter(f"bias{i}", nn.Parameter(torch.zeros(1)))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map features [N, C, H, W] of each layer to float32 logits [N, H, W]."""
        logits = []
        for i, rows in enumerate(features):
            with full_precision(rows):
                weight = getattr(self, f"weight{i}") / math.sqrt(rows.shape[1])
                patches = torch.einsum("nchw,c->nhw", at_least_float32(rows), weight)
                logits.append(patches + getattr(self, f"bias{i}"))
        return logits


def attach(discriminator: Discriminator, layers: Sequence[PatchLayer], anchors: Tensor) -> PatchHeads:
    """Give D heads, as a part of it: their weights are among its own. Its images' logits are as before."""
    device = next(discriminator.parameters()).device
    heads = PatchHeads(layers, anchors).to(device)
    discriminator.add_module(NAME, heads)
    return heads


def heads_of(discriminator: Discriminator) -> PatchHeads | None:
    """Return the heads of a discriminator, None if it has none."""
    return cast("PatchHeads | None", getattr(discriminator, NAME, None))


def is_patch_head(name: str) -> bool:
    """Tell whether a tensor of a discriminator, by its name, is one of its heads'."""
    return name.split(".", maxsplit=1)[0] == NAME


def detach(gan: Gan) -> None:
    """Take the heads away, if there are any; the discriminator is then that of a plain checkpoint."""
    if heads_of(gan.discriminator) is not None:
        delattr(gan.discriminator, NAME)


@contextmanager
def listening(discriminator: Discriminator) -> Iterator[list[Tensor]]:
    """Collect what the heads' layers compute during the block, in their order, from the last pass in it."""
    heads = heads_of(discriminator)
    assert heads is not None
    caught: dict[str, Tensor] = {}
    found: list[Tensor] = []

    def keep(name: str) -> Any:
        return lambda module, given, output: caught.__setitem__(name, output)

    names = [layer.name for layer in heads.layers]
    hooks = [discriminator.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield found
        found += [caught[name] for name in names]
    finally:
        for hook in hooks:
            hook.remove()
