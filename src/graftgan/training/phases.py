"""Parameters that move for a part of a run only."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from graftgan.errors import ConfigError
from graftgan.gans.base import Gan

Resting = Callable[[int], set[str]]
"""Maps images seen to the names, as ``generator.NAME`` or ``discriminator.NAME``, of what rests then."""


class Phases:
    """Turns gradients off for parameters while they rest, and on again.

    Such parameters are in the optimiser from the first step on, which passes over them while they have no
    gradient: neither they nor their moments change, and their count of steps begins with their first one.
    What rests depends on the images seen alone, so that a run that goes on from a saved state is in the right
    phase.

    Args:
        gan: Networks; what asks for gradients now is what moves in the run.
        resting: What of it rests, at each step.
    """

    def __init__(self, gan: Gan, resting: Resting) -> None:
        networks: dict[str, nn.Module] = {"generator": gan.generator, "discriminator": gan.discriminator}
        self.moving = {
            f"{network}.{name}": parameter
            for network, module in networks.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self.resting = resting
        self.asleep: set[str] = set()

    def enter(self, images_seen: int) -> None:
        """Set gradients for the step that comes after so many images.

        Raises:
            ConfigError: Nothing of a network that has tensors to move would move.
        """
        asleep = self.resting(images_seen) & self.moving.keys()
        if asleep == self.asleep:
            return
        awake = self.moving.keys() - asleep
        for network in ("generator.", "discriminator."):
            if any(name.startswith(network) for name in asleep) and not any(
                name.startswith(network) for name in awake
            ):
                raise ConfigError(
                    f"after {images_seen} images nothing of the {network[:-1]} moves",
                    "let one of its tensors move from the start",
                )
        for name, parameter in self.moving.items():
            parameter.requires_grad_(name not in asleep)
            if name in asleep:
                parameter.grad = None
        self.asleep = asleep
