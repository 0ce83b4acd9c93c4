"""StyleGAN2 as the papers write it, image by image in float64, without the package's shortcuts."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from graftgan.gans.stylegan2 import StyleGAN2Spec

State = dict[str, Tensor]
Array = NDArray[np.float64]
TAPS = np.array([1.0, 3.0, 3.0, 1.0]) / 8


def upfirdn(img: Array, up: int, down: int, pad: tuple[int, int], gain: float = 1.0) -> Array:
    """Zero insertion, padding, the filter [1, 3, 3, 1] on both axes, decimation, for an array [..., H, W]."""
    height, width = img.shape[-2:]
    sparse = np.zeros((*img.shape[:-2], height * up, width * up))
    sparse[..., ::up, ::up] = img
    padded = np.pad(sparse, [(0, 0)] * (img.ndim - 2) + [pad, pad])
    for axis in (-2, -1):
        padded = np.apply_along_axis(lambda line: np.convolve(line, TAPS, mode="valid"), axis, padded)
    return padded[..., ::down, ::down] * gain


def conv_transpose(x: Array, weight: Array) -> Array:
    """Scatter every pixel of ``x`` [I, H, W], times ``weight`` [O, I, 3, 3], onto a grid twice as wide."""
    _, height, width = x.shape
    out = np.zeros((weight.shape[0], 2 * height + 1, 2 * width + 1))
    for row in range(height):
        for col in range(width):
            patch = np.tensordot(weight, x[:, row, col], axes=(1, 0))
            out[:, 2 * row : 2 * row + 3, 2 * col : 2 * col + 3] += patch
    return out


def lrelu(x: Tensor) -> Tensor:
    """Leaky ReLU with gain sqrt(2)."""
    return torch.where(x > 0, x, 0.2 * x) * 2**0.5


def dense(x: Tensor, state: State, name: str, lr: float = 1.0) -> Tensor:
    """Linear layer with equalised learning rate."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return x @ (weight * lr / weight.shape[1] ** 0.5).T + bias * lr


def unit(x: Tensor) -> Tensor:
    """Scale rows to unit root mean square."""
    return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


def fc_stack(x: Tensor, state: State, layers: int) -> Tensor:
    """Layers fc0, fc1, ... of a mapping network with learning-rate multiplier 0.01."""
    for i in range(layers):
        x = lrelu(dense(x, state, f"mapping.fc{i}", lr=0.01))
    return x


def mapping(z: Tensor, state: State, layers: int) -> Tensor:
    """Latents z to w."""
    return fc_stack(unit(z), state, layers)


def modulated(x: Tensor, style: Tensor, weight: Tensor, up: bool, demodulate: bool = True) -> Tensor:
    """Modulate, demodulate and convolve one image [I, H, W] with its own weights."""
    own = weight * style[None, :, None, None]
    if demodulate:
        own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
    if not up:
        return F.conv2d(x[None], own, padding=weight.shape[-1] // 2)[0]
    wide = conv_transpose(x.numpy(), own.numpy())
    return torch.from_numpy(upfirdn(wide, up=1, down=1, pad=(1, 1), gain=4.0))


def layer(x: Tensor, w: Tensor, state: State, name: str, up: bool, noise: bool) -> Tensor:
    """One synthesis layer on one image."""
    style = dense(w[None], state, f"{name}.affine")[0]
    x = modulated(x, style, state[f"{name}.weight"], up)
    if noise:
        x = x + state[f"{name}.noise_strength"] * state[f"{name}.noise_const"]
    return lrelu(x + state[f"{name}.bias"][:, None, None])


def to_rgb(x: Tensor, w: Tensor, state: State, name: str) -> Tensor:
    """Features of one image to channels."""
    weight = state[f"{name}.weight"]
    style = dense(w[None], state, f"{name}.affine")[0] / weight.shape[1] ** 0.5
    return modulated(x, style, weight, up=False, demodulate=False) + state[f"{name}.bias"][:, None, None]


def synthesis(ws: Tensor, state: State, resolution: int, noise: bool = True) -> Tensor:
    """``ws`` [num_ws, w_dim] of one image to the image [channels, R, R]."""
    p = "synthesis.b4"
    x = layer(state[f"{p}.const"], ws[0], state, f"{p}.conv1", False, noise)
    img = to_rgb(x, ws[1], state, f"{p}.torgb")
    index, size = 1, 8
    while size <= resolution:
        p = f"synthesis.b{size}"
        x = layer(x, ws[index], state, f"{p}.conv0", True, noise)
        x = layer(x, ws[index + 1], state, f"{p}.conv1", False, noise)
        img = torch.from_numpy(upfirdn(img.numpy(), up=2, down=1, pad=(2, 1), gain=4.0))
        img = img + to_rgb(x, ws[index + 2], state, f"{p}.torgb")
        index, size = index + 2, size * 2
    return img


def conv(x: Tensor, state: State, name: str, down: bool = False) -> Tensor:
    """Convolution [N, I, H, W] with equalised learning rate; bias, activation and halving are optional."""
    weight = state[f"{name}.weight"]
    kernel = weight.shape[-1]
    if down:
        pad = (2, 2) if kernel == 3 else (1, 1)
        blurred = torch.from_numpy(upfirdn(x.numpy(), up=1, down=1, pad=pad))
        x = F.conv2d(blurred, weight / (weight[0].numel() ** 0.5), stride=2)
    else:
        x = F.conv2d(x, weight / (weight[0].numel() ** 0.5), padding=kernel // 2)
    bias = state.get(f"{name}.bias")
    return x if bias is None else lrelu(x + bias[:, None, None])


def minibatch_stddev(x: Tensor, group: int) -> Tensor:
    """Append the mean standard deviation of each group of images that are N / group apart."""
    n = x.shape[0]
    stride = n // group
    extra = torch.empty(n, 1, *x.shape[2:], dtype=x.dtype)
    for first in range(stride):
        members = x[first::stride]
        extra[first::stride] = (members.var(0, unbiased=False) + 1e-8).sqrt().mean()
    return torch.cat([x, extra], 1)


def discriminator(img: Tensor, state: State, spec: StyleGAN2Spec, labels: Tensor | None = None) -> Tensor:
    """Images to logits [N, 1]."""
    x = conv(img, state, f"b{spec.resolution}.fromrgb")
    size = spec.resolution
    while size > 4:
        straight = conv(conv(x, state, f"b{size}.conv0"), state, f"b{size}.conv1", down=True)
        x = (straight + conv(x, state, f"b{size}.skip", down=True)) / 2**0.5
        size //= 2
    x = conv(minibatch_stddev(x, min(spec.mbstd_group, x.shape[0])), state, "b4.conv")
    out = dense(lrelu(dense(x.flatten(1), state, "b4.fc")), state, "b4.out")
    if labels is None:
        return out
    embedded = unit(dense(F.one_hot(labels, spec.classes).to(out.dtype), state, "mapping.embed"))
    return (out * fc_stack(embedded, state, spec.label_layers)).sum(1, keepdim=True) / out.shape[1] ** 0.5
