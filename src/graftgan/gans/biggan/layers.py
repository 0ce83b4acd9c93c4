"""Layers that BigGAN's networks share: spectral normalisation, batch norms, self-attention."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftgan.gans.across import batch_norm
from graftgan.gans.biggan.spec import ATTENTION_DIVISOR
from graftgan.gans.stylegan2.layers import full_precision
from graftgan.world import shards

WEIGHT_STD = 0.02
MOMENTUM = 0.1
PLAIN_BN_EPS = 1e-5


def look_up(table: Tensor, labels: Tensor | None) -> Tensor:
    """Return rows of ``table`` [classes, F] for class ids [N], or their mixtures for weights [N, classes].

    Raises:
        ValueError: Labels are missing or of the wrong shape.
    """
    classes = table.shape[0]
    if labels is None:
        raise ValueError(f"this network has {classes} classes: pass the class id of every image as `labels`")
    if not labels.is_floating_point() and labels.ndim == 1:
        return F.embedding(labels.long(), table)
    if labels.shape[1:] != (classes,):
        raise ValueError(f"labels of shape {tuple(labels.shape)}: expected [N] or [N, {classes}]")
    return labels.to(table.dtype) @ table


class SpectralNormed(nn.Module):
    """A weight divided by an estimate of its largest singular value (Miyato et al. 2018, algorithm 1).

    The weight is stored as it is. Every call does one step of the power method from ``u0``; in training the
    step is kept, in evaluation it is not. ``sv0`` logs the last value in training and is not read.

    Args:
        shape: Shape of the weight; the first axis against all others makes the matrix.
        bias: Whether there is a bias, one value for each row.
        eps: Lower limit of the norms that vectors are divided by.

    Attributes:
        frozen: Keep no step in training either, for a weight that does not move.
    """

    u0: Tensor
    sv0: Tensor

    def __init__(self, shape: tuple[int, ...], bias: bool, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape).normal_(std=WEIGHT_STD))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.register_buffer("u0", torch.randn(1, shape[0]))
        self.register_buffer("sv0", torch.ones(1))
        self.eps = eps
        self.frozen = False

    def normalised(self) -> Tensor:
        """Return the weight that the layer computes with."""
        weight: Tensor = self.weight
        with full_precision(weight):
            matrix = weight.flatten(1)
            with torch.no_grad():
                v = F.normalize(self.u0 @ matrix, eps=self.eps)
                u = F.normalize(v @ matrix.t(), eps=self.eps)
            value = ((v @ matrix.t()) * u).sum()
            if self.training and not self.frozen:
                self._keep(u, value)
            return weight / value

    @torch.no_grad()
    def _keep(self, u: Tensor, value: Tensor) -> None:
        self.u0.copy_(u)
        self.sv0.fill_(value)


class SNConv2d(SpectralNormed):
    """Convolution of stride 1 that keeps the size."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, eps: float, bias: bool = True
    ) -> None:
        super().__init__((out_channels, in_channels, kernel, kernel), bias, eps)
        self.padding = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, I, H, W] to [N, O, H, W]."""
        return F.conv2d(x, self.normalised(), self.bias, padding=self.padding)


class SNLinear(SpectralNormed):
    """Linear layer."""

    def __init__(self, in_features: int, out_features: int, eps: float, bias: bool = True) -> None:
        super().__init__((out_features, in_features), bias, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, I] to [N, O]."""
        return F.linear(x, self.normalised(), self.bias)


class SNEmbedding(SpectralNormed):
    """Table of one vector a class."""

    def __init__(self, classes: int, features: int, eps: float) -> None:
        super().__init__((classes, features), False, eps)

    def forward(self, labels: Tensor | None) -> Tensor:
        """Map class ids [N] or weights [N, classes] to [N, features]."""
        return look_up(self.normalised(), labels)


class Table(nn.Module):
    """Table of one vector a class, without normalisation."""

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, features).normal_(std=WEIGHT_STD))

    def forward(self, labels: Tensor | None) -> Tensor:
        """Map class ids [N] or weights [N, classes] to [N, features]."""
        return look_up(self.weight, labels)


class StoredStatistics(nn.Module):
    """Batch norm without its gain and bias: batch statistics in training, running ones otherwise.

    Attributes:
        frozen: Use the running statistics in training too and leave them as they are. Batches of few classes
            ruin statistics that were gathered over a thousand.
    """

    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))
        self.eps = eps
        self.frozen = False

    def standardise(self, x: Tensor, gain: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Return ``gain * (x - mean) / sqrt(var + eps) + bias`` for ``x`` [N, C, H, W]."""
        from_batch = self.training and not self.frozen
        mean, var = self.stored_mean, self.stored_var
        # Exporters need a gain and a bias.
        gain = torch.ones_like(mean) if gain is None else gain
        bias = torch.zeros_like(mean) if bias is None else bias
        if from_batch and shards() > 1:
            return batch_norm(x, mean, var, gain, bias, MOMENTUM, self.eps)
        return F.batch_norm(x, mean, var, gain, bias, from_batch, MOMENTUM, self.eps)


class BatchNorm(StoredStatistics):
    """Batch norm with a learnt gain and bias."""

    def __init__(self, channels: int) -> None:
        # The public code leaves this layer at its default, whatever BN_eps is.
        super().__init__(channels, PLAIN_BN_EPS)
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, C, H, W] to the same shape."""
        return self.standardise(x, self.gain, self.bias)


class ConditionalBatchNorm(StoredStatistics):
    """Batch norm whose gain and bias follow from a condition: ``(1 + gain(y)) bn(x) + bias(y)``.

    Args:
        channels: Feature maps.
        condition_dim: Length of ``y``.
        table: Whether ``y`` are class weights and gain and bias are tables without normalisation.
        bn_eps: Added to the variance.
        sn_eps: Lower limit of norms in the spectral normalisation.
    """

    def __init__(self, channels: int, condition_dim: int, table: bool, bn_eps: float, sn_eps: float) -> None:
        super().__init__(channels, bn_eps)
        self.gain, self.bias = (
            Table(condition_dim, channels) if table else SNLinear(condition_dim, channels, sn_eps, bias=False)
            for _ in range(2)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Map ``x`` [N, C, H, W] with ``y`` [N, condition_dim] to the same shape."""
        gain = 1 + self.gain(y)[:, :, None, None]
        return cast(Tensor, self.standardise(x) * gain + self.bias(y)[:, :, None, None])


def attend(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """Return values averaged at every place by softmax of key products (Zhang et al. 2019, equations 1-2).

    Args:
        theta: Queries [N, K, H, W].
        phi: Keys [N, K, H, W]; they and the values are halved in size by max-pooling.
        g: Values [N, V, H, W].

    Returns:
        [N, V, H, W].
    """
    keys, values = F.max_pool2d(phi, 2).flatten(2), F.max_pool2d(g, 2).flatten(2)
    weights = F.softmax(theta.flatten(2).transpose(1, 2) @ keys, dim=-1)
    return (values @ weights.transpose(1, 2)).reshape(g.shape)


class Attention(nn.Module):
    """Self-attention ``x + gamma o(attend(theta(x), phi(x), g(x)))`` (Zhang et al. 2019, equation 3)."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        keys, values = channels // ATTENTION_DIVISOR, channels // 2
        self.theta = SNConv2d(channels, keys, 1, eps, bias=False)
        self.phi = SNConv2d(channels, keys, 1, eps, bias=False)
        self.g = SNConv2d(channels, values, 1, eps, bias=False)
        self.o = SNConv2d(values, channels, 1, eps, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, C, H, W] to the same shape."""
        return cast(Tensor, x + self.gamma * self.o(attend(self.theta(x), self.phi(x), self.g(x))))
