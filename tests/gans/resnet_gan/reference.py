"""GAN_stability's networks from their formulas, in float64, on tensors with the published names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
PAIRED = ("resnet2",)
EMBEDDING_OF_UNIT_LENGTH = ("resnet", "resnet2")


def names(variant: str, state: State) -> list[list[str]]:
    """Blocks of each stage in the order of computation."""
    if variant == "resnet":
        indices = sorted({int(key.split(".")[1]) for key in state if key.startswith("resnet.")})
        return [[f"resnet.{index}"] for index in indices]
    stages = sorted({int(key.split("_")[1]) for key in state if key.startswith("resnet_")})
    return [[f"resnet_{s}_{j}" for j in range(2 if variant in PAIRED else 1)] for s in stages]


def lrelu(x: Tensor) -> Tensor:
    return torch.maximum(x, 0.2 * x)


def conv(x: Tensor, state: State, name: str) -> Tensor:
    """A convolution as a product of unfolded patches with the flattened kernels."""
    weight = state[f"{name}.weight"]
    side = weight.shape[-1]
    patches = F.unfold(x, side, padding=side // 2)
    y = (weight.flatten(1) @ patches).reshape(x.shape[0], -1, *x.shape[2:])
    bias = state.get(f"{name}.bias")
    return y if bias is None else y + bias[:, None, None]


def block(x: Tensor, state: State, name: str) -> Tensor:
    shortcut = conv(x, state, f"{name}.conv_s") if f"{name}.conv_s.weight" in state else x
    hidden = conv(lrelu(x), state, f"{name}.conv_0")
    return shortcut + 0.1 * conv(lrelu(hidden), state, f"{name}.conv_1")


def double(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def halve(x: Tensor) -> Tensor:
    """Mean over 3x3 pixels around every second one, zeros beyond the border included."""
    padded = F.pad(x, (1, 1, 1, 1))
    height, width = x.shape[2:]
    shifted = [padded[:, :, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)]
    return torch.stack(shifted).sum(0) / 9


def generator(z: Tensor, labels: Tensor, state: State, variant: str) -> Tensor:
    rows = state["embedding.weight"][labels]
    if variant in EMBEDDING_OF_UNIT_LENGTH:
        rows = rows / rows.square().sum(1, keepdim=True).sqrt()
    flat = torch.cat([z, rows], 1) @ state["fc.weight"].T + state["fc.bias"]
    stages = names(variant, state)
    stem = state[f"{stages[0][0]}.conv_0.weight"].shape[1]
    side = round((flat.shape[1] / stem) ** 0.5)
    x = flat.reshape(len(z), stem, side, side)
    for index, blocks in enumerate(stages):
        x = double(x) if index else x
        for name in blocks:
            x = block(x, state, name)
    x = double(x) if variant == "resnet3" else x
    return torch.tanh(conv(lrelu(x), state, "conv_img"))


def discriminator(img: Tensor, labels: Tensor, state: State, variant: str) -> Tensor:
    x = conv(img, state, "conv_img")
    for index, blocks in enumerate(names(variant, state)):
        x = halve(x) if index or variant == "resnet3" else x
        for name in blocks:
            x = block(x, state, name)
    logits = lrelu(x.flatten(1)) @ state["fc.weight"].T + state["fc.bias"]
    return torch.stack([row[label] for row, label in zip(logits, labels, strict=True)])[:, None]
