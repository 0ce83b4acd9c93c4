"""Low-rank adapters (Hu et al., LoRA, ICLR 2022, arXiv:2106.09685) on a StyleGAN's modulated convolutions."""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, Generator
from graftgan.gans.folding import adapters
from graftgan.gans.stylegan2.generator import SynthesisLayer
from graftgan.gans.stylegan2.layers import full_precision
from graftgan.gans.stylegan3.generator import SynthesisLayer as SynthesisLayer3
from graftgan.transfer.base import Method, every_parameter


class LowRank(nn.Module):
    """Computes ``W + B A / sqrt(r)`` with ``W`` [O, I, k, k] as a matrix [O, I k k]; ``B`` is 0 at the start.

    ``A`` starts as normal numbers of unit variance, as the weights of these networks do. With the factor, a
    step of Adam on ``B`` then moves the weights as far as a step on themselves would, at any rank
    (Kalajdzievski 2023, arXiv:2312.03732, for the root).

    Args:
        weight: The weight it acts on.
        rank: r.
        rng: CPU generator that A is drawn from.
    """

    def __init__(self, weight: Tensor, rank: int, rng: torch.Generator) -> None:
        super().__init__()
        drawn = torch.randn(rank, weight[0].numel(), generator=rng, device="cpu")
        self.a = nn.Parameter(drawn.to(weight.device))
        self.b = nn.Parameter(torch.zeros(len(weight), rank, device=weight.device))
        self.gain = 1 / math.sqrt(rank)

    def forward(self, weight: Tensor) -> Tensor:
        """Map the weight to the adapted one, in its own precision."""
        # As a matrix product its last bits would depend on where the tensors lie in memory, and an adapter
        # applied elsewhere would not give the bits of the run.
        with full_precision(weight):
            outer = (self.b[:, r, None] * self.a[r] for r in range(len(self.a)))
            return weight + (reduce(torch.add, outer) * self.gain).view(weight.shape)


def modulated(generator: Generator) -> list[str]:
    """Return the names of the modulated convolutions between feature maps."""
    return [
        name
        for name, module in generator.named_modules()
        if isinstance(module, SynthesisLayer)
        or (isinstance(module, SynthesisLayer3) and not module.shape.to_rgb)
    ]


def prepare(gan: Gan, settings: Finetune) -> None:
    """Give every modulated convolution of G and of its average the same adapter.

    Raises:
        ConfigError: If there is no such convolution, or one has fewer than `adapter_rank` filters.
    """
    chosen, rank = modulated(gan.generator), settings.adapter_rank
    if not chosen:
        raise ConfigError(
            f"finetune.method=lora needs modulated convolutions, which family={gan.spec.family} lacks",
            "use another method, or set rank.sources to those of stylegan2 or stylegan3",
        )
    narrowest = min(len(gan.generator.get_parameter(f"{name}.weight")) for name in chosen)
    if rank > narrowest:
        raise ConfigError(
            f"finetune.adapter_rank={rank} with finetune.method=lora: a convolution has {narrowest} filters",
            f"use {narrowest} or less",
        )
    for network in (gan.generator, gan.generator_ema):
        rng = torch.Generator().manual_seed(settings.seed)
        for name in chosen:
            module = network.get_submodule(name)
            adapter = LowRank(network.get_parameter(f"{name}.weight"), rank, rng)
            parametrize.register_parametrization(module, "weight", adapter)


METHOD = Method(
    name="lora",
    families=("stylegan2", "stylegan3"),
    help="G stays fixed but for a low-rank term in each modulated convolution (LoRA, Hu et al. 2022).",
    trainable_generator=lambda gan, settings: set(adapters(gan.generator)),
    trainable_discriminator=lambda gan, settings: every_parameter(gan.discriminator),
    prepare=prepare,
    adapter=True,
)
