"""pix2pix and CycleGAN networks from their formulas, in float64, on tensors with the published names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def lrelu(x: Tensor) -> Tensor:
    return torch.maximum(x, 0.2 * x)


def reflect(x: Tensor, by: int) -> Tensor:
    """Mirror the image about its border pixels, which are not repeated."""
    rows = [*range(by, 0, -1), *range(x.shape[2]), *range(x.shape[2] - 2, x.shape[2] - 2 - by, -1)]
    cols = [*range(by, 0, -1), *range(x.shape[3]), *range(x.shape[3] - 2, x.shape[3] - 2 - by, -1)]
    return x[:, :, rows][:, :, :, cols]


def biased(y: Tensor, state: State, name: str) -> Tensor:
    bias = state.get(f"{name}.bias")
    return y if bias is None else y + bias[:, None, None]


def conv(x: Tensor, state: State, name: str, stride: int = 1, pad: int = 0) -> Tensor:
    """A convolution as a product of unfolded patches with the flattened kernels."""
    weight = state[f"{name}.weight"]
    side = weight.shape[-1]
    height, width = ((size + 2 * pad - side) // stride + 1 for size in x.shape[2:])
    patches = F.unfold(x, side, padding=pad, stride=stride)
    return biased((weight.flatten(1) @ patches).reshape(len(x), -1, height, width), state, name)


def deconv(x: Tensor, state: State, name: str) -> Tensor:
    """A transposed convolution to twice the size: every pixel adds its kernel, then the border is cut."""
    weight = state[f"{name}.weight"]
    side = weight.shape[-1]
    height, width = x.shape[2:]
    wide = x.new_zeros(len(x), weight.shape[1], 2 * height + side, 2 * width + side)
    for i in range(side):
        for j in range(side):
            part = torch.einsum("nchw,co->nohw", x, weight[:, :, i, j])
            wide[:, :, i : i + 2 * height : 2, j : j + 2 * width : 2] += part
    return biased(wide[:, :, 1 : 2 * height + 1, 1 : 2 * width + 1], state, name)


def norm(x: Tensor, state: State, name: str) -> Tensor:
    """The norm of a network in evaluation mode; without weights it is an instance norm."""
    if f"{name}.weight" not in state:
        mean = x.mean((2, 3), keepdim=True)
        return (x - mean) / ((x - mean).square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
    mean, var, gain, bias = (
        state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * gain[:, None, None] + bias[
        :, None, None
    ]


def resnet(x: Tensor, state: State, blocks: int, dropout: bool) -> Tensor:
    """Computes the generator by the positions of its layers in the sequence."""
    x = norm(conv(reflect(x, 3), state, "model.1"), state, "model.2").clamp_min(0)
    for place in (4, 7):
        x = norm(conv(x, state, f"model.{place}", 2, 1), state, f"model.{place + 1}").clamp_min(0)
    second = 6 if dropout else 5
    for place in range(10, 10 + blocks):
        name = f"model.{place}.conv_block"
        y = norm(conv(reflect(x, 1), state, f"{name}.1"), state, f"{name}.2").clamp_min(0)
        x = x + norm(conv(reflect(y, 1), state, f"{name}.{second}"), state, f"{name}.{second + 1}")
    for place in (10 + blocks, 13 + blocks):
        x = norm(deconv(x, state, f"model.{place}"), state, f"model.{place + 1}").clamp_min(0)
    return torch.tanh(conv(reflect(x, 3), state, f"model.{17 + blocks}"))


def unet(x: Tensor, state: State, downs: int) -> Tensor:
    """Down with all skips kept, then up again."""
    prefixes = ["model.model.1" + ".model.3" * level for level in range(downs - 1)]
    x = conv(x, state, "model.model.0", 2, 1)
    skips = []
    for prefix in prefixes:
        skips.append(lrelu(x))
        x = conv(skips[-1], state, f"{prefix}.model.1", 2, 1)
        if prefix != prefixes[-1]:
            x = norm(x, state, f"{prefix}.model.2")
    for prefix in reversed(prefixes):
        up, normed = (3, 4) if prefix == prefixes[-1] else (5, 6)
        y = norm(deconv(x.clamp_min(0), state, f"{prefix}.model.{up}"), state, f"{prefix}.model.{normed}")
        x = torch.cat([skips.pop(), y], 1)
    return torch.tanh(deconv(x.clamp_min(0), state, "model.model.3"))


def patches(x: Tensor, state: State) -> Tensor:
    x = lrelu(conv(x, state, "model.0", 2, 1))
    for place, stride in ((2, 2), (5, 2), (8, 1)):
        x = lrelu(norm(conv(x, state, f"model.{place}", stride, 1), state, f"model.{place + 1}"))
    return conv(x, state, "model.11", 1, 1)
