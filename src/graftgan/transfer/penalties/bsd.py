"""Batch spectral diversification (Zhang et al., ECML-PKDD 2023): fakes must vary in all directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan
from graftgan.training.penalty import Note
from graftgan.transfer.penalties.base import BasePenalty
from graftgan.world import gathered

FLOOR = 1e-6


def trailing_variance(features: Tensor, k: int) -> Tensor:
    """Return the mean of the `k` smallest squared singular values of a matrix [B, d], in float64.

    They are the eigenvalues of the smaller of its two Gram matrices, whose gradient needs no differences of
    eigenvalues: ``(2 / k) sum sigma_i u_i v_i^T`` over the `k` smallest.

    Raises:
        ValueError: If there are fewer than `k` singular values.
    """
    if k > min(features.shape):
        raise ValueError(f"a matrix of shape {tuple(features.shape)} has no {k} singular values")
    exact = features.double()
    gram = exact @ exact.T if len(exact) <= exact.shape[1] else exact.T @ exact
    return cast(Tensor, torch.linalg.eigvalsh(gram)[:k].mean())


def spectral_diversification(features: Tensor, k: int, floor: float = FLOOR) -> Tensor:
    """Return ``1 / max((1/k) sum sigma_i^2, floor)`` over the `k` smallest singular values, in float64.

    The gradient is ``-(2k / S^2) sum sigma_i u_i v_i^T`` with ``S`` the sum, and exactly 0 at the floor.

    Args:
        features: One row an image, [B, d].
        k: Singular values that count.
        floor: Lower limit of their mean square.

    Raises:
        ValueError: If there are fewer than `k` singular values.
    """
    return _barrier(trailing_variance(features, k), floor)


def clipped(
    term: Tensor, variance: Tensor, k: int, weight: float, limit: float | None, floor: float = FLOOR
) -> Tensor:
    """Return a term of the same value whose gradient on the features is at most `limit` long.

    The gradient of ``weight * BSD(F)`` has the norm ``2 k weight S^(-3/2)`` with ``S = k * variance``.

    Args:
        term: ``weight * BSD(F)``.
        variance: Mean of the k smallest squared singular values.
        k: Their number.
        weight: Factor on BSD.
        limit: Largest norm; None leaves the gradient alone.
        floor: Lower limit of the variance.
    """
    if limit is None:
        return term
    norm = 2 * k * weight * (k * variance.detach().clamp(min=floor)) ** -1.5
    return term.detach() + (term - term.detach()) * (limit / norm).clamp(max=1)


def _barrier(variance: Tensor, floor: float) -> Tensor:
    return 1 / variance.clamp(min=floor)


class SpectralDiversification(BasePenalty):
    """Adds ``bsd_weight * BSD(F)`` to G's loss and, with `bsd_on_d`, to D's.

    With `bsd_normalise_rows`, each row is of length 1 first, so that D cannot lower the term by larger
    features; with `bsd_clip`, its gradient on the features has a largest length.

    F are D's features of the fakes (`Discriminator.spectral_features`). They are computed apart from the
    logits: from images that are not augmented, since augmentation would vary even equal ones, each image on
    its own, and in float32. A batch that is cut over workers counts as a whole.
    """

    name = "bsd"
    help = "D's features of a batch of fakes must vary in every direction (BSD, Zhang et al. 2023)."
    weight_key = "bsd_weight"

    @classmethod
    def check(cls, settings: Finetune) -> None:
        """Refuse more singular values than a batch has."""
        if settings.bsd_k > settings.batch:
            raise ConfigError(
                f"finetune.bsd_k is {settings.bsd_k}, but finetune.batch is {settings.batch}: "
                "a batch has no more singular values than images",
                f"set finetune.bsd_k to {settings.batch} or less, or a larger finetune.batch",
            )

    def start(self, gan: Gan, settings: Finetune) -> None:
        """Take in the settings."""
        super().start(gan, settings)
        self.k, self.on_d = settings.bsd_k, settings.bsd_on_d
        self.clip, self.normalise = settings.bsd_clip, settings.bsd_normalise_rows
        self.floor = settings.bsd_floor
        # Left on the device: reading it at every step would make the GPU wait.
        self.hits = torch.zeros((), dtype=torch.int64, device=next(gan.generator.parameters()).device)
        self.steps = 0

    def generator_term(self, gan: Gan, fakes: Tensor, logits: Tensor, note: Note) -> Tensor:
        """Return the term of G's loss, and count whether it is at the floor."""
        features = self._features(gan, fakes)
        term, variance = self._term(features)
        at_floor = variance.detach() <= self.floor
        self.hits += at_floor
        self.steps += 1
        note("penalty_bsd_floor", at_floor)
        note("penalty_bsd_norm", features.detach().norm())
        return term

    def discriminator_term(self, gan: Gan, fakes: Tensor, logits: Tensor, note: Note) -> Tensor | None:
        """Return the term of D's loss, if there is to be one."""
        if not self.on_d:
            return None
        return self._term(self._features(gan, fakes))[0]

    def _term(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted term and the mean of the smallest squared singular values."""
        if self.normalise:
            features = F.normalize(features.double(), dim=1)
        variance = trailing_variance(features, self.k)
        term = self.weight * _barrier(variance, self.floor)
        return clipped(term, variance, self.k, self.weight, self.clip, self.floor), variance

    def _features(self, gan: Gan, fakes: Tensor) -> Tensor:
        features = gan.discriminator.spectral_features(fakes)
        if self.k > features.shape[1]:
            raise ConfigError(
                f"finetune.bsd_k is {self.k}, but the discriminator that rank.choose brought has "
                f"{features.shape[1]} features",
                f"set finetune.bsd_k to {features.shape[1]} or less, or choose a wider source",
            )
        return gathered(features)

    def warnings(self) -> list[str]:
        """Tell how often the term was at its floor, where it moves nothing."""
        hits = int(self.hits)
        if not hits:
            return []
        return [
            f"bsd was at finetune.bsd_floor={self.floor:g} in {hits} of {self.steps} steps, where it has no "
            "gradient: use a larger finetune.batch or a smaller finetune.bsd_k"
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the counts behind the warning."""
        return {"hits": int(self.hits), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to saved counts."""
        self.hits.fill_(state["hits"])
        self.steps = state["steps"]
