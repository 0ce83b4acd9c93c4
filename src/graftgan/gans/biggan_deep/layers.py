"""Layers of BigGAN-deep: spectral norm with stored vectors, batch norms with statistics for truncations."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftgan.gans.biggan.layers import WEIGHT_STD, attend
from graftgan.gans.biggan.spec import ATTENTION_DIVISOR
from graftgan.gans.stylegan2.layers import full_precision

GRID_TOLERANCE = 1e-6


class Rows(NamedTuple):
    """Two rows of statistics and the weight of the second; that of the first is the rest."""

    lower: int
    upper: int
    share: float

    def blend(self, table: Tensor) -> Tensor:
        """Return the mixture of two rows of ``table`` [n_stats, C], as [C]."""
        return table[self.lower].lerp(table[self.upper], self.share)


def statistics_rows(truncation_psi: float, n_stats: int, lookup: str) -> Rows:
    """Return the rows of batch-norm statistics that a truncation reads.

    Row i holds the statistics at truncation ``i / (n_stats - 1)``. `exact` interpolates linearly between the
    neighbours. `published` repeats what the published code does: it gives the lower row the weight of the
    upper one and takes a quotient such as 0.14 / 0.02, a rounding error above 7, for a value between two
    rows, so that 0.14, 0.28 and 0.56 read the row behind their own, 0.58 and 0.94 the one before.

    Args:
        truncation_psi: 0 to 1.
        n_stats: Number of rows.
        lookup: `exact` or `published`.
    """
    if lookup == "published":
        share, whole = math.modf(truncation_psi / (1.0 / (n_stats - 1)))
        lower = int(whole)
        return Rows(lower, lower, 0.0) if share == 0 else Rows(lower, lower + 1, 1 - share)
    place = truncation_psi * (n_stats - 1)
    if abs(place - round(place)) < GRID_TOLERANCE:
        return Rows(round(place), round(place), 0.0)
    return Rows(math.floor(place), math.floor(place) + 1, place - math.floor(place))


class StoredSpectralNorm(nn.Module):
    """A weight divided by ``u^T W v`` with stored vectors (Miyato et al. 2018, algorithm 1).

    One step of the power method renews the vectors at each call in training; in evaluation they are used as
    they are.

    Args:
        shape: Shape of the weight; the first axis against all others makes the matrix.
        bias: Whether there is a bias, one value for each row.
        eps: Lower limit of the norms that vectors are divided by.

    Attributes:
        frozen: Use the vectors as they are in training too, for a weight that does not move.
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, shape: tuple[int, ...], bias: bool, eps: float) -> None:
        super().__init__()
        self.weight_orig = nn.Parameter(torch.empty(shape).normal_(std=WEIGHT_STD))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.eps = eps
        self.frozen = False
        self.register_buffer("weight_u", F.normalize(torch.randn(shape[0]), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(math.prod(shape[1:])), dim=0))
        self._step()

    def normalised(self) -> Tensor:
        """Return the weight that the layer computes with."""
        with full_precision(self.weight_orig):
            if self.training and not self.frozen:
                self._step()
            # Copies, as the next step in training writes to the vectors that the gradient needs.
            u, v = self.weight_u.clone(), self.weight_v.clone()
            return self.weight_orig / (u @ (self.weight_orig.flatten(1) @ v))

    @torch.no_grad()
    def _step(self) -> None:
        matrix = self.weight_orig.flatten(1)
        self.weight_v.copy_(F.normalize(self.weight_u @ matrix, dim=0, eps=self.eps))
        self.weight_u.copy_(F.normalize(matrix @ self.weight_v, dim=0, eps=self.eps))


class Conv(StoredSpectralNorm):
    """Convolution of stride 1 that keeps the size."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, eps: float, bias: bool = True
    ) -> None:
        super().__init__((out_channels, in_channels, kernel, kernel), bias, eps)
        self.padding = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, I, H, W] to [N, O, H, W]."""
        return F.conv2d(x, self.normalised(), self.bias, padding=self.padding)


class Linear(StoredSpectralNorm):
    """Linear layer."""

    def __init__(self, in_features: int, out_features: int, eps: float, bias: bool = True) -> None:
        super().__init__((out_features, in_features), bias, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, I] to [N, O]."""
        return F.linear(x, self.normalised(), self.bias)


class TruncatedBatchNorm(nn.Module):
    """Standardisation by statistics stored for each truncation, in training as in evaluation.

    Args:
        channels: Feature maps.
        n_stats: Rows of statistics.
        eps: Added to the variance.
    """

    running_means: Tensor
    running_vars: Tensor

    def __init__(self, channels: int, n_stats: int, eps: float) -> None:
        super().__init__()
        self.register_buffer("running_means", torch.zeros(n_stats, channels))
        self.register_buffer("running_vars", torch.ones(n_stats, channels))
        self.eps = eps

    def standardise(self, x: Tensor, rows: Rows) -> Tensor:
        """Return ``(x - mean) / sqrt(var + eps)`` for ``x`` [N, C, H, W]."""
        mean, var = rows.blend(self.running_means), rows.blend(self.running_vars)
        return F.batch_norm(x, mean, var, torch.ones_like(mean), torch.zeros_like(mean), eps=self.eps)


class ConditionalBatchNorm(TruncatedBatchNorm):
    """Batch norm whose gain and bias follow from a condition: ``(1 + scale(y)) bn(x) + offset(y)``."""

    def __init__(self, channels: int, condition_dim: int, n_stats: int, bn_eps: float, sn_eps: float) -> None:
        super().__init__(channels, n_stats, bn_eps)
        self.scale = Linear(condition_dim, channels, sn_eps, bias=False)
        self.offset = Linear(condition_dim, channels, sn_eps, bias=False)

    def forward(self, x: Tensor, y: Tensor, rows: Rows) -> Tensor:
        """Map ``x`` [N, C, H, W] with ``y`` [N, condition_dim] to the same shape."""
        gain = 1 + self.scale(y)[:, :, None, None]
        return cast(Tensor, self.standardise(x, rows) * gain + self.offset(y)[:, :, None, None])


class BatchNorm(TruncatedBatchNorm):
    """Batch norm with a learnt weight and bias."""

    def __init__(self, channels: int, n_stats: int, eps: float) -> None:
        super().__init__(channels, n_stats, eps)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Map ``x`` [N, C, H, W] to the same shape."""
        return self.standardise(x, rows) * self.weight[:, None, None] + self.bias[:, None, None]


class SelfAttention(nn.Module):
    """Self-attention ``x + gamma o(attend(theta(x), phi(x), g(x)))`` (Zhang et al. 2019, equation 3)."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        keys, values = channels // ATTENTION_DIVISOR, channels // 2
        self.snconv1x1_theta = Conv(channels, keys, 1, eps, bias=False)
        self.snconv1x1_phi = Conv(channels, keys, 1, eps, bias=False)
        self.snconv1x1_g = Conv(channels, values, 1, eps, bias=False)
        self.snconv1x1_o_conv = Conv(values, channels, 1, eps, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, C, H, W] to the same shape."""
        seen = attend(self.snconv1x1_theta(x), self.snconv1x1_phi(x), self.snconv1x1_g(x))
        return cast(Tensor, x + self.gamma * self.snconv1x1_o_conv(seen))
