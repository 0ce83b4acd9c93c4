"""The StyleGAN3 generator: Fourier features, modulated convolutions, filtered nonlinearities."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftgan.gans.base import NoiseMode, StyledGenerator
from graftgan.gans.stylegan2.layers import FullyConnected, at_least_float32, compute_dtype, full_precision
from graftgan.gans.stylegan2.mapping import Mapping as StyleGAN2Mapping
from graftgan.gans.stylegan3.filters import CLAMP, filtered_lrelu, low_pass, radial_low_pass
from graftgan.gans.stylegan3.spec import LayerShape, Signal, StyleGAN3Spec
from graftgan.world import averaged

DEMOD_EPS = 1e-8
MAGNITUDE_BETA = 0.999
OUTPUT_SCALE = 0.25


class Mapping(StyleGAN2Mapping):
    """StyleGAN2's mapping network, with as many w as this synthesis network takes."""

    def __init__(self, spec: StyleGAN3Spec) -> None:
        super().__init__(spec.discriminator())
        self.num_ws = spec.num_ws


class FourierInput(nn.Module):
    """Fourier features of the picture plane, moved and turned by w (section 3).

    Frequencies lie uniformly in the disc of radius ``cutoff``. w gives a rotation and a translation; the
    buffer ``transform`` [3, 3] multiplies it from the right, for moving the picture from outside.

    Args:
        signal: Sampling of the features.
        w_dim: Length of w.
    """

    freqs: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, signal: Signal, w_dim: int) -> None:
        super().__init__()
        self.signal = signal
        channels = signal.channels
        angle, radius = 2 * math.pi * torch.rand(channels), signal.cutoff * torch.rand(channels).sqrt()
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine = FullyConnected(w_dim, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias[0] = 1
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1))
        self.register_buffer("phases", torch.rand(channels) - 0.5)

    def forward(self, w: Tensor) -> Tensor:
        """Map ``w`` [N, w_dim] to features [N, C, size, size] in float32."""
        with full_precision(w):
            motion = self._motion(w)
            freqs = self.freqs @ motion[:, :, :2]
            phases = self.phases + (self.freqs @ motion[:, :, 2:]).squeeze(2)
            turns = self._grid() @ freqs.transpose(1, 2) + phases[:, None]
            waves = torch.sin(2 * math.pi * turns) * self._amplitudes(freqs)[:, None]
            features = waves @ (self.weight / math.sqrt(self.signal.channels)).t()
        size = self.signal.size
        return features.reshape(-1, size, size, self.signal.channels).permute(0, 3, 1, 2)

    def _motion(self, w: Tensor) -> Tensor:
        """Return rotation and, in the last column, translation [N, 2, 3] of the picture plane."""
        affine = self.affine(w)
        cos, sin, right, down = (affine / affine[:, :2].norm(dim=1, keepdim=True)).unbind(dim=1)
        rows = [cos, -sin, sin * down - cos * right, sin, cos, -sin * right - cos * down]
        return torch.stack(rows, dim=1).reshape(-1, 2, 3) @ self.transform

    def _grid(self) -> Tensor:
        """Return places (x, y) [size * size, 2] of the samples; the picture spans -0.5 to 0.5."""
        size = self.signal.size
        steps = torch.arange(size, device=self.freqs.device, dtype=self.freqs.dtype)
        places = (steps - (size - 1) / 2) / self.signal.rate
        return torch.stack([places.repeat(size), places.repeat_interleave(size)], dim=1)

    def _amplitudes(self, freqs: Tensor) -> Tensor:
        """Fade out frequencies [N, C, 2] that a scaling ``transform`` pushed beyond the band."""
        excess = freqs.norm(dim=2) - self.signal.cutoff
        loudness: Tensor = (1 - excess / (self.signal.rate / 2 - self.signal.cutoff)).clamp(0, 1)
        return loudness


class SynthesisLayer(nn.Module):
    """Modulated convolution, bias, filtered leaky ReLU (section 3.2).

    Weights are first scaled to unit root mean square per output, styles to unit root mean square over the
    batch; the input is divided by the root of its tracked mean square, ``magnitude_ema``.

    Args:
        shape: Sampling before and after.
        w_dim: Length of w.

    Attributes:
        frozen: Keep the mean square as it is in training too, for a layer that neither moves nor stands
            behind one that does.
    """

    magnitude_ema: Tensor
    up_filter: Tensor
    down_filter: Tensor

    def __init__(self, shape: LayerShape, w_dim: int) -> None:
        super().__init__()
        self.shape = shape
        source, target = shape.source, shape.target
        self.affine = FullyConnected(w_dim, source.channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(target.channels, source.channels, shape.kernel, shape.kernel))
        self.bias = nn.Parameter(torch.zeros(target.channels))
        self.frozen = False
        self.register_buffer("magnitude_ema", torch.ones(()))
        if shape.to_rgb:
            return
        up = low_pass(shape.up_taps, source.cutoff, 2 * source.half_width, shape.inner_rate)
        design = radial_low_pass if shape.radial else low_pass
        down = design(shape.down_taps, target.cutoff, 2 * target.half_width, shape.inner_rate)
        self.register_buffer("up_filter", torch.tensor(up, dtype=torch.float32))
        self.register_buffer("down_filter", torch.tensor(down, dtype=torch.float32))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Map ``x`` [N, I, size, size] with ``w`` [N, w_dim] to the layer's output signal."""
        if self.training and not self.frozen:
            self._follow(x)
        with full_precision(w):
            style, weight, scale = self._to_rgb(w) if self.shape.to_rgb else self._modulation(w)
            style = style * self.magnitude_ema.rsqrt()
        dtype = compute_dtype(x)
        x = F.conv2d(x.to(dtype) * style.to(dtype)[:, :, None, None], weight, padding=self.shape.kernel - 1)
        if scale is not None:
            x = x * scale.to(dtype)[:, :, None, None]
        x = x + self.bias.to(dtype)[:, None, None]
        if self.shape.to_rgb:
            return x.clamp(-CLAMP, CLAMP)
        return filtered_lrelu(
            x, self.up_filter, self.down_filter, self.shape.up, self.shape.down, self.shape.border
        )

    def _modulation(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return scales of the input [N, I], the weight, and scales of the output [N, O].

        Scaling weights by style and demodulating them equals scaling the channels before and after one
        convolution of the whole batch. The weight's unit root mean square is split into unit norm here and
        the rest in the output's scale, which keeps half precision in range.
        """
        fan_in = self.weight[0].numel()
        weight = self.weight * self.weight.square().sum(dim=(1, 2, 3), keepdim=True).rsqrt()
        style = self.affine(w)
        style = style * averaged(style.square().mean()).rsqrt()
        energy = style.square() @ weight.square().sum(dim=(2, 3)).t()
        return style, weight, (energy + DEMOD_EPS / fan_in).rsqrt()

    def _to_rgb(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.affine(w) / math.sqrt(self.weight[0].numel()), self.weight, None

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        self.magnitude_ema.lerp_(averaged(at_least_float32(x).square().mean()), 1 - MAGNITUDE_BETA)


class Synthesis(nn.Module):
    """Styles to an image: ``input``, then layers ``L{index}_{size}_{channels}``."""

    def __init__(self, spec: StyleGAN3Spec) -> None:
        super().__init__()
        self.spec = spec
        self.input = FourierInput(spec.signals[0], spec.w_dim)
        self.layer_names = [shape.name for shape in spec.layers]
        for shape in spec.layers:
            self.add_module(shape.name, SynthesisLayer(shape, spec.w_dim))

    def forward(self, ws: Tensor, noise_mode: NoiseMode = "random") -> Tensor:
        """Map ``ws`` [N, num_ws, w_dim] to float32 images [N, channels, R, R].

        Args:
            ws: One w for the input and one for each layer.
            noise_mode: Has no effect: this network adds no noise.

        Raises:
            ValueError: ``ws`` has the wrong shape.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.spec.num_ws, self.spec.w_dim):
            raise ValueError(
                f"ws of shape {tuple(ws.shape)}: expected [N, {self.spec.num_ws}, {self.spec.w_dim}]"
            )
        first, *styles = ws.unbind(dim=1)
        x = self.input(first)
        for name, w in zip(self.layer_names, styles, strict=True):
            x = getattr(self, name)(x, w)
        return at_least_float32(x) * OUTPUT_SCALE


class StyleGAN3Generator(StyledGenerator):
    """Mapping and synthesis networks (Karras et al. 2021)."""

    spec: StyleGAN3Spec

    def __init__(self, spec: StyleGAN3Spec) -> None:
        super().__init__()
        self.spec = spec
        self.mapping = Mapping(spec)
        self.synthesis = Synthesis(spec)
