"""Specs small enough for tests, of every kind with every norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graftgan.gans.translation import KINDS, NORMS, TranslatorSpec, build_translator

ALL = [
    TranslatorSpec(kind=kind, norm=norm, ngf=2, ndf=2, out_channels=1 if kind == "patchgan" else 3)
    for kind in KINDS
    for norm in NORMS
]


def lively(spec: TranslatorSpec, seed: int = 0) -> nn.Module:
    """Build a network in evaluation mode, each weight and statistic off its initial value."""
    torch.manual_seed(seed)
    network = build_translator(spec).eval()
    state: dict[str, Any] = {}
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            state[name] = torch.rand_like(tensor) + 0.5
        elif tensor.is_floating_point():
            state[name] = tensor + torch.randn_like(tensor) * 0.1
        else:
            state[name] = torch.tensor(7)
    network.load_state_dict(state)
    return network
