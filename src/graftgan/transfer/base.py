"""What a transfer method fills in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from graftgan.config import Finetune
from graftgan.gans.base import Gan
from graftgan.gans.biggan.layers import SpectralNormed
from graftgan.gans.biggan_deep.layers import StoredSpectralNorm
from graftgan.gans.folding import adapters, fold

Chooser = Callable[[Gan, Finetune], set[str]]
Preparation = Callable[[Gan, Finetune], None]


def every_parameter(network: nn.Module) -> set[str]:
    """Return the names of all parameters of a network."""
    return {name for name, _ in network.named_parameters()}


@dataclass(frozen=True)
class Method:
    """A published way of adapting a GAN, as the set of tensors that move.

    Attributes:
        name: Value of `finetune.method`.
        help: One line, with the source.
        trainable_generator: Names of G's parameters that move.
        trainable_discriminator: Names of D's parameters that move.
        prepare: Gives G and its average the parametrizations that the method trains. It must draw from no
            global generator, and both networks get equal ones, so that averages of their parameters follow.
    """

    name: str
    help: str
    trainable_generator: Chooser
    trainable_discriminator: Chooser
    prepare: Preparation | None = None

    def apply(self, gan: Gan, settings: Finetune) -> None:
        """Prepare the networks, turn gradients on for the tensors that move, and off for all others."""
        if self.prepare is not None:
            self.prepare(gan, settings)
            gan.generator_ema.requires_grad_(False)
        _freeze_all_but(gan.generator, self.trainable_generator(gan, settings))
        _freeze_all_but(gan.discriminator, self.trainable_discriminator(gan, settings))

    def finish(self, gan: Gan) -> int:
        """Turn parametrised networks into plain ones and return how many parameters G had beyond those."""
        added = sum(parameter.numel() for parameter in adapters(gan.generator).values())
        fold(gan.generator)
        fold(gan.generator_ema)
        return added


def _freeze_all_but(network: nn.Module, moving: set[str]) -> None:
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in moving)
    for module in network.modules():
        if isinstance(module, SpectralNormed | StoredSpectralNorm):
            # Or the power method would go on and scale a weight that is to stay.
            weights = [p for name, p in module.named_parameters() if name != "bias"]
            module.frozen = not any(parameter.requires_grad for parameter in weights)
