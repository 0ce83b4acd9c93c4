"""Feedback that sets the augmentation probability p from the signs of the discriminator's logits.

Karras et al., NeurIPS 2020, arXiv 2006.06676, section 3: r_t = E[sign(D(real))] is near 0 while the
discriminator does not overfit and near 1 when it does; p moves by a fixed amount to hold r_t at its target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SCRATCH_SPEED_KIMG = 500.0
"""Thousand real images in which p can go from 0 to 1 when training from scratch."""

TRANSFER_SPEED_KIMG = 100.0
"""The same when fine-tuning, where overfitting sets in sooner."""


@dataclass(frozen=True)
class AdaControllerConfig:
    """Settings of the controller.

    Attributes:
        target: value of r that p is steered to.
        interval: batches of real logits per update.
        speed_kimg: thousand real images in which p can travel from 0 to 1.
        p_max: upper limit of p; without one p is known to run away on tiny sets, and the augmentations then
            show up in the generated images.

    Raises:
        ValueError: a value out of its range.
    """

    target: float = 0.6
    interval: int = 4
    speed_kimg: float = SCRATCH_SPEED_KIMG
    p_max: float = 0.85

    def __post_init__(self) -> None:
        if not -1.0 < self.target < 1.0:
            raise ValueError(f"ADA target must lie in (-1, 1), got {self.target}")
        if self.interval < 1:
            raise ValueError(f"ADA interval must be at least 1 batch, got {self.interval}")
        if not self.speed_kimg > 0.0:
            raise ValueError(f"ADA speed_kimg must be positive, got {self.speed_kimg}")
        if not 0.0 <= self.p_max <= 1.0:
            raise ValueError(f"ADA p_max must lie in [0, 1], got {self.p_max}")


class AdaController:
    """Holds p and moves it after every `interval` batches; starts at 0.

    Attributes:
        p: current probability, a Python float in [0, p_max].
        r: the overfitting signal of the last update, None before the first.
    """

    def __init__(self, config: AdaControllerConfig | None = None) -> None:
        self.config = config or AdaControllerConfig()
        self.p = 0.0
        self.r: float | None = None
        # Left on their device until the interval is full: reading each would make the GPU wait every batch.
        self._sign_sums: list[Tensor] = []
        self._images = 0

    def observe(self, real_logits: Tensor) -> None:
        """Take in the logits of one batch of (augmented) real images; move p when the interval is full.

        Args:
            real_logits: any shape, one logit per image; zero and NaN count as neither sign.
        """
        self._sign_sums.append(real_logits.detach().double().sign().sum())
        self._images += real_logits.numel()
        if len(self._sign_sums) >= self.config.interval:
            self._update()

    def _update(self) -> None:
        self.r = sum(map(float, self._sign_sums)) / self._images
        step = self._images / (1000 * self.config.speed_kimg)
        direction = (self.r > self.config.target) - (self.r < self.config.target)
        self.p = min(max(self.p + direction * step, 0.0), self.config.p_max)
        self._sign_sums, self._images = [], 0

    def state_dict(self) -> dict[str, Any]:
        """Return everything that moves, as plain Python values that JSON keeps exactly."""
        return {
            "p": self.p,
            "r": self.r,
            "sign_sums": [float(s) for s in self._sign_sums],
            "images": self._images,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state.

        Raises:
            ValueError: the keys are not those of `state_dict`.
        """
        expected = {"p", "r", "sign_sums", "images"}
        if set(state) != expected:
            raise ValueError(
                f"ADA controller state must have the keys {sorted(expected)}, got {sorted(state)}"
            )
        self.p = float(state["p"])
        self.r = None if state["r"] is None else float(state["r"])
        self._sign_sums = [torch.tensor(value, dtype=torch.float64) for value in state["sign_sums"]]
        self._images = int(state["images"])
