"""Values for fresh networks under which every tensor matters."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def fill(network: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all tensors anew: variances from 0.5 to 1.5, strengths of attention near 1, others normal."""
    rng = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=rng, dtype=tensor.dtype)
        if "var" in name:
            drawn = 0.5 + torch.rand(tensor.shape, generator=rng, dtype=tensor.dtype)
        elif name.endswith("gamma") or name == "output_layer.0.gain":
            drawn = 1 + 0.3 * drawn
        elif not name.endswith(("u0", "weight_u", "weight_v")):
            drawn = 0.4 * drawn
        tensor.copy_(drawn)
    for module in network.modules():
        if hasattr(module, "weight_u"):
            _align(module)
    return network


def _align(module: nn.Module) -> None:
    """Let stored singular vectors follow from a power iteration; random ones divide by almost nothing."""
    matrix = module.weight_orig.flatten(1)
    v = nn.functional.normalize(matrix.t() @ module.weight_u, dim=0)
    module.weight_v.copy_(v)
    module.weight_u.copy_(nn.functional.normalize(matrix @ v, dim=0))
