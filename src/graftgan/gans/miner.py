"""A small network in front of a generator while it trains; see `laws` for what is left of it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from graftgan.gans.base import Gan, Generator, StyledGenerator
from graftgan.gans.laws import MinedNormal, mined

NAME = "miner"


class Miner(nn.Module):
    """Maps normal numbers u [N, z_dim] to latents ``u + MLP(u)``, which is u exactly at the start.

    The last layer starts at 0, the others with variance 2 / inputs (He et al. 2015), and biases at 0.

    Args:
        z_dim: Length of a latent.
        layers: Linear layers, leaky ReLU between them.
        width: Units of the inner layers.
        rng: CPU generator that weights are drawn from.
    """

    def __init__(self, z_dim: int, layers: int, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.layers = layers
        sizes = [z_dim, *[width] * (layers - 1), z_dim]
        for i, (inner, outer) in enumerate(pairwise(sizes)):
            drawn = torch.randn(outer, inner, generator=rng, device="cpu") * math.sqrt(2 / inner)
            self.register_parameter(f"weight{i}", nn.Parameter(drawn if i < layers - 1 else drawn * 0))
            self.register_parameter(f"bias{i}", nn.Parameter(torch.zeros(outer)))

    def forward(self, u: Tensor) -> Tensor:
        """Map ``u`` [N, z_dim] to latents of the same shape."""
        return mined(u, self._pairs())

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        return [(getattr(self, f"weight{i}"), getattr(self, f"bias{i}")) for i in range(self.layers)]

    def law(self) -> MinedNormal:
        """Return the law of what it makes of N(0, I) now, as a copy on the CPU."""
        return MinedNormal(
            tuple((w.detach().cpu().clone(), b.detach().cpu().clone()) for w, b in self._pairs())
        )


def _port(generator: Generator) -> nn.Module:
    """Return the module that takes z: training calls the parts of a styled generator one by one."""
    return generator.mapping if isinstance(generator, StyledGenerator) else generator


def _mine(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (cast(Miner, getattr(module, NAME))(given[0]), *given[1:])


def attach(generator: Generator, miner: Miner) -> None:
    """Put a miner in front of a generator, as a part of it: its weights are among the generator's."""
    port = _port(generator)
    port.add_module(NAME, miner.to(next(generator.parameters()).device))
    port.register_forward_pre_hook(_mine)


def miner_of(generator: Generator) -> Miner | None:
    """Return the miner in front of a generator, None if there is none."""
    return cast("Miner | None", getattr(_port(generator), NAME, None))


def is_mined(name: str) -> bool:
    """Tell whether a tensor of a generator, by its name, is one of its miner's."""
    return NAME in name.split(".")


def detach(gan: Gan) -> int:
    """Take the miners away and make the averaged one the networks' prior; return the miner's parameters.

    Networks without a miner keep what prior they have.
    """
    averaged = miner_of(gan.generator_ema)
    if averaged is None:
        return 0
    gan.prior = averaged.law()
    for generator in (gan.generator, gan.generator_ema):
        port = _port(generator)
        for key, hook in list(port._forward_pre_hooks.items()):
            if hook is _mine:
                del port._forward_pre_hooks[key]
        delattr(port, NAME)
    return sum(parameter.numel() for parameter in averaged.parameters())
