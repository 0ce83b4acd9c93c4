"""The term that keeps a compressed task's own part of low rank (GAN Memory, Cong et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from graftgan.config import Finetune
from graftgan.gans.base import Gan
from graftgan.gans.folding import MARK
from graftgan.training.penalty import Note
from graftgan.transfer.memory_bases import PARTS, compressed_layers
from graftgan.transfer.penalties.base import BasePenalty

LEAST, STEEPNESS = 0.1, 10.0


def rank_term(matrix: Tensor) -> Tensor:
    """Return ``sum_j sigma_j (0.1 + sigmoid(10 j / r))`` over singular values, the largest being j = 0.

    Args:
        matrix: [O, I]; r is the smaller of its sides.
    """
    values = torch.linalg.svdvals(matrix.float())
    place = torch.arange(len(values), device=values.device) / len(values)
    weighted: Tensor = values * (LEAST + torch.sigmoid(STEEPNESS * place))
    return weighted.sum()


class LowRankResiduals(BasePenalty):
    """Adds ``compress.weight * rank_term(R)`` over compressed gammas and betas, at every n-th step."""

    name = "low_rank"
    help = "What a task adds to those before keeps to few directions (GAN Memory, Cong et al. 2020)."
    weight_key = "gan_memory.compress.weight"

    @classmethod
    def weight_of(cls, settings: Finetune) -> float:
        """Return the factor on the term; 0 without compression."""
        section = settings.gan_memory.compress
        return section.weight if section.enabled else 0.0

    def start(self, gan: Gan, settings: Finetune) -> None:
        """Find the residuals."""
        super().start(gan, settings)
        self.every, self.steps = settings.gan_memory.compress.every, 0
        chosen = compressed_layers(gan, settings)
        self.names = [f"{name}.{MARK}weight.0.{part}" for name in chosen for part in PARTS]

    def generator_term(self, gan: Gan, fakes: Tensor, logits: Tensor, note: Note) -> Tensor | None:
        """Return the term of G's loss at the steps that have it."""
        due = self.steps % self.every == 0
        self.steps += 1
        if not due or not self.names:
            return None
        terms = [rank_term(gan.generator.get_parameter(name)[:, :, 0, 0]) for name in self.names]
        return self.weight * torch.stack(terms).sum()

    def state_dict(self) -> dict[str, Any]:
        """Return the count of steps."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved count."""
        self.steps = int(state["steps"])
