"""BigGAN-deep as its formulas are written, a function of a public state dict in float64, image by image."""

from __future__ import annotations

import numpy as np

from tests.gans.biggan.reference import Array, State, conv, double, pool, relu

Layer = tuple[bool, int, int]


def sn(state: State, name: str) -> Array:
    """The raw weight divided by ``u^T W v``."""
    weight = state[f"{name}.weight_orig"]
    sigma = state[f"{name}.weight_u"] @ weight.reshape(len(weight), -1) @ state[f"{name}.weight_v"]
    normed: Array = weight / sigma
    return normed


def sn_conv(state: State, name: str, x: Array) -> Array:
    return conv(x, sn(state, name), state.get(f"{name}.bias"))


def norm(state: State, name: str, x: Array, rows: dict[int, float], eps: float) -> Array:
    """Standardise by a weighted sum of rows of the statistics."""
    mean = sum(share * state[f"{name}.running_means"][row] for row, share in rows.items())
    var = sum(share * state[f"{name}.running_vars"][row] for row, share in rows.items())
    out: Array = (x - np.reshape(mean, (-1, 1, 1))) / np.sqrt(np.reshape(var, (-1, 1, 1)) + eps)
    return out


def conditional(state: State, name: str, x: Array, y: Array, rows: dict[int, float], eps: float) -> Array:
    scale, offset = sn(state, f"{name}.scale") @ y, sn(state, f"{name}.offset") @ y
    return norm(state, name, x, rows, eps) * (1 + scale)[:, None, None] + offset[:, None, None]


def attention(state: State, name: str, x: Array) -> Array:
    _, height, width = x.shape
    theta = sn_conv(state, f"{name}.snconv1x1_theta", x).reshape(-1, height * width)
    phi = pool(sn_conv(state, f"{name}.snconv1x1_phi", x), "max").reshape(theta.shape[0], -1)
    g = pool(sn_conv(state, f"{name}.snconv1x1_g", x), "max").reshape(-1, phi.shape[1])
    products = theta.T @ phi
    scores = np.exp(products - products.max(axis=1, keepdims=True))
    seen = g @ (scores / scores.sum(axis=1, keepdims=True)).T
    return x + state[f"{name}.gamma"][0] * sn_conv(
        state, f"{name}.snconv1x1_o_conv", seen.reshape(-1, height, width)
    )


def generate(
    state: State, layers: tuple[Layer, ...], z: Array, label: int | None, rows: dict[int, float], eps: float
) -> Array:
    """One image of a latent and a class."""
    y = z if label is None else np.concatenate([z, state["embeddings.weight"][:, label]])
    stem = sn(state, "generator.gen_z") @ y + state["generator.gen_z.bias"]
    h, j = stem.reshape(4, 4, -1).transpose(2, 0, 1), 0
    for doubles, inner, out in layers:
        if f"generator.layers.{j}.gamma" in state:
            h = attention(state, f"generator.layers.{j}", h)
            j += 1
        name, x = f"generator.layers.{j}", h
        h = sn_conv(state, f"{name}.conv_0", relu(conditional(state, f"{name}.bn_0", h, y, rows, eps)))
        h = relu(conditional(state, f"{name}.bn_1", h, y, rows, eps))
        h = sn_conv(state, f"{name}.conv_1", double(h) if doubles else h)
        h = sn_conv(state, f"{name}.conv_2", relu(conditional(state, f"{name}.bn_2", h, y, rows, eps)))
        h = sn_conv(state, f"{name}.conv_3", relu(conditional(state, f"{name}.bn_3", h, y, rows, eps)))
        x = x if inner == out else x[: len(x) // 2]
        h = h + (double(x) if doubles else x)
        j += 1
    h = norm(state, "generator.bn", h, rows, eps)
    weight, bias = state["generator.bn.weight"], state["generator.bn.bias"]
    h = relu(h * weight[:, None, None] + bias[:, None, None])
    return np.tanh(sn_conv(state, "generator.conv_to_rgb", h)[:3])
