"""U-Net generators: levels nested in one another, each joining its input to what the deeper ones give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from graftgan.gans.translation.networks import DROPOUT, LRELU_SLOPE, norm_layer
from graftgan.gans.translation.spec import TranslatorSpec

WIDEST = 8
"""Width of the deepest levels in multiples of `ngf`."""
DROPPED_LEVELS = 4
"""Levels from this one to the last but one have dropout."""


def level_widths(spec: TranslatorSpec) -> tuple[int, ...]:
    """Return the feature maps that each level gives downwards: 1, 2, 4, 8, 8, ... times `ngf`."""
    return tuple(spec.ngf * min(2**level, WIDEST) for level in range(spec.depth))


class UnetLevel(nn.Module):
    """Leaky ReLU, halving convolution, norm; the deeper levels; ReLU, doubling convolution, norm, (dropout).

    It gives its input beside the result. The public code applies the leaky ReLU in place, so the joined input
    is the activated one; that is computed here without writing in place. The deepest level has no norm on the
    way down.

    Args:
        spec: Kind of norm, bias and dropout.
        widths: Widths of the level above, of this one and of all deeper ones.
        level: Place of this level, counted from the image; the outermost is 0.
    """

    def __init__(self, spec: TranslatorSpec, widths: Sequence[int], level: int) -> None:
        super().__init__()
        outer, inner, *deeper = widths
        down = nn.Conv2d(outer, inner, 4, stride=2, padding=1, bias=spec.bias)
        layers: list[nn.Module] = [nn.LeakyReLU(LRELU_SLOPE), down]
        if deeper:
            layers += [norm_layer(spec, inner), UnetLevel(spec, widths[1:], level + 1)]
        gathered = 2 * inner if deeper else inner
        up = nn.ConvTranspose2d(gathered, outer, 4, stride=2, padding=1, bias=spec.bias)
        layers += [nn.ReLU(), up, norm_layer(spec, outer)]
        if deeper and spec.dropout and level >= DROPPED_LEVELS:
            layers += [nn.Dropout(DROPOUT)]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, C, H, W] to [N, 2 C, H, W]; H and W are multiples of 2 for each level."""
        first, *rest = self.model
        activated = first(x)
        y = activated
        for layer in rest:
            y = layer(y)
        return torch.cat([activated, y], dim=1)


class UnetOuter(nn.Module):
    """The outermost level: from and to images, without activation before and norm behind."""

    def __init__(self, spec: TranslatorSpec) -> None:
        super().__init__()
        widths = level_widths(spec)
        self.model = nn.Sequential(
            nn.Conv2d(spec.in_channels, widths[0], 4, stride=2, padding=1, bias=spec.bias),
            UnetLevel(spec, widths, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * widths[0], spec.out_channels, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, img: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W] to [N, out_channels, H, W]."""
        return cast(Tensor, self.model(img))


class UnetTranslator(nn.Module):
    """Encoder and decoder with a skip connection at every size (Isola et al. 2017, 6.1.1)."""

    def __init__(self, spec: TranslatorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.model = UnetOuter(spec)

    def forward(self, img: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W] to [N, out_channels, H, W].

        Height and width are multiples of 128 (`unet_128`) or 256 (`unet_256`).
        """
        return cast(Tensor, self.model(img))
