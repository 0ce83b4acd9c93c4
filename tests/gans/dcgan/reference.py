"""DCGAN from its formulas, place by place of each kernel, on tensors with the published names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
EPS = 1e-5


def convolve(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """A sum over the kernel's places of products with the shifted input."""
    side = weight.shape[-1]
    x = F.pad(x, (padding,) * 4)
    height, width = ((size - side) // stride + 1 for size in x.shape[2:])
    places = [(i, j) for i in range(side) for j in range(side)]
    return torch.stack(
        [
            torch.einsum(
                "nihw,oi->nohw",
                x[:, :, i : i + stride * height : stride, j : j + stride * width : stride],
                weight[:, :, i, j],
            )
            for i, j in places
        ]
    ).sum(0)


def spread(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """A transposed convolution: every input pixel paints the kernel, scaled, into the output."""
    n, _, height, width = x.shape
    side = weight.shape[-1]
    out = x.new_zeros(n, weight.shape[1], (height - 1) * stride + side, (width - 1) * stride + side)
    for i in range(height):
        for j in range(width):
            stamp = torch.einsum("ni,iohw->nohw", x[:, :, i, j], weight)
            out[:, :, i * stride : i * stride + side, j * stride : j * stride + side] += stamp
    return out[:, :, padding : out.shape[2] - padding, padding : out.shape[3] - padding]


def norm(x: Tensor, state: State, index: int, batch: bool) -> Tensor:
    """Normalise by the batch's mean and (biased) variance, or by the stored ones."""
    name = f"main.{index}"
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    if batch:
        mean = x.mean(dim=(0, 2, 3))
        var = (x - mean[:, None, None]).square().mean(dim=(0, 2, 3))
    x = (x - mean[:, None, None]) / (var[:, None, None] + EPS).sqrt()
    return x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def generator(z: Tensor, state: State, batch: bool = False) -> Tensor:
    x, index = z[:, :, None, None], 0
    while f"main.{index + 1}.weight" in state:
        x = spread(x, state[f"main.{index}.weight"], *((2, 1) if index else (1, 0)))
        x = norm(x, state, index + 1, batch).clamp(min=0)
        index += 3
    return torch.tanh(spread(x, state[f"main.{index}.weight"], 2, 1))


def discriminator(img: Tensor, state: State, batch: bool = True) -> Tensor:
    x = convolve(img, state["main.0.weight"], 2, 1)
    index = 2
    while f"main.{index + 1}.weight" in state:
        x = torch.maximum(x, 0.2 * x)
        x = norm(convolve(x, state[f"main.{index}.weight"], 2, 1), state, index + 1, batch)
        index += 3
    x = torch.maximum(x, 0.2 * x)
    return convolve(x, state[f"main.{index}.weight"], 1, 0)[:, :, 0, 0]
