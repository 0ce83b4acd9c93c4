"""Density and coverage (Naeem et al. 2020, eq. 3 and 4), k = 5 by default.

Both use balls around the real images only, which outliers among the fakes cannot inflate. Ties count
(``<=``), as in precision and recall; without ties the numbers are those of the authors' strict comparison.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from graftgan.metrics.intervals import Estimate, as_matrices, normal_quantile, symmetric_interval, wilson
from graftgan.metrics.neighbours import MEMORY_MIB, Hits, hits, squared_radii


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
    x, y = as_matrices(fake, real, ("fake", "real"))
    (found,) = hits(x, y, column_radii=squared_radii(y, [k], memory_mib), memory_mib=memory_mib)
    return density_of(found, k, confidence), coverage_of(found, confidence)


def density_of(balls: Hits, k: int, confidence: float) -> Estimate:
    """Density from the hits of fakes (rows) in the balls of reals (columns)."""
    shares = balls.by_row / k
    error = math.sqrt(float(shares.var(ddof=1)) / len(shares))
    return symmetric_interval(float(shares.mean()), error, normal_quantile(confidence))


def coverage_of(balls: Hits, confidence: float) -> Estimate:
    """Coverage from the hits of fakes (rows) in the balls of reals (columns)."""
    reached = balls.by_column > 0
    return wilson(float(reached.mean()), len(reached), confidence)
