"""What a transfer method fills in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from graftgan.config import Finetune
from graftgan.gans import patch_heads
from graftgan.gans.base import Gan
from graftgan.gans.biggan.layers import SpectralNormed
from graftgan.gans.biggan_deep.layers import StoredSpectralNorm
from graftgan.gans.folding import adapters, fold, plain_name
from graftgan.gans.miner import detach
from graftgan.gans.stylegan3.generator import SynthesisLayer
from graftgan.transfer.direct import DirectFactory

Chooser = Callable[[Gan, Finetune], set[str]]
Preparation = Callable[[Gan, Finetune], None]
Rest = Callable[[Gan, Finetune, int], set[str]]
Check = Callable[[Finetune], None]
Begins = Callable[[Finetune], tuple[str, float] | None]


def fresh_parameters(gan: Gan, network: str) -> set[str]:
    """Return the names of a network's parameters that its source did not have; a method never fixes them."""
    fresh = gan.fresh_in(network)
    return {name for name in every_parameter(getattr(gan, network)) if plain_name(name) in fresh}


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
        resting: What of these tensors does not move yet, or no longer, once so many images were seen: names
            that begin with `generator.` or `discriminator.`; None if all move all the time.
        begins: Key below `finetune` that says when the last of what rests at first begins to move, and after
            how many images; None where nothing waits.
        check: Refuses settings that cannot go together, by a ConfigError, before anything is loaded.
        adapter: Whether few of G's tensors move, so that a file of these alone is worth having.
        penalties: Names of the terms that it adds to the losses, as in `finetune.penalties`.
        families: The families of networks that have what it trains; None is all.
        fixes_d: Whether it keeps a part of the source's D.
        direct: Makes the trainer of a method without a discriminator; None for the game of G against D.
    """

    name: str
    help: str
    trainable_generator: Chooser
    trainable_discriminator: Chooser
    prepare: Preparation | None = None
    resting: Rest | None = None
    begins: Begins | None = None
    check: Check | None = None
    adapter: bool = False
    penalties: tuple[str, ...] = ()
    families: tuple[str, ...] | None = None
    fixes_d: bool = False
    direct: DirectFactory | None = None

    def apply(self, gan: Gan, settings: Finetune) -> None:
        """Prepare the networks, turn gradients on for the tensors that move, and off for all others.

        What the source did not have moves with every method: fixed, it would stay random.
        """
        self.even_out(gan, settings)
        if self.prepare is not None:
            self.prepare(gan, settings)
            gan.generator_ema.requires_grad_(False)
        moving = self.trainable_generator(gan, settings) | fresh_parameters(gan, "generator")
        _freeze_all_but(gan.generator, moving)
        moving = self.trainable_discriminator(gan, settings) | fresh_parameters(gan, "discriminator")
        _freeze_all_but(gan.discriminator, moving)

    def rests(self, gan: Gan, settings: Finetune, images_seen: int) -> set[str]:
        """Return what does not move yet, or no longer, as `resting` names it; what is fresh always moves."""
        if self.resting is None:
            return set()
        networks = ("generator", "discriminator")
        fresh = {f"{network}.{name}" for network in networks for name in fresh_parameters(gan, network)}
        return self.resting(gan, settings, images_seen) - fresh

    def even_out(self, gan: Gan, settings: Finetune) -> None:
        """Let G start as its average where something of G stays fixed, be it for a time.

        The average of the fixed tensors would otherwise go on moving, towards those that G happened to end
        its own training with. What is computed from the source before `apply` wants this first.
        """
        if self._fixes_something(gan, settings):
            gan.generator.load_state_dict(gan.generator_ema.state_dict())

    def _fixes_something(self, gan: Gan, settings: Finetune) -> bool:
        if self.prepare is not None:
            gan = copy.deepcopy(gan)
            self.prepare(gan, settings)
        moving = self.trainable_generator(gan, settings)
        resting = self.rests(gan, settings, 0)
        moving = {name for name in moving if f"generator.{name}" not in resting}
        return bool(every_parameter(gan.generator) - moving)

    def finish(self, gan: Gan) -> int:
        """Turn parametrised networks into plain ones and return how many parameters G had beyond those.

        A miner in front of G becomes its prior; heads for patches go.
        """
        patch_heads.detach(gan)
        added = detach(gan) + sum(parameter.numel() for parameter in adapters(gan.generator).values())
        for network in (gan.generator, gan.generator_ema, gan.discriminator):
            fold(network)
        return added


def _freeze_all_but(network: nn.Module, moving: set[str]) -> None:
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in moving)
    moves = False
    for module in network.modules():
        if isinstance(module, SynthesisLayer):
            # What it follows is its input, which changes with whatever moves before it.
            moves = moves or any(parameter.requires_grad for parameter in module.parameters())
            module.frozen = not moves
        moves = moves or any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        if isinstance(module, SpectralNormed | StoredSpectralNorm):
            # Or the power method would go on and scale a weight that is to stay.
            weights = [p for name, p in module.named_parameters() if name != "bias"]
            module.frozen = not any(parameter.requires_grad for parameter in weights)
