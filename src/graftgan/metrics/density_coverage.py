"""Density and coverage (Naeem et al. 2020, eq. 3 and 4), k = 5 by default.

Both use balls around the real images only, which outliers among the fakes cannot inflate. Ties count
(``<=``), as in precision and recall; without ties the numbers are those of the authors' strict comparison.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from graftgan.metrics.intervals import Estimate, as_pair, normal_quantile, symmetric_interval, wilson
from graftgan.metrics.neighbours import (
    MEMORY_MIB,
    centre_pair,
    squared_distance_blocks,
    squared_radii,
    within,
)


def density_coverage(
    fake: NDArray[np.floating],
    real: NDArray[np.floating],
    *,
    k: int = 5,
    confidence: float = 0.95,
    memory_mib: float = MEMORY_MIB,
) -> tuple[Estimate, Estimate]:
    """Density and coverage of fakes ``[n, dim]`` with respect to reals ``[m, dim]``.

    Density is the mean number of real balls that hold a fake, over k; it may exceed 1. Its interval is normal
    over the fakes, given the reals. Coverage is the share of real balls that hold a fake; its interval is
    Wilson's over the reals, given the fakes.

    Returns:
        Density, coverage.

    Raises:
        ValueError: bad matrices, or k not below the number of reals.
    """
    x, y = as_pair(fake, real, ("fake", "real"))
    x, y = centre_pair(x, y)
    radii = squared_radii(y, k, memory_mib)
    balls_of_fake = np.zeros(len(x))
    reached = np.zeros(len(y), dtype=bool)
    for rows, squares in squared_distance_blocks(x, y, memory_mib):
        inside = within(squares, radii)
        balls_of_fake[rows] = inside.sum(axis=1) / k
        reached |= inside.any(axis=0)
    error = math.sqrt(float(balls_of_fake.var(ddof=1)) / len(x))
    density = symmetric_interval(float(balls_of_fake.mean()), error, normal_quantile(confidence))
    return density, wilson(float(reached.mean()), len(reached), confidence)
