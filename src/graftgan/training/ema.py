"""Exponential moving average of the generator, with its half-life in images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def ema_beta(batch: int, half_life_kimg: float, images_seen: int | None = None, ramp: float = 0.05) -> float:
    """Return the decay a step: `0.5 ** (batch / half_life)` (Karras et al. 2018, appendix).

    Args:
        batch: Images a step.
        half_life_kimg: After so many thousand images an old weight's share is one half.
        images_seen: With a number, the half-life is at most `ramp * images_seen`, as training from scratch
            needs; None turns this ramp off, as adaptation needs.
        ramp: Share of the images seen.
    """
    half_life = half_life_kimg * 1000
    if images_seen is not None:
        half_life = min(half_life, images_seen * ramp)
    return float(0.5 ** (batch / max(half_life, 1e-8)))


@torch.no_grad()
def update_ema(average: nn.Module, current: nn.Module, beta: float) -> None:
    """Move `average` towards `current`: parameters by `1 - beta`, buffers by copy, all in float32."""
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(current.parameters())
    torch._foreach_lerp_(ours, theirs, 1.0 - beta)
    buffers: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for mine, other in zip(average.buffers(), current.buffers(), strict=True):
        pair = buffers.setdefault(mine.dtype, ([], []))
        pair[0].append(mine)
        pair[1].append(other)
    # A launch for all of a type, where the device has such kernels.
    for targets, sources in buffers.values():
        torch._foreach_copy_(targets, sources)
