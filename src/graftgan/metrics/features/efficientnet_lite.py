"""EfficientNet-Lite0 as a feature network (Tan and Le 2019): ReLU6, no squeeze-and-excite.

Attribute names follow the key names of the published weight file, so that a strict load proves the structure.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_eval

from graftgan.metrics.features.clipped import clipped_conv2d, in_one_pass

DIM = 1280
_BN_EPS = 1e-3
# kernel, stride, expansion, channels in, channels out, repeats
_STAGES = (
    (3, 1, 1, 32, 16, 1),
    (3, 2, 6, 16, 24, 2),
    (5, 2, 6, 24, 40, 2),
    (3, 2, 6, 40, 80, 3),
    (5, 1, 6, 80, 112, 3),
    (5, 2, 6, 112, 192, 4),
    (3, 1, 6, 192, 320, 1),
)


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: the odd pixel goes to the right and to the bottom."""

    wide: Tensor | None

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.register_buffer("wide", None, persistent=False)

    def widen(self) -> None:
        """Keep the filters with a row and a column of zeros before them, for inference.

        With these as much padding goes on both sides, and the image need not be copied to pad it.
        """
        if self.stride != (1, 1):
            self.wide = F.pad(self.weight, (1, 0, 1, 0))

    def forward(self, x: Tensor) -> Tensor:
        x, weight, padding = self._padded(x)
        return F.conv2d(x, weight, self.bias, self.stride, padding, 1, self.groups)

    def relu6(self, x: Tensor) -> Tensor:
        """Same as ``relu6`` of the convolution."""
        x, weight, padding = self._padded(x)
        return clipped_conv2d(x, weight, self.bias, list(self.stride), padding, self.groups, most=6.0)

    def _padded(self, x: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """Return what is left to pad, the filters for it, and the zeros on each side."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:]]
        before = [pad // 2 for pad in pads]
        after = [pad - half for pad, half in zip(pads, before, strict=True)]
        if before == after:
            return x, self.weight, before
        if self.wide is not None and in_one_pass(x) and after == [half + 1 for half in before]:
            return x, self.wide, after
        return F.pad(x, (before[1], after[1], before[0], after[0])), self.weight, [0, 0]


def _norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=_BN_EPS)


class _Block(nn.Module):
    """Inverted residual: expand by 1x1, filter each channel, project by 1x1."""

    def __init__(self, kernel: int, stride: int, expansion: int, inputs: int, outputs: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.expands = expansion != 1
        self.adds_input = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = _SameConv(inputs, middle, 1)
            self._bn0 = _norm(middle)
        self._depthwise_conv = _SameConv(middle, middle, kernel, stride, groups=middle)
        self._bn1 = _norm(middle)
        self._project_conv = _SameConv(middle, outputs, 1)
        self._bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _unit(self._expand_conv, self._bn0, x) if self.expands else x
        y = _unit(self._depthwise_conv, self._bn1, y)
        y = self._bn2(self._project_conv(y))
        return y.add_(x) if self.adds_input else y

    def fold(self) -> None:
        """Merge each normalisation into the convolution before it."""
        if self.expands:
            self._expand_conv, self._bn0 = _folded(self._expand_conv, self._bn0)
        self._depthwise_conv, self._bn1 = _folded(self._depthwise_conv, self._bn1)
        self._project_conv, self._bn2 = _folded(self._project_conv, self._bn2)


class EfficientNetLite0(nn.Module):
    """Pooled features ``[N, 1280]`` of images ``[N, 3, px, px]`` given as ``(value - 127) / 128``."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, 2)
        self._bn0 = _norm(32)
        self._blocks = nn.ModuleList(
            _Block(
                kernel, stride if repeat == 0 else 1, expansion, inputs if repeat == 0 else outputs, outputs
            )
            for kernel, stride, expansion, inputs, outputs, repeats in _STAGES
            for repeat in range(repeats)
        )
        self._conv_head = _SameConv(320, DIM, 1)
        self._bn1 = _norm(DIM)
        self._fc = nn.Linear(DIM, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Global average of the head's activations; the classifier is loaded but not used."""
        x = _unit(self._conv_stem, self._bn0, x)
        for block in self._blocks:
            x = block(x)
        return _unit(self._conv_head, self._bn1, x).mean(dim=(2, 3))

    def folded(self) -> EfficientNetLite0:
        """Ready this network for inference, in place: no gradients, norms folded, channels last."""
        self.eval().requires_grad_(False)
        self._conv_stem, self._bn0 = _folded(self._conv_stem, self._bn0)
        self._conv_head, self._bn1 = _folded(self._conv_head, self._bn1)
        for block in self._blocks:
            block.fold()  # type: ignore[operator]
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _folded(convolution: _SameConv, norm: nn.Module) -> tuple[_SameConv, nn.Module]:
    assert isinstance(norm, nn.BatchNorm2d)
    merged = fuse_conv_bn_eval(convolution, norm)
    merged.widen()
    return merged, nn.Identity()


def _unit(convolution: _SameConv, norm: nn.Module, x: Tensor) -> Tensor:
    if isinstance(norm, nn.Identity):
        return convolution.relu6(x)
    return F.relu6(norm(convolution(x)), inplace=True)
