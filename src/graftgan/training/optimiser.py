"""Adam as the trainers use it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graftgan.training.layout import walk_straight

ADAM_BETAS = (0.0, 0.99)


def make_adam(network: nn.Module, lr: float, lazy_interval: int) -> torch.optim.Adam:
    """Return Adam over the tensors that move, rescaled for lazy terms (Karras et al. 2020, appendix B)."""
    ratio = lazy_interval / (lazy_interval + 1) if lazy_interval else 1.0
    moving = [p for p in network.parameters() if p.requires_grad]
    betas = (ADAM_BETAS[0] ** ratio, ADAM_BETAS[1] ** ratio)
    adam = torch.optim.Adam(moving, lr=lr * ratio, betas=betas, eps=1e-8, fused=True)
    if all(p.device.type == "cpu" for p in moving):
        walk_straight(adam)
    return adam


def rate_of(adam: torch.optim.Adam) -> float:
    """Return its learning rate."""
    return float(adam.param_groups[0]["lr"])


def limited(moving: Sequence[nn.Parameter], limit: float | None) -> Tensor:
    """Clip gradients to a length, if there is a limit; return the length that they had."""
    return nn.utils.clip_grad_norm_(moving, limit) if limit else measured_length(moving)


def measured_length(moving: Sequence[nn.Parameter]) -> Tensor:
    """Return the length of all gradients together, as clipping them to an infinite length would.

    That multiplies every gradient by one, or by no number where the length is none, so that weights show that
    the run diverged. Here the first gradient alone is multiplied, which suffices for that.
    """
    gradients = [p.grad for p in moving if p.grad is not None]
    length = nn.utils.get_total_norm(gradients)
    for gradient in gradients[:1]:
        gradient.mul_((torch.inf / length).clamp(max=1.0))
    return length
