"""The networks of an image-to-image task: one or two generators, their discriminators, their averages."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from graftgan.errors import ConfigError
from graftgan.gans.base import to_uint8
from graftgan.lifelong_config import Kind, Translate
from graftgan.training.patches import largest_patch, patch_discriminator

IMAGE_CHANNELS = 3


@dataclass
class Translators:
    """The networks of one task.

    Attributes:
        generator: Inputs to targets, images in [-1, 1]; parameters that do not require gradients rest.
        discriminator: Judges targets, of paired tasks joined to their inputs.
        back: Targets to inputs; unpaired tasks only.
        discriminator_back: Judges inputs; unpaired tasks only.
        generator_ema: What is measured and kept; the generator itself unless the settings ask for an average.
        back_ema: The same of `back`.
        prior: None; translators draw nothing.
    """

    generator: nn.Module
    discriminator: nn.Module
    back: nn.Module | None = None
    discriminator_back: nn.Module | None = None
    generator_ema: nn.Module = field(init=False)
    back_ema: nn.Module | None = field(init=False)
    prior: None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.generator_ema, self.back_ema = self.generator, self.back

    def average(self) -> None:
        """Give the averages weights of their own."""
        self.generator_ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        if self.back is not None:
            self.back_ema = copy.deepcopy(self.back).eval().requires_grad_(False)

    def named(self) -> dict[str, nn.Module]:
        """Return the distinct networks there are, by attribute."""
        names = ("generator", "discriminator", "back", "discriminator_back", "generator_ema", "back_ema")
        found: dict[str, nn.Module] = {}
        for name in names:
            network = getattr(self, name)
            if network is not None and all(network is not other for other in found.values()):
                found[name] = network
        return found


def make_translators(
    kind: Kind, generator: nn.Module, settings: Translate, resolution: int, back: nn.Module | None = None
) -> Translators:
    """Add fresh discriminators to the generators of a task, seeded by the settings.

    Raises:
        ConfigError: An unpaired task is given no second generator.
    """
    if kind == "unpaired" and back is None:
        raise ConfigError(
            "an unpaired task needs a generator for each direction", "give the second one as `back`"
        )
    patch_px = settings.patch_px or largest_patch(resolution)
    channels = IMAGE_CHANNELS * (2 if kind == "paired" else 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        first = patch_discriminator(channels, patch_px, settings.ndf, settings.norm_d)
        if kind == "paired":
            return Translators(generator, first)
        second = patch_discriminator(channels, patch_px, settings.ndf, settings.norm_d)
    return Translators(generator, first, back, second)


@torch.no_grad()
def translate(generator: nn.Module, inputs: NDArray[np.uint8], batch: int = 16) -> NDArray[np.uint8]:
    """Translate images, uint8 [N, R, R, 3] to the same, in evaluation mode and float32."""
    device = next(generator.parameters()).device
    was_training = generator.training
    generator.eval()
    parts = []
    try:
        for start in range(0, len(inputs), batch):
            pixels = torch.from_numpy(np.array(inputs[start : start + batch])).to(device)
            parts.append(to_uint8(generator(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)))
    finally:
        generator.train(was_training)
    return np.concatenate(parts) if parts else inputs
