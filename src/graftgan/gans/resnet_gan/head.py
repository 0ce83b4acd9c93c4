"""The small generator head of Zhao, Cong, Carin 2020 (arXiv:2002.11810), for a residual GAN's low blocks.

Names are those of the published code without their prefix: ``mapping``, ``fc``, ``net_2``, ``net_3``, ...,
``norm``. Kernels, gains and initial values follow that code.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftgan.gans.base import NoiseMode
from graftgan.gans.resnet_gan.layers import BRANCH_GAIN, activate
from graftgan.gans.stylegan2.layers import at_least_float32, full_precision, normalise_second_moment
from graftgan.world import normal

STYLE_DIM = 256
MAPPING_LAYERS = 8
LINEAR_STD = 0.1
NOISE_STD = 0.1
SCALE_MEAN = 1000.0


def _linear(in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    nn.init.normal_(layer.weight, std=LINEAR_STD)
    nn.init.zeros_(layer.bias)
    return layer


class Mapping(nn.Module):
    """Latents, scaled to unit root mean square, to styles by linear layers with leaky ReLU."""

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        widths = [z_dim, *[STYLE_DIM] * MAPPING_LAYERS]
        self.layers = nn.ModuleList(_linear(a, b) for a, b in pairwise(widths))

    def forward(self, z: Tensor) -> Tensor:
        """Map ``z`` [N, z_dim] to styles [N, 256] in float32."""
        with full_precision(z):
            w = normalise_second_moment(z)
            for layer in self.layers:
                w = activate(layer(w))
            return w


def scale_capped(x: Tensor, gamma: Tensor) -> Tensor:
    """Return ``gamma * x``, whose gradient for ``x`` is at most the one above, and whole for gamma."""
    capped = gamma.clamp(-1, 1)
    return capped * x + x.detach() * (gamma - capped)


class AdaIN(nn.Module):
    """Instance norm without affine, then a scale and a shift made from the style."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = _linear(STYLE_DIM, 2 * channels)
        with torch.no_grad():
            self.linear.bias[:channels].fill_(1)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Map ``x`` [N, C, H, W] with styles ``w`` [N, 256] to the same shape."""
        with full_precision(w):
            gamma, beta = self.linear(w)[:, :, None, None].chunk(2, dim=1)
            shifted: Tensor = scale_capped(F.instance_norm(at_least_float32(x)), gamma) + beta
            return shifted


class Noise(nn.Module):
    """Adds one map of noise, times a strength for each channel."""

    const: Tensor

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(NOISE_STD * torch.randn(channels))
        self.register_buffer("const", torch.randn(side, side))

    def forward(self, x: Tensor, noise_mode: NoiseMode) -> Tensor:
        """Map ``x`` [N, C, H, W] to the same shape."""
        if noise_mode == "none":
            return x
        shape = (x.shape[0], 1, *x.shape[2:])
        noise = self.const if noise_mode == "const" else normal(shape, None, x.device)
        return x + (noise * self.strength[:, None, None]).to(x.dtype)


class StyleBlock(nn.Module):
    """Residual block that doubles the size, with noise and AdaIN on its branch.

    Args:
        channels: Feature maps in and out.
        side: Side of the output in pixels.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.conv_s = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False)
        self.conv_0 = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(cast(Tensor, self.conv_1.bias))
        self.noise_0, self.noise_1 = Noise(channels, side), Noise(channels, side)
        self.adain_0, self.adain_1 = AdaIN(channels), AdaIN(channels)

    def forward(self, x: Tensor, w: Tensor, noise_mode: NoiseMode) -> Tensor:
        """Map ``x`` [N, C, H, W] with styles ``w`` [N, 256] to [N, C, 2 H, 2 W]."""
        u = self.noise_0(self.conv_0(activate(x)), noise_mode)
        u = self.conv_1(activate(self.adain_0(u, w)))
        u = self.adain_1(self.noise_1(u, noise_mode), w)
        return cast(Tensor, self.conv_s(x) + BRANCH_GAIN * u)


class HeadNorm(nn.Module):
    """Brings each map to the mean and deviation that the blocks behind it expect.

    Computes ``gain * n + sg(n) * a_c + b_c``, ``n`` being the layer norm of each channel's map with one
    affine map for all channels, ``sg`` a stop of gradients: what the fixed blocks send back reaches the head
    times ``gain`` only.

    Args:
        channels: Feature maps.
        side: Their side in pixels.
        grad_gain: The factor on gradients.
    """

    def __init__(self, channels: int, side: int, grad_gain: float) -> None:
        super().__init__()
        self.grad_gain = grad_gain
        self.weight = nn.Parameter(torch.ones(side, side))
        self.bias = nn.Parameter(torch.zeros(side, side))
        self.scale = nn.Parameter(SCALE_MEAN + torch.randn(channels))
        self.shift = nn.Parameter(torch.randn(channels))

    @torch.no_grad()
    def calibrate(self, mean: Tensor, deviation: Tensor) -> None:
        """Take means [C] and deviations [C] of the features that were at the cut."""
        self.scale.copy_(deviation)
        self.shift.copy_(mean)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, C, H, W] to the same shape in float32."""
        with full_precision(x):
            n = F.layer_norm(at_least_float32(x), self.weight.shape, self.weight, self.bias)
            return self.grad_gain * n + n.detach() * self.scale[:, None, None] + self.shift[:, None, None]


class SmallHead(nn.Module):
    """Latents to the feature maps in front of a residual GAN's low-level blocks.

    Args:
        z_dim: Length of the latent.
        channels: Feature maps that the blocks take.
        base: Side of the first maps in pixels.
        side: Side of the maps that come out, `base` times a power of two.
        grad_gain: Factor on the gradients that reach the head.
    """

    def __init__(self, z_dim: int, channels: int, base: int, side: int, grad_gain: float) -> None:
        super().__init__()
        self.channels, self.base = channels, base
        self.mapping = Mapping(z_dim)
        self.fc = nn.Linear(z_dim, channels * base**2)
        sides = [base << power for power in range(1, (side // base).bit_length())]
        self.names = [f"net_{number}" for number in range(2, 2 + len(sides))]
        for name, reached in zip(self.names, sides, strict=True):
            self.add_module(name, StyleBlock(channels, reached))
        self.norm = HeadNorm(channels, side, grad_gain)

    def forward(self, z: Tensor, noise_mode: NoiseMode = "random") -> Tensor:
        """Map ``z`` [N, z_dim] to features [N, C, side, side] in float32."""
        w = self.mapping(z)
        x = self.fc(z).reshape(-1, self.channels, self.base, self.base)
        for name in self.names:
            x = getattr(self, name)(x, w, noise_mode)
        return cast(Tensor, self.norm(x))
