"""Convolutions as rows of filters: their shapes, their order in a network, and how many are free in a task.

A filter is what makes one output channel, flattened to d = c_in * k * k values. Filters are rows here, so
that the filters of the first tasks are the first bytes of a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from graftgan.errors import ConfigError

Conv = nn.Conv2d | nn.ConvTranspose2d
Lambda = float | Sequence[float] | Mapping[str, float]
DEFAULT = "default"
"""Key of a mapping of lambdas that stands for all layers it does not name."""


@dataclass(frozen=True)
class LayerShape:
    """Sizes of one convolution with square kernels.

    Attributes:
        name: Place in the network's module tree.
        kind: `conv`, or `deconv` for a transposed one.
        ci: Input channels.
        co: Output channels, which is the number of filters.
        k: Side of a kernel in pixels.
        stride: Step in pixels.
        pad: Padding in pixels.
        out_pad: Output padding of a `deconv` in pixels.
    """

    name: str
    kind: str
    ci: int
    co: int
    k: int
    stride: int
    pad: int
    out_pad: int

    @property
    def d(self) -> int:
        """Values of a filter."""
        return self.ci * self.k * self.k

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight as torch has it."""
        channels = (self.co, self.ci) if self.kind == "conv" else (self.ci, self.co)
        return (*channels, self.k, self.k)

    def to_filters(self, weight: Tensor) -> Tensor:
        """Return a weight as filters [co, d]; a transposed convolution has its output channels second."""
        return (weight if self.kind == "conv" else weight.transpose(0, 1)).reshape(self.co, self.d)

    def to_weight(self, filters: Tensor) -> Tensor:
        """Return filters [co, d] as a contiguous weight; the inverse of :meth:`to_filters`."""
        weight = filters.reshape(self.co, self.ci, self.k, self.k)
        return (weight if self.kind == "conv" else weight.transpose(0, 1)).contiguous()

    def dense(self, bias: bool, device: torch.device | None = None) -> Conv:
        """Return an ordinary convolution of these sizes with unset weights."""
        sizes = (self.ci, self.co, self.k, self.stride, self.pad)
        if self.kind == "conv":
            return nn.Conv2d(*sizes, bias=bias, device=device)
        return nn.ConvTranspose2d(*sizes, output_padding=self.out_pad, bias=bias, device=device)


def shape_of(name: str, conv: Conv) -> LayerShape:
    """Return the sizes of a convolution.

    Raises:
        ConfigError: It has groups, dilation, kernels that are not square or padding other than zeros.
    """
    pairs = (conv.kernel_size, conv.stride, conv.padding, conv.output_padding)
    even = all(not isinstance(pair, str) and len(set(pair)) == 1 for pair in pairs)
    if not even or conv.groups != 1 or set(conv.dilation) != {1} or conv.padding_mode != "zeros":
        raise ConfigError(
            f"{name} is a convolution with groups, dilation, reflection or uneven sizes",
            "use the translators of pix2pix and CycleGAN",
        )
    k, stride, pad, out_pad = (int(pair[0]) for pair in pairs)
    kind = "conv" if isinstance(conv, nn.Conv2d) else "deconv"
    return LayerShape(name, kind, conv.in_channels, conv.out_channels, k, stride, pad, out_pad)


def layer_shapes(network: nn.Module) -> tuple[LayerShape, ...]:
    """Return all convolutions of a dense network in the order of its tree; the last gives the image."""
    convs = (nn.Conv2d, nn.ConvTranspose2d)
    return tuple(shape_of(name, m) for name, m in network.named_modules() if isinstance(m, convs))


def free_filters(co: int, share: float) -> int:
    """Return ceil(lambda * co), the unconstrained filters of a layer (Piggyback GAN, section 3.2).

    The share is taken as the decimal that a person wrote: 0.55 of 100 is 55, which binary fractions make 56.
    """
    return math.ceil(Fraction(str(share)) * co)


def free_widths(layers: Sequence[LayerShape], share: Lambda, lambda_last: float = 1.0) -> dict[str, int]:
    """Return the number of unconstrained filters of each layer for the second and later tasks.

    Args:
        layers: Layers in the order of the network.
        share: One lambda for all layers but the last; or one a layer, the last included; or a mapping from
            layer names, where the key `default` stands for those not named.
        lambda_last: Lambda of the last layer, where neither a sequence nor a mapping names it.

    Raises:
        ConfigError: A lambda is outside [0, 1], a layer has none, or a name is unknown.
    """
    shares = _shares(layers, share, lambda_last)
    for name, value in shares.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value <= 1:
            raise ConfigError(f"lambda of {name} is {value!r}", "use a number from 0 to 1")
    return {layer.name: free_filters(layer.co, shares[layer.name]) for layer in layers}


def _shares(layers: Sequence[LayerShape], share: Lambda, lambda_last: float) -> dict[str, float]:
    names = [layer.name for layer in layers]
    if isinstance(share, Mapping):
        return _named_shares(names, share, lambda_last)
    if isinstance(share, Sequence) and not isinstance(share, str):
        if len(share) != len(names):
            raise ConfigError(
                f"lambda lists {len(share)} numbers for {len(names)} layers",
                "give one a layer, or one for all",
            )
        return dict(zip(names, share, strict=True))
    return dict.fromkeys(names, share) | {names[-1]: lambda_last}


def _named_shares(names: list[str], share: Mapping[str, float], lambda_last: float) -> dict[str, float]:
    if unknown := sorted(set(share) - {*names, DEFAULT}):
        raise ConfigError(f"lambda names no layer: {', '.join(unknown)}", f"use names such as {names[0]}")
    left = [name for name in names[:-1] if name not in share]
    if left and DEFAULT not in share:
        raise ConfigError(f"lambda lacks {left[0]}", f"add it, or the key {DEFAULT}")
    rest = dict.fromkeys(left, share.get(DEFAULT, 1.0))
    return {**rest, names[-1]: lambda_last, **{name: share[name] for name in names if name in share}}
