"""What public StyleGAN2 files have in common: the rule of widths, the fixed filter, the mean of w."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from graftgan.checkpoints.imported import refuse
from graftgan.gans.stylegan2.mapping import Mapping as MappingNetwork
from graftgan.gans.stylegan2.spec import StyleGAN2Spec

FILTER_REASON = "the filter [1, 3, 3, 1] is fixed in this network"
MEAN_W_LATENTS = 4096
MEAN_W_BATCH = 256


def filter_kernel(gain: float = 1.0) -> Tensor:
    """Return the 4x4 filter of all StyleGAN2 files: the outer product of [1, 3, 3, 1], of sum `gain`."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64 * gain


def check_filter(path: Path, name: str, tensor: Tensor, gain: float = 1.0) -> str:
    """Return why a filter is left out.

    Raises:
        CheckpointError: It is another filter than ours, so the network would compute something else.
    """
    expected = filter_kernel(gain)
    if tensor.shape != expected.shape or not torch.allclose(tensor.float(), expected, rtol=0, atol=1e-6):
        raise refuse(path, f"{name} is not the filter [1, 3, 3, 1], the only one that can be read")
    return FILTER_REASON


def width_rule(path: Path, widths: Mapping[int, int]) -> tuple[int, int]:
    """Find the smallest `channel_base`, and `channel_max`, that give a file's widths.

    Args:
        path: The file, for messages.
        widths: Resolution -> feature maps, which must be `min(channel_base // resolution, channel_max)`.

    Raises:
        CheckpointError: The widths do not follow that rule.
    """
    most = max(widths.values())
    base = max(width * resolution for resolution, width in widths.items())
    wrong = [r for r, width in widths.items() if min(base // r, most) != width]
    if wrong:
        held = ", ".join(f"{width} at {resolution} px" for resolution, width in widths.items())
        raise refuse(path, f"its widths do not follow min(base // resolution, max): {held}")
    return base, most


@torch.no_grad()
def mean_w(spec: StyleGAN2Spec, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the mean of w [w_dim] over 4096 latents of seed 0.

    Args:
        spec: Sizes of the network.
        tensors: Its mapping network, as `fc0.weight`, without `w_avg`.
    """
    network = MappingNetwork(spec).eval()
    network.load_state_dict({**tensors, "w_avg": torch.zeros(spec.w_dim)})
    rng = torch.Generator().manual_seed(0)
    total = torch.zeros(spec.w_dim)
    for _ in range(MEAN_W_LATENTS // MEAN_W_BATCH):
        total += network(torch.randn(MEAN_W_BATCH, spec.z_dim, generator=rng))[:, 0].sum(0)
    return total / MEAN_W_LATENTS
