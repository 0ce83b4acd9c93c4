"""Low-pass filters, and the leaky ReLU that is applied between two of them."""

from __future__ import annotations

import math

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from graftgan.gans.stylegan2.layers import ACT_GAIN, LRELU_SLOPE

CLAMP = 256.0
BESSEL_NODES = 64


def kaiser_beta(taps: int, width: float) -> float:
    """Return the shape of the Kaiser window for a transition band.

    Kaiser's formulas (Kaiser 1974; Karras et al. 2021, appendix): the attenuation is
    ``A = 2.285 (taps - 1) pi width + 7.95`` dB and beta is fitted to it in three ranges.

    Args:
        taps: Length of the filter.
        width: Width of the transition band relative to the Nyquist frequency.
    """
    attenuation = 2.285 * (taps - 1) * math.pi * width + 7.95
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * math.pow(attenuation - 21, 0.4) + 0.07886 * (attenuation - 21)
    return 0.0


def bessel_j1(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Bessel function of the first kind and order 1, to float64 rounding for ``|x| < 60``.

    Bessel's integral ``J1(x) = 1/pi int_0^pi cos(t - x sin t) dt`` by the midpoint rule, which converges
    faster than any power for a periodic integrand. torch's own function is exact to 1e-6 only.
    """
    nodes = (np.arange(BESSEL_NODES) + 0.5) * np.pi / BESSEL_NODES
    return np.asarray(np.cos(nodes - x[..., None] * np.sin(nodes)).mean(axis=-1), np.float64)


def low_pass(taps: int, cutoff: float, width: float, rate: float) -> NDArray[np.float64]:
    """Return a Kaiser-windowed sinc filter [taps] of sum 1.

    Args:
        taps: Length of the filter.
        cutoff: Cutoff frequency, in the unit of ``rate``.
        width: Width of the transition band.
        rate: Sampling rate at which the filter runs.
    """
    places = (np.arange(taps) - (taps - 1) / 2) / rate
    kernel = np.sinc(2 * cutoff * places) * np.kaiser(taps, kaiser_beta(taps, 2 * width / rate))
    return np.asarray(kernel / kernel.sum(), np.float64)


def radial_low_pass(taps: int, cutoff: float, width: float, rate: float) -> NDArray[np.float64]:
    """Return a radially symmetric filter [taps, taps] of sum 1 (Karras et al. 2021, section 3.2, config R).

    The ideal disc-shaped pass band has the jinc ``J1(2 pi cutoff r) / (pi r)`` as its response; the window is
    the product of a Kaiser window along each axis.

    Args:
        taps: Length of a side, an even number.
        cutoff: Cutoff frequency, in the unit of ``rate``.
        width: Width of the transition band.
        rate: Sampling rate at which the filter runs.
    """
    places = (np.arange(taps) - (taps - 1) / 2) / rate
    radius = np.hypot(*np.meshgrid(places, places))
    jinc = bessel_j1(2 * np.pi * cutoff * radius) / (np.pi * radius)
    window = np.kaiser(taps, kaiser_beta(taps, 2 * width / rate))
    kernel = jinc * np.outer(window, window)
    return np.asarray(kernel / kernel.sum(), np.float64)


def upsample(x: Tensor, taps: Tensor, factor: int, border: int) -> Tensor:
    """Insert zeros, then filter along both axes with gain ``factor ** 2``.

    Args:
        x: Feature maps [N, C, H, W].
        taps: Filter [T].
        factor: How many samples each becomes along an axis.
        border: Zeros to add on every side of the full response; a negative number cuts off.

    Returns:
        [N, C, H', W'] with ``H' = (H - 1) * factor + T + 2 * border``.
    """
    channels, crop = _channels(x), max(-border, 0)
    kernel = (taps * factor).to(x.dtype).expand(channels, 1, 1, -1)
    x = F.conv_transpose2d(x, kernel.transpose(2, 3), stride=(factor, 1), padding=(crop, 0), groups=channels)
    x = F.conv_transpose2d(x, kernel, stride=(1, factor), padding=(0, crop), groups=channels)
    return F.pad(x, [border] * 4) if border > 0 else x


def downsample(x: Tensor, taps: Tensor, factor: int, gain: float = 1.0) -> Tensor:
    """Filter ``x`` [N, C, H, W] without padding and keep every ``factor``-th sample.

    Args:
        x: Feature maps.
        taps: Filter [T], applied along both axes, or [T, T].
        factor: How many samples become one along an axis.
        gain: Factor on the output.
    """
    channels = _channels(x)
    if taps.ndim == 2:
        kernel = (taps * gain).to(x.dtype).expand(channels, 1, -1, -1)
        return F.conv2d(x, kernel, stride=factor, groups=channels)
    kernel = (taps * math.sqrt(gain)).to(x.dtype).expand(channels, 1, 1, -1)
    x = F.conv2d(x, kernel.transpose(2, 3), stride=(factor, 1), groups=channels)
    return F.conv2d(x, kernel, stride=(1, factor), groups=channels)


def filtered_lrelu(
    x: Tensor, up_filter: Tensor, down_filter: Tensor, up: int, down: int, border: int
) -> Tensor:
    """Apply leaky ReLU to a signal rather than to its samples (Karras et al. 2021, section 3.2, figure 4a).

    The signal is upsampled, so that the frequencies which the nonlinearity adds do not fold back, then
    ``clamp(sqrt(2) * lrelu(x), +-256)``, then filtered and sampled at the layer's output rate.

    Args:
        x: Feature maps [N, C, H, W].
        up_filter: Upsampling filter [T].
        down_filter: Downsampling filter [T] or [T, T].
        up: Upsampling factor.
        down: Downsampling factor.
        border: See :func:`upsample`.
    """
    x = upsample(x, up_filter, up, border)
    limit = CLAMP / ACT_GAIN
    x = F.leaky_relu(x, LRELU_SLOPE, inplace=True).clamp(-limit, limit)
    return downsample(x, down_filter, down, gain=ACT_GAIN)


def _channels(x: Tensor) -> int:
    # While a graph is traced for export, sizes are tensors, and exporters need kernels of known shape.
    return int(x.shape[1])
