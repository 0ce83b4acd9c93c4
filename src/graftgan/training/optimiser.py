"""Adam as the trainers use it."""

from __future__ import annotations

import torch
from torch import nn

ADAM_BETAS = (0.0, 0.99)


def make_adam(network: nn.Module, lr: float, lazy_interval: int) -> torch.optim.Adam:
    """Return Adam over the tensors that move, rescaled for lazy terms (Karras et al. 2020, appendix B)."""
    ratio = lazy_interval / (lazy_interval + 1) if lazy_interval else 1.0
    moving = [p for p in network.parameters() if p.requires_grad]
    betas = (ADAM_BETAS[0] ** ratio, ADAM_BETAS[1] ** ratio)
    return torch.optim.Adam(moving, lr=lr * ratio, betas=betas, eps=1e-8, fused=True)


def lay_out(adam: torch.optim.Adam) -> None:
    """Give the moments the memory layout of their parameters.

    Saved tensors are contiguous. The fused kernel on a CPU walks through memory without a look at strides, so
    with channels_last weights it would pair each weight with another one's moments.
    """
    for parameter, moments in adam.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            moments[name] = torch.empty_like(parameter, requires_grad=False).copy_(moments[name])


def rate_of(adam: torch.optim.Adam) -> float:
    """Return its learning rate."""
    return float(adam.param_groups[0]["lr"])
