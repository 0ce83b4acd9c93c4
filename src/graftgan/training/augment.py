"""What the discriminator sees: one interface for no augmentation, ADA and DiffAugment."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from graftgan.training.ada import AdaPipe
from graftgan.training.ada_controller import AdaController, AdaControllerConfig
from graftgan.training.diffaugment import DIFFAUGMENT_POLICIES, DiffAugment

AugmentName = Literal["none", "ada", "diffaugment"]


class Augment(Protocol):
    """Applied to real and generated images before the discriminator, in its step and in the generator's."""

    @property
    def p(self) -> float:
        """Probability at which each transform is on now."""

    def __call__(self, images: Tensor, rng: torch.Generator, parts: int = 1) -> Tensor:
        """Augment [N, 1 | 3 | 4, S, S] floats in [-1, 1]; differentiable twice.

        Args:
            images: A batch, or this worker's part of it.
            rng: CPU generator.
            parts: Equal parts, one behind the other, that are each cut over the workers.
        """

    def observe(self, real_logits: Tensor) -> None:
        """Take in the logits of one batch of augmented real images, once per discriminator step."""

    def state_dict(self) -> dict[str, Any]:
        """Return what must be saved to go on exactly, as plain Python values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state; ValueError when it is not one of this kind of augmentation."""


class FixedAugment:
    """An augmentation without feedback: none at all, or DiffAugment."""

    def __init__(self, pipe: DiffAugment | None = None) -> None:
        self._pipe = pipe

    @property
    def p(self) -> float:
        """0 without augmentation, else 1: every image is augmented."""
        return 0.0 if self._pipe is None else 1.0

    def __call__(self, images: Tensor, rng: torch.Generator, parts: int = 1) -> Tensor:
        """Augment a batch; without a pipe return `images` itself and leave `rng` alone."""
        return images if self._pipe is None else self._pipe(images, self.p, rng, parts)

    def observe(self, real_logits: Tensor) -> None:
        """Nothing to learn from the logits."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty dictionary: there is nothing to save."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Accept the empty state only; anything else was saved by another kind of augmentation."""
        if state:
            raise ValueError(f"this augmentation has no state, but the saved one has {sorted(state)}")


class AdaAugment:
    """The ADA pipeline with its controller."""

    def __init__(self, pipe: AdaPipe, controller: AdaController) -> None:
        self.pipe = pipe
        self.controller = controller

    @property
    def p(self) -> float:
        """Probability set by the controller."""
        return self.controller.p

    def __call__(self, images: Tensor, rng: torch.Generator, parts: int = 1) -> Tensor:
        """Augment a batch at the current p; at p = 0 return `images` itself."""
        return self.pipe(images, self.p, rng, parts)

    def observe(self, real_logits: Tensor) -> None:
        """Hand the logits of one batch of augmented real images to the controller."""
        self.controller.observe(real_logits)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the controller; the pipeline has none."""
        return self.controller.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of the controller."""
        self.controller.load_state_dict(state)


def make_augment(
    name: AugmentName,
    *,
    ada: AdaControllerConfig | None = None,
    policies: Collection[str] = DIFFAUGMENT_POLICIES,
) -> Augment:
    """Build the augmentation of that name.

    Args:
        name: `none`, `ada` (full `bgc` pipeline) or `diffaugment`.
        ada: settings of the ADA controller; use `TRANSFER_SPEED_KIMG` when fine-tuning.
        policies: what DiffAugment does.

    Raises:
        ValueError: unknown name or policy.
    """
    if name == "none":
        return FixedAugment()
    if name == "ada":
        return AdaAugment(AdaPipe(), AdaController(ada))
    if name == "diffaugment":
        return FixedAugment(DiffAugment(policies))
    raise ValueError(f"unknown augmentation {name!r}; known are none, ada, diffaugment")
