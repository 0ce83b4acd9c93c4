"""Batch normalisation over a batch that is cut over workers."""

from __future__ import annotations

import torch
from torch import Tensor

from graftgan.world import averaged, shards


def batch_norm(
    x: Tensor,
    stored_mean: Tensor,
    stored_var: Tensor,
    gain: Tensor,
    bias: Tensor,
    momentum: float,
    eps: float,
) -> Tensor:
    """Normalise by the statistics of all workers' images, and let the stored ones follow.

    Computes ``gain * (x - mean) / sqrt(var + eps) + bias`` (Ioffe & Szegedy 2015, algorithm 1), which is
    `torch.nn.functional.batch_norm` in training for a batch in one piece; differentiable twice.

    Args:
        x: This worker's part [n, C, H, W]; as many images as every other's.
        stored_mean: Running mean [C]; moved in place.
        stored_var: Running variance [C], unbiased; moved in place.
        gain: Factor [C].
        bias: Offset [C].
        momentum: Weight of the batch in the running statistics.
        eps: Added to the variance.
    """
    axes = (0, 2, 3)
    wide = x.float()
    mean = averaged(wide.mean(axes))
    centred = wide - mean[:, None, None]
    var = averaged(centred.square().mean(axes))
    count = shards() * x.numel() / x.shape[1]
    with torch.no_grad():
        stored_mean.lerp_(mean.detach(), momentum)
        stored_var.lerp_(var.detach() * count / (count - 1), momentum)
    scale = gain * (var + eps).rsqrt()
    return (centred * scale[:, None, None] + bias[:, None, None]).to(x.dtype)
