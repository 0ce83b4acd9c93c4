"""Batch spectral diversification (Zhang et al., ECML-PKDD 2023): fakes must vary in all directions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Discriminator, Gan
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


def slope(variance: Tensor, k: int, weight: float, floor: float = FLOOR) -> Tensor:
    """Return the norm ``2 k weight S^(-3/2)``, ``S = k * variance``, of ``weight * BSD(F)``'s gradient on F.

    Args:
        variance: Mean of the k smallest squared singular values of F.
        k: Their number.
        weight: Factor on BSD.
        floor: Lower limit of the variance.
    """
    return 2 * k * weight * (k * variance.detach().clamp(min=floor)) ** -1.5


def clipped(term: Tensor, norm: Tensor, limit: float) -> Tensor:
    """Return a term of the same value whose gradient is at most `limit` long.

    Args:
        term: The term.
        norm: Length of its gradient.
        limit: Largest length.
    """
    return term.detach() + (term - term.detach()) * (limit / norm).clamp(max=1)


@torch.no_grad()
def feature_width(discriminator: Discriminator) -> int:
    """Return how many spectral features D has, found on a copy without values."""
    spec = discriminator.spec
    image = torch.empty(1, spec.channels, spec.resolution, spec.resolution, device="meta")
    return copy.deepcopy(discriminator).to("meta").eval().spectral_features(image).shape[1]


def _barrier(variance: Tensor, floor: float) -> Tensor:
    return 1 / variance.clamp(min=floor)


class SpectralDiversification(BasePenalty):
    """Adds ``bsd_weight * BSD(F)`` to G's loss and, with `bsd_on_d`, to D's.

    With `bsd_normalise_rows`, each row is of length 1 first, so that D cannot lower the term by larger
    features; with `bsd_clip`, its gradient on the features, as they are before that, has a largest length.

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
        """Take in the settings.

        Raises:
            ConfigError: D's features are fewer than the singular values that are to count.
        """
        super().start(gan, settings)
        width = feature_width(gan.discriminator)
        if settings.bsd_k > width:
            raise ConfigError(
                f"finetune.bsd_k is {settings.bsd_k}, but the discriminator that rank.choose brought has "
                f"{width} features",
                f"set finetune.bsd_k to {width} or less, or choose a wider source",
            )
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
        rows = F.normalize(features.double(), dim=1) if self.normalise else features
        variance = trailing_variance(rows, self.k)
        term = self.weight * _barrier(variance, self.floor)
        if self.clip is not None and features.requires_grad:
            term = clipped(term, self._slope(term, variance, features), self.clip)
        return term, variance

    def _slope(self, term: Tensor, variance: Tensor, features: Tensor) -> Tensor:
        """Return the norm of the term's gradient on D's features."""
        if not self.normalise:
            return slope(variance, self.k, self.weight, self.floor)
        # Of a row it is what lies across the row, divided by its length.
        (found,) = torch.autograd.grad(term, features, retain_graph=True)
        return cast(Tensor, found.norm())

    def _features(self, gan: Gan, fakes: Tensor) -> Tensor:
        return gathered(gan.discriminator.spectral_features(fakes))

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
