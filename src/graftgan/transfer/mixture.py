"""A mixture of Gaussians around the latents of the images (Zhang et al. 2023, ECML-PKDD)."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftgan.errors import ConfigError, GraftganError
from graftgan.gans.prior import Mixture

FEW_IMAGES = 25
FEW, MANY = 3, 5
RIDGE = 1e-6
WIDE_RIDGE = 1e-4


@dataclass(frozen=True)
class Fit:
    """A fitted mixture and how it was come by.

    Attributes:
        mixture: At lambda = 0.
        wanted: Components that were asked for.
        how: Which attempt succeeded, in words.
        plain: Whether it was the first.
        converged: Whether EM did before its 100 steps were over.
        log_likelihood: Mean log density of a latent under the mixture, in nats.
    """

    mixture: Mixture
    wanted: int
    how: str
    plain: bool
    converged: bool
    log_likelihood: float

    def report(self) -> dict[str, Any]:
        """Return the facts for a report."""
        return {
            "components": self.mixture.components,
            "wanted": self.wanted,
            "fit": self.how,
            "converged": self.converged,
            "log_likelihood": self.log_likelihood,
            "weights": [float(w) for w in self.mixture.weights],
            "effective_ranks": [effective_rank(values) for values in self.mixture.eigenvalues],
        }

    def warnings(self) -> list[str]:
        """Return sentences about a fit that was not the plain one."""
        return [] if self.plain else [f"the mixture could not be fitted as asked for; it is of {self.how}"]


def component_count(wanted: int | None, images: int) -> int:
    """Return how many components a number of images gets; `wanted` wins.

    Raises:
        ConfigError: There are fewer images than components.
    """
    count = wanted or (FEW if images <= FEW_IMAGES else MANY)
    if count > images:
        raise ConfigError(
            f"finetune.mixture.components is {count}, but finetune.prior rests on {images} training images",
            "set finetune.mixture.components to fewer, or finetune.prior=normal",
        )
    return count


def check_installed() -> None:
    """Make sure that scikit-learn is there.

    Raises:
        ConfigError: It is not.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise ConfigError(
            "finetune.prior: a mixture is fitted by scikit-learn, which is not installed",
            "run pip install scikit-learn, or set finetune.prior=normal",
        )


def fit_mixture(latents: Tensor, components: int, seed: int) -> Fit:
    """Fit a mixture by EM with full covariances, from k-means, in float64.

    Where that fails, which it does where a covariance is singular up to rounding, it goes on with fewer
    components one by one, then with all of them and a ridge of 1e-4 of the latents' mean variance instead of
    1e-6, then with diagonal covariances.

    Args:
        latents: [N, D].
        components: K, at most N.
        seed: Seed of k-means.

    Raises:
        GraftganError: All attempts failed.
    """
    rows = latents.double().numpy()
    wide = WIDE_RIDGE * float(rows.var(axis=0).mean())
    attempts = [(count, "full", RIDGE) for count in range(components, 0, -1)]
    attempts += [(components, "full", wide), (components, "diag", wide)]
    for number, (count, kind, ridge) in enumerate(attempts):
        if (found := _em(rows, count, kind, ridge, seed)) is not None:
            how = f"{count} components, {kind} covariances, ridge {ridge:.3g}"
            return _fit(found, rows, components, how, plain=number == 0)
    raise GraftganError(
        "no mixture could be fitted to the latents of the images", "set finetune.prior=normal"
    )


def effective_rank(values: Tensor) -> float:
    """Return the exponential of the entropy of eigenvalues [D] as shares (Roy, Vetterli 2007)."""
    shares = values.double() / values.double().sum().clamp(min=1e-300)
    shares = shares[shares > 0]
    return float((-(shares * shares.log()).sum()).exp())


def _em(rows: NDArray[np.float64], count: int, kind: str, ridge: float, seed: int) -> Any:
    """Return scikit-learn's fitted mixture, or None where it has no usable covariances."""
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(count, covariance_type=kind, reg_covar=ridge, random_state=seed)
    try:
        with warnings.catch_warnings():
            # That EM has not converged, or that k-means found equal points, is told by the report.
            warnings.simplefilter("ignore")
            model.fit(rows)
    except ValueError:
        return None
    return model if np.isfinite(model.covariances_).all() else None


def _fit(model: Any, rows: NDArray[np.float64], wanted: int, how: str, plain: bool) -> Fit:
    covariances = torch.from_numpy(model.covariances_)
    if covariances.ndim == 2:
        covariances = torch.diag_embed(covariances)
    weights = torch.from_numpy(model.weights_ / model.weights_.sum())
    mixture = Mixture.of_moments(weights, torch.from_numpy(model.means_), covariances)
    return Fit(mixture, wanted, how, plain, bool(model.converged_), float(model.score(rows)))
