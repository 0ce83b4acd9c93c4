"""A set of reals that many sets of fakes are measured against: what depends on it alone is computed once.

Every score is that of the function of the same name, to the last bit.
"""

from __future__ import annotations

from functools import cached_property

from graftgan.metrics.floor import Floor, Halves, frechet_excess, real_floor
from graftgan.metrics.frechet import REAL_BLOCKS, RealMoments, frechet_estimate
from graftgan.metrics.intervals import Array, Estimate, Matrix, as_matrix
from graftgan.metrics.kid import KernelSums, kernel_sums, kid_of_sums, within_sums
from graftgan.metrics.manifold import ManifoldScores, manifold_scores
from graftgan.metrics.neighbours import MEMORY_MIB, squared_radii


class Reals:
    """Features of reals, and what was found out about them, each when it was first wanted.

    Args:
        features: ``[m, dim]``; not to be changed afterwards.
        memory_mib: bound on the working memory of neighbour searches. Moments of parts of the reals are kept
            only if they take no more than that; else they are made for each set of fakes.

    Raises:
        ValueError: a bad matrix.
    """

    def __init__(self, features: Matrix, memory_mib: float = MEMORY_MIB) -> None:
        self.features, self.memory_mib = as_matrix(features, "real"), memory_mib
        self._radii: dict[tuple[int, int], list[Array]] = {}
        self._halves: dict[tuple[int, int, int], Halves] = {}
        self._floors: dict[tuple[int, ...], Floor | None] = {}

    def __len__(self) -> int:
        """Return the number of reals."""
        return len(self.features)

    def manifold(
        self, fake: Matrix, k_precision_recall: int = 3, k_density_coverage: int = 5, confidence: float = 0.95
    ) -> ManifoldScores:
        """See :func:`graftgan.metrics.manifold.manifold_scores`."""
        ks = (k_precision_recall, k_density_coverage)
        if ks not in self._radii:
            self._radii[ks] = squared_radii(self.features, ks, self.memory_mib)
        return manifold_scores(
            fake, self.features, k_precision_recall=k_precision_recall, k_density_coverage=k_density_coverage,
            confidence=confidence, memory_mib=self.memory_mib, real_radii=self._radii[ks],
        )  # fmt: skip

    def sums(self, fake: Matrix) -> KernelSums:
        """See :func:`graftgan.metrics.kid.kernel_sums`."""
        return kernel_sums(fake, self.features)

    def kid(self, sums: KernelSums, confidence: float = 0.95) -> Estimate:
        """See :func:`graftgan.metrics.kid.kid`; takes what `sums` gave for the fakes."""
        return kid_of_sums(sums, self._within, confidence)

    @cached_property
    def _within(self) -> Array:
        return within_sums(self.features)

    def frechet(self, fake: Matrix, confidence: float = 0.95) -> Estimate:
        """See :func:`graftgan.metrics.frechet.frechet_estimate`."""
        return frechet_estimate(fake, self.features, confidence=confidence, of_reals=self._moments)

    @cached_property
    def _moments(self) -> RealMoments:
        return RealMoments(self.features, keep=self._fit(REAL_BLOCKS, len(self)))

    def floor(
        self, n: int, k_precision_recall: int = 3, k_density_coverage: int = 5, splits: int = 5, seed: int = 0
    ) -> Floor | None:
        """See :func:`graftgan.metrics.floor.real_floor`."""
        key = (n, k_precision_recall, k_density_coverage, splits, seed)
        if key not in self._floors:
            self._floors[key] = real_floor(
                self.features, splits=splits, seed=seed, n=n, k_precision_recall=k_precision_recall,
                k_density_coverage=k_density_coverage, memory_mib=self.memory_mib,
                halves=self._halves_of(min(len(self) // 2, n), splits, seed),
            )  # fmt: skip
        return self._floors[key]

    def excess(self, fake: Matrix, splits: int = 5, seed: int = 0) -> tuple[float, int] | None:
        """See :func:`graftgan.metrics.floor.frechet_excess`."""
        halves = self._halves_of(min(len(self) // 2, len(fake)), splits, seed)
        return frechet_excess(fake, self.features, splits=splits, seed=seed, halves=halves)

    def _halves_of(self, size: int, splits: int, seed: int) -> Halves:
        key = (size, splits, seed)
        if key not in self._halves:
            self._halves[key] = Halves(self.features, size, splits, seed, keep=self._fit(splits, size))
        return self._halves[key]

    def _fit(self, count: int, rows: int) -> bool:
        """Tell whether the moments of so many sets of so many rows may be kept."""
        dim = self.features.shape[1]
        return bool(count * min(rows, dim) * dim * 8 <= self.memory_mib * 2**20)
