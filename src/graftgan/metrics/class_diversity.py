"""How varied the samples of each class of a generator are, and how well they cover real images of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftgan.metrics.density_coverage import density_coverage

Array = NDArray[np.floating]
REFERENCE_NEIGHBOURS = 3
LEAST_REAL = 8
LARGE_NORM = 2.0
MAD_TO_DEVIATION = 1.4826


@dataclass(frozen=True)
class Spread:
    """Variety of the samples of one class.

    Attributes:
        distance: Mean distance between the features of two samples.
        per_latent: Mean of that distance over the distance of the latents (Li et al. 2020).
        twins: Share of samples whose nearest other one is nearer than a tenth of all samples' mean distance.
    """

    distance: float
    per_latent: float
    twins: float


def distances(rows: Array) -> Array:
    """Return Euclidean distances [N, N] between rows [N, D], in float64."""
    x = rows.astype(np.float64)
    squares = (x * x).sum(axis=1)
    found: Array = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * x @ x.T, 0.0))
    np.fill_diagonal(found, 0.0)
    return found


def spread(features: Array, z: Array, scale: float) -> Spread:
    """Measure the samples of one class.

    Args:
        features: [N, D], two rows or more.
        z: Their latents [N, z_dim].
        scale: Mean distance between samples of all classes, which twins are judged by.
    """
    apart, latent = distances(features), distances(z)
    upper = np.triu_indices(len(apart), 1)
    nearest = np.where(np.eye(len(apart), dtype=bool), np.inf, apart).min(axis=1)
    return Spread(
        float(apart[upper].mean()),
        float((apart[upper] / np.maximum(latent[upper], 1e-12)).mean()),
        float((nearest < 0.1 * scale).mean()),
    )


def robust_scores(values: Array) -> Array:
    """Return how many deviations each value is from the median, by the median absolute deviation."""
    centre = np.median(values)
    deviation = MAD_TO_DEVIATION * np.median(np.abs(values - centre))
    found: Array = (values - centre) / max(float(deviation), 1e-12)
    return found


def relative(values: Array) -> Array:
    """Return each value over the median of the others; 1 where there are no others."""
    if len(values) < 2:
        return np.ones(len(values))
    others = np.array([np.median(np.delete(values, i)) for i in range(len(values))])
    found: Array = values / np.maximum(others, 1e-12)
    return found


def covered(fake: Array, real: Array) -> tuple[float, float] | None:
    """Return density and coverage of one class's samples (Naeem et al. 2020); None with too few images."""
    if min(len(fake), len(real)) < LEAST_REAL:
        return None
    density, coverage = density_coverage(fake, real, k=REFERENCE_NEIGHBOURS)
    return float(density.value), float(coverage.value)
