"""The StyleGAN2 generator: mapping, modulated convolutions, skip connections to RGB."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftgan.gans.base import NoiseMode, StyledGenerator
from graftgan.gans.stylegan2.layers import (
    ACT_GAIN,
    Blur,
    FullyConnected,
    activate,
    at_least_float32,
    compute_dtype,
    full_precision,
    upsample_image,
)
from graftgan.gans.stylegan2.mapping import Mapping
from graftgan.gans.stylegan2.spec import StyleGAN2Spec
from graftgan.world import normal

DEMOD_EPS = 1e-8


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, demodulation, noise, bias, leaky ReLU (Karras et al. 2020, section 2.2).

    Scaling the weights of each image by its style, ``w'_oik = s_i w_oik``, equals scaling the input channels;
    the demodulation ``rsqrt(sum_ik w'_oik^2 + eps)`` scales output channels. So one dense convolution serves
    the whole batch.

    Args:
        in_channels: Feature maps in.
        out_channels: Feature maps out.
        w_dim: Length of w.
        resolution: Side of the output in pixels.
        up: Whether the layer doubles the size (transposed convolution, then the filter [1, 3, 3, 1]).
        noise: Whether noise is added; without it the strength stays at 0, where every layout can hold it.

    Attributes:
        transposed: Whether the convolution reads the weight [O, I, 3, 3] as [I, O, 3, 3].
    """

    noise_const: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        up: bool = False,
        noise: bool = True,
    ) -> None:
        super().__init__()
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.blur = Blur(out_channels, padding=1, gain=4.0) if up else None
        self.noise = noise
        self.transposed = up

    def forward(self, x: Tensor, w: Tensor, noise_mode: NoiseMode = "random") -> Tensor:
        """Map ``x`` [N, I, H, W] with ``w`` [N, w_dim] to [N, O, R, R]."""
        style, demod, weight = self._modulation(w, compute_dtype(x))
        x = x * style
        if self.blur is None:
            x = F.conv2d(x, weight, padding=1)
        else:
            x = self.blur(F.conv_transpose2d(x, weight, stride=2))
        x = x * demod
        if self.noise and noise_mode != "none":
            x.add_(self._noise(x, noise_mode))
        return activate(x.add_((self.bias * ACT_GAIN).to(x.dtype)[:, None, None]))

    def _modulation(self, w: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return scales of the input [N, I, 1, 1] and output [N, O, 1, 1], and the weight as it is read."""
        weight: Tensor = self.weight
        with full_precision(w):
            style = self.affine(w)
            if dtype is torch.float16:
                # The scales of style and weight cancel in the product; at 1 nothing overflows.
                style = style / style.abs().amax(dim=1, keepdim=True).clamp_min(DEMOD_EPS)
                weight = weight / math.sqrt(weight[0].numel())
            if self.transposed:
                # Sums in the order of memory, so that their gradient comes in it, too.
                weight = weight.transpose(0, 1)
                energy = weight.square().sum(dim=(2, 3))
            else:
                energy = weight.square().sum(dim=(2, 3)).t()
            demod = (style.square() @ energy + DEMOD_EPS).rsqrt() * ACT_GAIN
        return style.to(dtype)[:, :, None, None], demod.to(dtype)[:, :, None, None], weight

    def _noise(self, x: Tensor, noise_mode: NoiseMode) -> Tensor:
        if noise_mode == "const":
            noise = self.noise_const
        else:
            noise = normal((x.shape[0], 1, *x.shape[2:]), None, x.device)
        return (noise * (self.noise_strength * ACT_GAIN)).to(x.dtype)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to image channels, without demodulation (Karras et al. 2020, figure 7)."""

    def __init__(self, in_channels: int, w_dim: int, channels: int) -> None:
        super().__init__()
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Map ``x`` [N, I, H, W] with ``w`` [N, w_dim] to a float32 image [N, channels, H, W]."""
        n, _, height, width = x.shape
        with full_precision(w):
            style = self.affine(w) * self.weight_gain
            kernel = style[:, :, None] * self.weight[None, :, :, 0, 0].transpose(1, 2)
        # As a convolution to three maps the weight gradient is very slow in channels_last.
        pixels = torch.bmm(x.permute(0, 2, 3, 1).reshape(n, height * width, -1), kernel.to(x.dtype))
        img = pixels.reshape(n, height, width, -1).permute(0, 3, 1, 2)
        return at_least_float32(img) + self.bias[:, None, None]


class SynthesisBlock(nn.Module):
    """All layers of one resolution; the 4x4 block starts from a learnt constant."""

    def __init__(self, spec: StyleGAN2Spec, resolution: int) -> None:
        super().__init__()
        out, w_dim = spec.width(resolution), spec.w_dim
        self.first = resolution == 4
        if self.first:
            self.const = nn.Parameter(torch.randn(out, 4, 4))
        else:
            before = spec.width(resolution // 2)
            self.conv0 = SynthesisLayer(before, out, w_dim, resolution, up=True, noise=spec.noise)
        self.conv1 = SynthesisLayer(out, out, w_dim, resolution, noise=spec.noise)
        self.torgb = ToRGB(out, w_dim, spec.channels)

    def forward(
        self, x: Tensor | None, img: Tensor | None, ws: list[Tensor], noise_mode: NoiseMode
    ) -> tuple[Tensor, Tensor]:
        """Take features and image at half the size (None in the 4x4 block), return both at this size."""
        if x is None or img is None:
            n = ws[0].shape[0]
            x = self.const.to(compute_dtype(self.const)).expand(n, -1, -1, -1)
            x = self.conv1(x.contiguous(memory_format=torch.channels_last), ws[0], noise_mode)
            return x, self.torgb(x, ws[1])
        x = self.conv0(x, ws[0], noise_mode)
        x = self.conv1(x, ws[1], noise_mode)
        return x, upsample_image(img) + self.torgb(x, ws[2])


class Synthesis(nn.Module):
    """Styles to an image: blocks ``b4, b8, ...``."""

    def __init__(self, spec: StyleGAN2Spec) -> None:
        super().__init__()
        self.spec = spec
        for resolution in spec.block_resolutions:
            self.add_module(f"b{resolution}", SynthesisBlock(spec, resolution))

    def forward(self, ws: Tensor, noise_mode: NoiseMode = "random") -> Tensor:
        """Map ``ws`` [N, num_ws, w_dim] to float32 images [N, channels, R, R].

        Args:
            ws: One w for each convolution and one for the last RGB layer. The RGB layer of a block shares
                its w with the first convolution of the next.
            noise_mode: ``random`` draws noise anew, ``const`` uses the stored noise, ``none`` leaves it out.

        Raises:
            ValueError: ``ws`` has the wrong shape.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.spec.num_ws, self.spec.w_dim):
            raise ValueError(
                f"ws of shape {tuple(ws.shape)}: expected [N, {self.spec.num_ws}, {self.spec.w_dim}]"
            )
        styles = list(ws.unbind(dim=1))
        x: Tensor | None = None
        img: Tensor | None = None
        index = 0
        for resolution in self.spec.block_resolutions:
            block = cast(SynthesisBlock, getattr(self, f"b{resolution}"))
            x, img = block(x, img, styles[index : index + 3], noise_mode)
            index += 1 if block.first else 2
        return cast(Tensor, img)


class StyleGAN2Generator(StyledGenerator):
    """Mapping and synthesis networks (Karras et al. 2020)."""

    spec: StyleGAN2Spec

    def __init__(self, spec: StyleGAN2Spec) -> None:
        super().__init__()
        self.spec = spec
        self.mapping = Mapping(spec)
        self.synthesis = Synthesis(spec)
