"""Layers and filters that the generator and the discriminator share.

Activations are channels_last: the CPU kernels are two to ten times faster there at these channel counts, and
the half-precision CUDA kernels prefer it too.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LRELU_SLOPE = 0.2
ACT_GAIN = math.sqrt(2)
FP16_CLAMP = 256.0


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast is off for the device of ``x``."""
    if x.device.type == "meta" or not torch.is_autocast_enabled(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """Widen half precision to float32 and leave the rest, so that float64 checks stay exact."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that convolutions of ``x`` run in: autocast's where it is on, else that of ``x``."""
    if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def activate(x: Tensor) -> Tensor:
    """Apply leaky ReLU in place, without its gain sqrt(2), which callers fold into weight and bias.

    float16 values are then limited to +-256, as its range is too small for rare large activations
    (Karras et al. 2020a, "Training generative adversarial networks with limited data", appendix D).
    """
    x = F.leaky_relu(x, LRELU_SLOPE, inplace=True)
    return x.clamp(-FP16_CLAMP, FP16_CLAMP) if x.dtype is torch.float16 else x


def normalise_second_moment(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Scale each row of ``x`` [N, F] to unit root mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


class FullyConnected(nn.Module):
    """Linear layer with equalised learning rate (Karras et al. 2018, section 4.1).

    Computes ``x @ (W * lr_multiplier / sqrt(in_features))^T + b * lr_multiplier``.

    Args:
        in_features: Length of a row of the input.
        out_features: Length of a row of the output.
        lr_multiplier: Learning rate relative to the rest of the network; weights start at 1 / lr_multiplier.
        bias_init: Initial bias before scaling.
        activation: Whether leaky ReLU with gain sqrt(2) follows.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
        activation: bool = False,
    ) -> None:
        super().__init__()
        gain = lr_multiplier * (ACT_GAIN if activation else 1.0)
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init))
        self.weight_gain = gain / math.sqrt(in_features)
        self.bias_gain = gain
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, in_features] to [N, out_features]."""
        y = torch.addmm(self.bias, x, self.weight.t(), beta=self.bias_gain, alpha=self.weight_gain)
        return activate(y) if self.activation else y


class Blur(nn.Module):
    """The filter [1, 3, 3, 1] along both axes as a depthwise convolution.

    Args:
        channels: Feature maps.
        padding: Zeros on every side.
        gain: Sum of the filter.
    """

    kernel: Tensor

    def __init__(self, channels: int, padding: int, gain: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("kernel", _depthwise_kernel((1, 3, 3, 1), channels) * gain, persistent=False)
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Filter ``x`` [N, C, H, W] to [N, C, H + 2 * padding - 3, W + 2 * padding - 3]."""
        return F.conv2d(x, self.kernel, padding=self.padding, groups=x.shape[1])


class BlurDown(nn.Module):
    """The filter [1, 3, 3, 1] / 8 along both axes at every second pixel: halves height and width."""

    kernel: Tensor
    kernel_bf16: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("kernel", _depthwise_kernel((1, 3, 3, 1), channels), persistent=False)
        self.register_buffer("kernel_bf16", _depthwise_kernel((1, 2, 1), channels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Filter ``x`` [N, C, H, W] to [N, C, H / 2, W / 2]."""
        if x.dtype is torch.bfloat16 and x.device.type == "cpu":
            # The same filter in two steps: a strided depthwise convolution has a 9-20 times slower backward.
            return F.avg_pool2d(F.conv2d(x, self.kernel_bf16, padding=1, groups=x.shape[1]), 2)
        return F.conv2d(x, self.kernel, stride=2, padding=1, groups=x.shape[1])


def upsample_image(img: Tensor) -> Tensor:
    """Double the size of ``img`` [N, C, H, W]: zero insertion, then [1, 3, 3, 1] / 4 along both axes.

    Bilinear interpolation has these taps; the border of zeros keeps it exact at the edges, where it clamps.
    """
    padded = F.pad(img, (1, 1, 1, 1))
    return F.interpolate(padded, scale_factor=2, mode="bilinear", align_corners=False)[:, :, 2:-2, 2:-2]


def _depthwise_kernel(taps: tuple[int, ...], channels: int) -> Tensor:
    row = torch.tensor(taps, dtype=torch.float32)
    kernel = torch.outer(row, row) / sum(taps) ** 2
    return kernel.expand(channels, 1, -1, -1).contiguous()
