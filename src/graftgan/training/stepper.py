"""What the loop asks of whatever it runs: the GAN trainer, or a method without a discriminator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from graftgan.config import Finetune
from graftgan.gans.base import Gan
from graftgan.training.augment import Augment
from graftgan.training.meter import Meter
from graftgan.training.penalty import Penalty


class Steps(Protocol):
    """Training of any networks, one step at a time.

    Attributes:
        images: Training images, uint8 [N, R, R, C]; their number turns epochs into steps.
        device: Where it computes.
        dtype: What it computes in.
        images_seen: Steps done, times the batch.
        lr_scale: What learning rates are multiplied by after divergences.
        augment: What D sees; without a discriminator, nothing.
        meter: Means of what a step has to show; names of losses begin with ``loss``.
        penalties: Terms added to the losses.
    """

    images: NDArray[np.uint8]
    device: torch.device
    dtype: torch.dtype
    images_seen: int
    lr_scale: float
    augment: Augment
    meter: Meter
    penalties: tuple[Penalty, ...]

    def seed_noise(self) -> None:
        """Seed torch's global generators."""

    def step(self) -> None:
        """Do one step and count its images."""

    def part_done(self) -> bool:
        """Tell whether a part of the run ended with the last step, to be measured before the next begins."""

    def set_rate(self, share_done: float) -> None:
        """Set the learning rates for a share of the run."""

    def slow_down(self, factor: float) -> None:
        """Multiply the learning rates, from the next `set_rate` on."""

    def finite(self) -> bool:
        """Tell whether everything that moves is a finite number."""

    def add_penalties(self, penalties: Sequence[Penalty]) -> None:
        """Add terms to the losses, before the first step."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that decides the coming steps."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state, exactly."""


class Stepper(Steps, Protocol):
    """Training of the networks of a GAN.

    Attributes:
        gan: The networks; `generator_ema` is what is measured, sampled and kept.
        settings: The recipe.
    """

    gan: Gan
    settings: Finetune
