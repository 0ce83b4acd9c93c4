"""The StyleGAN2 discriminator: residual blocks, minibatch standard deviation, class projection."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftgan.gans.base import Discriminator
from graftgan.gans.stylegan2.layers import (
    ACT_GAIN,
    Blur,
    BlurDown,
    FullyConnected,
    activate,
    at_least_float32,
    compute_dtype,
    full_precision,
)
from graftgan.gans.stylegan2.mapping import LabelMapping
from graftgan.gans.stylegan2.spec import StyleGAN2Spec
from graftgan.world import gathered, own

RESIDUAL_GAIN = math.sqrt(0.5)
MBSTD_EPS = 1e-8


class Conv(nn.Module):
    """Convolution with equalised learning rate, then bias and leaky ReLU.

    ``forward`` folds the gains into the weight. A leaky ReLU lets positive factors through, so ``ungained``
    can leave them to what follows: wide layers have more weights than activations.

    Args:
        in_channels: Feature maps in.
        out_channels: Feature maps out.
        kernel: Side of the kernel, 1 or 3.
        down: Whether a 3x3 layer halves the size (filter [1, 3, 3, 1], then stride 2).
        gain: Factor on the output.
        linear: Whether bias and leaky ReLU (with its gain sqrt(2)) are left out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        down: bool = False,
        gain: float = 1.0,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = None if linear else nn.Parameter(torch.zeros(out_channels))
        self.bias_gain = gain if linear else gain * ACT_GAIN
        self.weight_gain = self.bias_gain / math.sqrt(in_channels * kernel**2)
        self.blur = Blur(in_channels, padding=2) if down else None
        self.padding = 0 if down else kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, I, H, W] to [N, O, H, W], or half that size."""
        return self._convolved(x, self.weight * self.weight_gain, self.bias_gain)

    def ungained(self, x: Tensor, gain: float) -> Tensor:
        """Return, over ``gain``, what ``forward`` gives for ``x * gain / weight_gain``."""
        return self._convolved(x, self.weight, self.bias_gain / gain)

    def _convolved(self, x: Tensor, weight: Tensor, bias_gain: float) -> Tensor:
        stride = 1
        if self.blur is not None:
            x, stride = self.blur(x), 2
        if self.bias is None:
            return F.conv2d(x, weight, stride=stride, padding=self.padding)
        return activate(F.conv2d(x, weight, self.bias * bias_gain, stride=stride, padding=self.padding))


class DiscriminatorBlock(nn.Module):
    """Residual block that halves the resolution; the first one also reads the image."""

    def __init__(self, spec: StyleGAN2Spec, resolution: int) -> None:
        super().__init__()
        inner, out = spec.width(resolution), spec.width(resolution // 2)
        self.fromrgb = Conv(spec.channels, inner, 1) if resolution == spec.resolution else None
        self.conv0 = Conv(inner, inner, 3)
        self.conv1 = Conv(inner, out, 3, down=True, gain=RESIDUAL_GAIN)
        self.skip = Conv(inner, out, 1, gain=RESIDUAL_GAIN, linear=True)
        self.down = BlurDown(inner)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (or, in the first block, the image) [N, I, H, W] to [N, O, H / 2, W / 2]."""
        if self.fromrgb is not None:
            x = self.fromrgb(x).contiguous(memory_format=torch.channels_last)
        shortcut = self.skip(self.down(x))
        if compute_dtype(x) is torch.float16:  # too small a range for what has no gain yet
            return cast(Tensor, shortcut.add_(self.conv1(self.conv0(x))))
        gain = self.conv0.weight_gain * self.conv1.weight_gain
        residual = self.conv1.ungained(self.conv0.ungained(x, self.conv0.weight_gain), gain)
        return cast(Tensor, shortcut.add_(residual, alpha=gain))


def minibatch_stddev(x: Tensor, group: int, split: int = 1) -> Tensor:
    """Append a map with the mean standard deviation over a group of images (Karras et al. 2018, section 3).

    In a part of P images, those at i, i + P/G, i + 2P/G, ... form a group of G: the layout that the public
    checkpoints were trained with. If ``group`` does not divide P, the largest smaller divisor is taken.
    A batch that is cut over workers counts as a whole.

    Args:
        x: Features [N, C, H, W].
        group: Images in a group.
        split: Number of equal parts, one behind the other, that no group may straddle.

    Returns:
        [N, C + 1, H, W].

    Raises:
        ValueError: ``split`` does not divide N.
    """
    if len(x) % split:
        raise ValueError(f"mbstd_split {split} does not divide the batch of {len(x)}")
    everyone = gathered(x, split)
    n, channels, height, width = everyone.shape
    part = n // split
    size = next(g for g in range(min(group, part), 0, -1) if part % g == 0)
    grouped = everyone.reshape(split, size, part // size, channels, height, width)
    variance = (grouped - grouped.mean(dim=1, keepdim=True)).square().mean(dim=1)
    stddev = (variance + MBSTD_EPS).sqrt().mean(dim=(2, 3, 4))
    per_image = stddev[:, None, :].expand(split, size, part // size).reshape(n, 1, 1, 1)
    return torch.cat([x, own(per_image, split).expand(len(x), 1, height, width)], dim=1)


class Epilogue(nn.Module):
    """The 4x4 block, in float32: minibatch standard deviation, a convolution and two linear layers."""

    def __init__(self, spec: StyleGAN2Spec) -> None:
        super().__init__()
        width = spec.width(4)
        self.mbstd_group = spec.mbstd_group
        self.conv = Conv(width + 1, width, 3)
        self.fc = FullyConnected(width * 16, width, activation=True)
        self.out = FullyConnected(width, width if spec.classes else 1)

    def forward(self, x: Tensor, mbstd_split: int = 1) -> Tensor:
        """Map ``x`` [N, C, 4, 4] to the features [N, C] that ``out`` takes."""
        with full_precision(x):
            gain = self.conv.weight_gain
            x = minibatch_stddev(at_least_float32(x), self.mbstd_group, mbstd_split)
            return cast(Tensor, self.fc(self.conv.ungained(x, gain).flatten(1) * gain))


class StyleGAN2Discriminator(Discriminator):
    """Residual discriminator (Karras et al. 2020, figure 7): blocks ``b{R}, ..., b8, b4``."""

    spec: StyleGAN2Spec

    def __init__(self, spec: StyleGAN2Spec) -> None:
        super().__init__()
        self.spec = spec
        for resolution in reversed(spec.block_resolutions[1:]):
            self.add_module(f"b{resolution}", DiscriminatorBlock(spec, resolution))
        self.b4 = Epilogue(spec)
        if spec.classes:
            self.mapping = LabelMapping(spec, spec.width(4))

    def features(self, img: Tensor, mbstd_split: int = 1) -> Tensor:
        """Map images [N, channels, R, R] to the float32 input [N, width(4)] of the last linear layer.

        Raises:
            ValueError: The images have the wrong shape or ``mbstd_split`` does not divide N.
        """
        expected = (self.spec.channels, self.spec.resolution, self.spec.resolution)
        if img.ndim != 4 or img.shape[1:] != expected:
            raise ValueError(
                f"images of shape {tuple(img.shape)}: expected [N, {', '.join(map(str, expected))}]"
            )
        x = img.contiguous(memory_format=torch.channels_last)
        for resolution in reversed(self.spec.block_resolutions[1:]):
            x = cast(DiscriminatorBlock, getattr(self, f"b{resolution}"))(x)
        return cast(Tensor, self.b4(x, mbstd_split))

    def logits(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map :meth:`features` [N, F] (and class ids [N]) to float32 logits [N, 1]."""
        with full_precision(features):
            out = cast(Tensor, self.b4.out(features))
            if self.spec.classes:
                out = (out * self.mapping(labels)).sum(dim=1, keepdim=True) / math.sqrt(out.shape[1])
        return out

    def forward(self, img: Tensor, labels: Tensor | None = None, mbstd_split: int = 1) -> Tensor:
        """Map images [N, channels, R, R] (and class ids [N]) to float32 logits [N, 1]."""
        return self.logits(self.features(img, mbstd_split), labels)
