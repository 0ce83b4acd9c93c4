"""Precision, recall, density and coverage at once: each set against itself, and the pair, a single time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftgan.metrics.density_coverage import coverage_of, density_of
from graftgan.metrics.intervals import Array, Estimate, as_matrices, wilson
from graftgan.metrics.neighbours import MEMORY_MIB, hits, squared_radii


@dataclass(frozen=True)
class ManifoldScores:
    """The four scores; see `precision`, `recall` and `density_coverage` for what each means."""

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def manifold_scores(
    fake: NDArray[np.floating],
    real: NDArray[np.floating],
    *,
    k_precision_recall: int = 3,
    k_density_coverage: int = 5,
    confidence: float = 0.95,
    memory_mib: float = MEMORY_MIB,
    real_radii: Sequence[Array] | None = None,
) -> ManifoldScores:
    """Four scores of fakes ``[n, dim]`` beside reals ``[m, dim]``, equal to those of the single functions.

    Args:
        fake: ``[n, dim]``.
        real: ``[m, dim]``.
        k_precision_recall: neighbour of precision and recall.
        k_density_coverage: neighbour of density and coverage.
        confidence: two-sided level of the intervals.
        memory_mib: bound on working memory.
        real_radii: squared radii of the reals for both neighbours, where they are known already.

    Raises:
        ValueError: bad matrices, or a k not below the number of rows whose radii it sets.
    """
    x, y = as_matrices(fake, real, ("fake", "real"))
    (of_fake,) = squared_radii(x, [k_precision_recall], memory_mib)
    if real_radii is None:
        real_radii = squared_radii(y, [k_precision_recall, k_density_coverage], memory_mib)
    by_fake, near, wide = hits(x, y, row_radii=[of_fake], column_radii=real_radii, memory_mib=memory_mib)
    return ManifoldScores(
        precision=wilson(float(np.mean(near.by_row > 0)), len(x), confidence),
        recall=wilson(float(np.mean(by_fake.by_column > 0)), len(y), confidence),
        density=density_of(wide, k_density_coverage, confidence),
        coverage=coverage_of(wide, confidence),
    )
