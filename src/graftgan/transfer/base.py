"""What a transfer method fills in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from graftgan.config import Finetune
from graftgan.gans.base import Gan

Chooser = Callable[[Gan, Finetune], set[str]]


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
    """

    name: str
    help: str
    trainable_generator: Chooser
    trainable_discriminator: Chooser

    def apply(self, gan: Gan, settings: Finetune) -> None:
        """Turn gradients on for the tensors that move, and off for all others."""
        _freeze_all_but(gan.generator, self.trainable_generator(gan, settings))
        _freeze_all_but(gan.discriminator, self.trainable_discriminator(gan, settings))


def _freeze_all_but(network: nn.Module, moving: set[str]) -> None:
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in moving)
