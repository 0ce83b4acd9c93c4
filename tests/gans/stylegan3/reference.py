"""StyleGAN3 as the paper writes it: float64, SciPy's filters, one kernel an image, zero insertion.

Nothing of the package's geometry is used: rates, sizes, filters and paddings are worked out here again.
"""

from __future__ import annotations

import numpy as np
import scipy.signal
import scipy.special
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from graftgan.gans.stylegan3 import StyleGAN3Spec
from tests.gans.stylegan2.reference import dense, mapping

State = dict[str, Tensor]
Array = NDArray[np.float64]

__all__ = ["bands", "generator", "jinc_filter", "mapping", "synthesis"]


def bands(spec: StyleGAN3Spec) -> dict[str, Array]:
    """Cutoff, stopband, rate, half-width, size and channels of every layer's output."""
    powers = np.minimum(np.arange(spec.num_layers + 1) / (spec.num_layers - spec.num_critical), 1)
    last = spec.resolution / 2
    cutoff = spec.first_cutoff * (last / spec.first_cutoff) ** powers
    stop = spec.first_stopband * (last * spec.last_stopband_rel / spec.first_stopband) ** powers
    rate = np.exp2(np.ceil(np.log2(np.minimum(stop * 2, spec.resolution))))
    size = rate + spec.margin_size * 2
    size[-2:] = spec.resolution
    double = 2 if spec.variant == "r" else 1
    channels = np.rint(np.minimum(double * spec.channel_base / 2 / cutoff, double * spec.channel_max))
    channels[-1] = spec.channels
    half = np.maximum(stop, rate / 2) - cutoff
    return {"cutoff": cutoff, "rate": rate, "half": half, "size": size, "channels": channels}


def jinc_filter(taps: int, cutoff: float, width: float, rate: float) -> Array:
    """Radially symmetric filter with SciPy's Bessel function and Kaiser window."""
    x = (np.arange(taps) - (taps - 1) / 2) / rate
    r = np.sqrt(x[:, None] ** 2 + x[None, :] ** 2)
    beta = scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(taps, width / (rate / 2)))
    window = scipy.signal.windows.kaiser(taps, beta)
    kernel = scipy.special.j1(2 * cutoff * np.pi * r) / (np.pi * r) * np.outer(window, window)
    return np.asarray(kernel / kernel.sum())


def fir(img: Array, kernel: Array) -> Array:
    """Convolution of [C, H, W] with a filter [T] along both axes, or [T, T], where it lies inside."""
    taps = len(kernel)
    if kernel.ndim == 1:
        img = scipy.signal.lfilter(kernel, 1, img, axis=1)[:, taps - 1 :]
        return np.asarray(scipy.signal.lfilter(kernel, 1, img, axis=2)[..., taps - 1 :])
    height = img.shape[1] - taps + 1
    rows = [
        scipy.signal.lfilter(row, 1, img[:, taps - 1 - i : taps - 1 - i + height], axis=2)
        for i, row in enumerate(kernel)
    ]
    return np.asarray(sum(rows)[..., taps - 1 :])


def upfirdn(img: Array, kernel: Array, up: int, down: int, pad: tuple[int, int]) -> Array:
    """Zero insertion, padding or cropping, a filter, decimation, for an array [C, H, W]."""
    channels, height, width = img.shape
    sparse = np.zeros((channels, height * up, width * up))
    sparse[:, ::up, ::up] = img
    sparse = np.pad(sparse, [(0, 0), *[(max(pad[0], 0), max(pad[1], 0))] * 2])
    low, high = max(-pad[0], 0), max(-pad[1], 0)
    sparse = sparse[:, low : sparse.shape[1] - high, low : sparse.shape[2] - high]
    return fir(sparse, kernel)[:, ::down, ::down]


def nonlinearity(x: Array, spec: StyleGAN3Spec, index: int, kernel: int) -> Array:
    """Upsample, leaky ReLU with gain sqrt(2), clamp, downsample, for the output of one convolution."""
    b, before = bands(spec), max(index - 1, 0)
    inner = 2 * max(b["rate"][before], b["rate"][index])
    up, down = int(inner / b["rate"][before]), int(inner / b["rate"][index])
    low = scipy.signal.firwin(6 * up, b["cutoff"][before], width=2 * b["half"][before], fs=inner)
    arguments = (6 * down, b["cutoff"][index], 2 * b["half"][index], inner)
    if spec.variant == "r" and index < spec.num_layers - spec.num_critical:
        final = jinc_filter(*arguments)
    else:
        final = scipy.signal.firwin(arguments[0], arguments[1], width=arguments[2], fs=inner)
    total = (int(b["size"][index]) - 1) * down + 1
    total += 6 * up + 6 * down - 2 - (int(b["size"][before]) + kernel - 1) * up
    left = (total + up) // 2
    x = upfirdn(x, low * up, up, 1, (left, total - left))
    x = np.clip(np.where(x > 0, x, 0.2 * x) * np.sqrt(2), -256, 256)
    return upfirdn(x, final, 1, down, (0, 0))


def fourier(w: Tensor, state: State, spec: StyleGAN3Spec) -> Tensor:
    """Input features [C, size, size] of one image."""
    p = "synthesis.input"
    b = bands(spec)
    band, rate, size = b["cutoff"][0], b["rate"][0], int(b["size"][0])
    t = dense(w[None], state, f"{p}.affine")[0]
    t = t / t[:2].norm()
    turn, move = torch.eye(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    turn[0, 0], turn[0, 1], turn[1, 0], turn[1, 1] = t[0], -t[1], t[1], t[0]
    move[0, 2], move[1, 2] = -t[2], -t[3]
    whole = turn @ move @ state[f"{p}.transform"]
    phases = state[f"{p}.phases"] + state[f"{p}.freqs"] @ whole[:2, 2]
    freqs = state[f"{p}.freqs"] @ whole[:2, :2]
    loud = (1 - (freqs.norm(dim=1) - band) / (rate / 2 - band)).clamp(0, 1)
    theta = torch.diag(torch.full((3,), 0.5 * size / rate, dtype=torch.float64))[None, :2]
    grid = F.affine_grid(theta, [1, 1, size, size], align_corners=False)[0]
    waves = torch.sin((grid @ freqs.T + phases) * 2 * np.pi) * loud
    weight = state[f"{p}.weight"]
    return (waves @ (weight / weight.shape[1] ** 0.5).T).permute(2, 0, 1)


def convolve(x: Tensor, style: Tensor, weight: Tensor, gain: Tensor, demodulate: bool) -> Tensor:
    """One image with its own kernel."""
    own = weight * style[None, :, None, None]
    if demodulate:
        own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
    return F.conv2d(x[None], own * gain, padding=weight.shape[-1] - 1)[0]


def layer(xs: list[Tensor], ws: Tensor, state: State, spec: StyleGAN3Spec, index: int) -> list[Tensor]:
    """One layer on all images [C, size, size]."""
    b = bands(spec)
    p = f"synthesis.L{index}_{int(b['size'][index])}_{int(b['channels'][index])}"
    weight, rgb = state[f"{p}.weight"], index == spec.num_layers
    styles = dense(ws, state, f"{p}.affine")
    if rgb:
        styles = styles / weight[0].numel() ** 0.5
    else:
        weight = weight / weight.square().mean((1, 2, 3), keepdim=True).sqrt()
        styles = styles / styles.square().mean().sqrt()
    gain = 1 / state[f"{p}.magnitude_ema"].sqrt()
    out = []
    for x, style in zip(xs, styles, strict=True):
        y = convolve(x, style, weight, gain, not rgb) + state[f"{p}.bias"][:, None, None]
        if rgb:
            out.append(y.clamp(-256, 256))
        else:
            out.append(torch.from_numpy(nonlinearity(y.numpy(), spec, index, weight.shape[-1])))
    return out


def synthesis(ws: Tensor, state: State, spec: StyleGAN3Spec) -> Tensor:
    """``ws`` [N, num_ws, w_dim] to images [N, channels, R, R]."""
    xs = [fourier(w, state, spec) for w in ws[:, 0]]
    for index in range(spec.num_layers + 1):
        xs = layer(xs, ws[:, index + 1], state, spec, index)
    return torch.stack(xs) * 0.25


def generator(z: Tensor, state: State, spec: StyleGAN3Spec) -> Tensor:
    """Latents to images."""
    w = mapping(z, state, spec.mapping_layers)
    return synthesis(w[:, None].expand(-1, spec.num_layers + 2, -1), state, spec)
