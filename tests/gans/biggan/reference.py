"""BigGAN as its formulas are written, a function of a public state dict in float64, image by image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
State = dict[str, Array]


def as_arrays(state: dict[str, Tensor]) -> State:
    return {name: tensor.detach().double().numpy() for name, tensor in state.items()}


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def conv(x: Array, weight: Array, bias: Array | None) -> Array:
    """Correlate ``x`` [I, H, W] with ``weight`` [O, I, k, k] under zero padding."""
    side, pad = x.shape[1], weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    out = np.zeros((weight.shape[0], side, side))
    for row in range(weight.shape[2]):
        for col in range(weight.shape[3]):
            patch = padded[:, row : row + side, col : col + side]
            out += np.tensordot(weight[:, :, row, col], patch, axes=1)
    return out if bias is None else out + bias[:, None, None]


def double(x: Array) -> Array:
    return np.kron(x, np.ones((1, 2, 2)))


def pool(x: Array, how: str) -> Array:
    channels, side, _ = x.shape
    cells = x.reshape(channels, side // 2, 2, side // 2, 2)
    pooled: Array = cells.mean(axis=(2, 4)) if how == "mean" else cells.max(axis=(2, 4))
    return pooled


def sn(state: State, name: str) -> Array:
    """The raw weight divided by the value that one power iteration from ``u0`` gives."""
    weight = state[f"{name}.weight"]
    matrix = weight.reshape(len(weight), -1)
    v = state[f"{name}.u0"][0] @ matrix
    v = v / math.sqrt(v @ v)
    u = matrix @ v
    u = u / math.sqrt(u @ u)
    return weight / (u @ matrix @ v)


def sn_conv(state: State, name: str, x: Array) -> Array:
    return conv(x, sn(state, name), state.get(f"{name}.bias"))


def norm(state: State, name: str, x: Array, eps: float) -> Array:
    mean, var = state[f"{name}.stored_mean"], state[f"{name}.stored_var"]
    return (x - mean[:, None, None]) / np.sqrt(var + eps)[:, None, None]


def conditional(state: State, name: str, x: Array, y: Array, eps: float) -> Array:
    def line(part: str) -> Array:
        key = f"{name}.{part}"
        if f"{key}.u0" in state:
            return sn(state, key) @ y
        return y @ state[f"{key}.weight"]

    return norm(state, name, x, eps) * (1 + line("gain"))[:, None, None] + line("bias")[:, None, None]


def attention(state: State, name: str, x: Array) -> Array:
    _, height, width = x.shape
    theta = sn_conv(state, f"{name}.theta", x).reshape(-1, height * width)
    phi = pool(sn_conv(state, f"{name}.phi", x), "max").reshape(theta.shape[0], -1)
    g = pool(sn_conv(state, f"{name}.g", x), "max").reshape(-1, phi.shape[1])
    seen = np.zeros((g.shape[0], height * width))
    for place in range(height * width):
        product = theta[:, place] @ phi
        score = np.exp(product - product.max())
        seen[:, place] = g @ (score / score.sum())
    return x + state[f"{name}.gamma"] * sn_conv(state, f"{name}.o", seen.reshape(-1, height, width))


def blocks(state: State) -> int:
    return len({name.split(".")[1] for name in state if name.startswith("blocks.")})


def generate(state: State, z: Array, c: Array, hier: bool, bn_eps: float) -> Array:
    """One image of a latent and a class vector (class weights, if batch norms have their own tables)."""
    chunks = np.split(z, blocks(state) + 1) if hier else [z] + [z[:0]] * blocks(state)
    h = (sn(state, "linear") @ chunks[0] + state["linear.bias"]).reshape(-1, 4, 4)
    for i in range(blocks(state)):
        y, name = np.concatenate([c, chunks[i + 1]]), f"blocks.{i}.0"
        x = h
        h = double(relu(conditional(state, f"{name}.bn1", x, y, bn_eps)))
        h = sn_conv(state, f"{name}.conv1", h)
        h = sn_conv(state, f"{name}.conv2", relu(conditional(state, f"{name}.bn2", h, y, bn_eps)))
        h = h + sn_conv(state, f"{name}.conv_sc", double(x))
        if f"blocks.{i}.1.gamma" in state:
            h = attention(state, f"blocks.{i}.1", h)
    h = norm(state, "output_layer.0", h, 1e-5)
    gain, bias = state["output_layer.0.gain"], state["output_layer.0.bias"]
    h = relu(h * gain[:, None, None] + bias[:, None, None])
    return np.tanh(sn_conv(state, "output_layer.2", h))


def judge(state: State, img: Array, label: int | None, halvings: int) -> float:
    """The logit of one image: the first block averages before its shortcut convolves, the others behind."""
    h = img
    for i in range(blocks(state)):
        name, x = f"blocks.{i}.0", h
        h = sn_conv(state, f"{name}.conv1", x if i == 0 else relu(x))
        h = sn_conv(state, f"{name}.conv2", relu(h))
        halves = i < halvings
        if halves:
            h = pool(h, "mean")
        if i == 0 and halves:
            x = pool(x, "mean")
        if f"{name}.conv_sc.weight" in state:
            x = sn_conv(state, f"{name}.conv_sc", x)
        if i > 0 and halves:
            x = pool(x, "mean")
        h = h + x
        if f"blocks.{i}.1.gamma" in state:
            h = attention(state, f"blocks.{i}.1", h)
    pooled = relu(h).sum(axis=(1, 2))
    logit = sn(state, "linear")[0] @ pooled + state["linear.bias"][0]
    if label is not None:
        logit = logit + sn(state, "embed")[label] @ pooled
    return float(logit)
