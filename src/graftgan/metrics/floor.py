"""Real-versus-real floor: what a perfect generator would score at this number of images.

The reals are split into disjoint halves and every score is taken of one half against the other. A Fréchet
distance means nothing without it: with 100 images the floor can be larger than the difference of two models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from graftgan.metrics.frechet import Moments, frechet_from_moments, moments
from graftgan.metrics.intervals import Array, as_features, as_matrix, as_pair
from graftgan.metrics.kid import kid
from graftgan.metrics.manifold import manifold_scores
from graftgan.metrics.neighbours import MEMORY_MIB

LEAST_HALF = 10


@dataclass(frozen=True)
class Floor:
    """Scores of reals against reals, averaged over seeded splits.

    Attributes:
        n: images on each side.
        values: mean score by metric: ``fd``, ``kid``, ``precision``, ``recall``, ``density``, ``coverage``.
    """

    n: int
    values: dict[str, float]


class Halves:
    """Disjoint halves of the reals by seeded splits, and what the scores of a perfect generator need of them.

    Args:
        real: ``[m, dim]``.
        size: images of a half.
        splits: random splits.
        seed: of the splits.
        keep: whether moments are kept for the next set of fakes; else each is made when asked for.

    Raises:
        ValueError: a bad matrix or no split asked for.
    """

    def __init__(
        self, real: NDArray[np.floating], size: int, splits: int = 5, seed: int = 0, *, keep: bool = True
    ) -> None:
        self.real, self.size = as_features(real, "real"), size
        self.rows = _halves(len(self.real), size, splits, seed)
        self._keep = keep
        self._kept: dict[int, Moments] = {}

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        """Give both halves of each split."""
        return ((self.real[first], self.real[second]) for first, second in self.rows)

    def reference(self, split: int) -> Moments:
        """Return the moments of the second half of a split."""
        if split in self._kept:
            return self._kept[split]
        found = moments(self.real[self.rows[split][1]])
        if self._keep:
            self._kept[split] = found
        return found

    @cached_property
    def distances(self) -> list[float]:
        """Fréchet distance of the first half from the second, for each split."""
        return [
            frechet_from_moments(moments(first), self.reference(split))
            for split, (first, _) in enumerate(self)
        ]


def real_floor(
    real: NDArray[np.floating],
    *,
    splits: int = 5,
    seed: int = 0,
    n: int | None = None,
    k_precision_recall: int = 3,
    k_density_coverage: int = 5,
    memory_mib: float = MEMORY_MIB,
    halves: Halves | None = None,
) -> Floor | None:
    """Scores of disjoint halves of the reals, both of the same size.

    Args:
        real: ``[m, dim]``.
        splits: random splits averaged.
        seed: of the splits.
        n: images a side, at most half of the reals; half of them by default.
        k_precision_recall: neighbour of precision and recall.
        k_density_coverage: neighbour of density and coverage.
        memory_mib: bound on the working memory of neighbour searches.
        halves: those of this size, splits and seed, where they are at hand.

    Returns:
        The floor, or None with fewer than 10 images a side.

    Raises:
        ValueError: a bad matrix or no split asked for.
    """
    y = as_matrix(real, "real")
    size = min(len(y) // 2, n or len(y))
    if size < LEAST_HALF:
        return None
    if halves is None:
        halves = Halves(y, size, splits, seed, keep=False)
    rows = []
    for (a, b), distance in zip(halves, halves.distances, strict=True):
        manifold = manifold_scores(
            a, b, k_precision_recall=k_precision_recall, k_density_coverage=k_density_coverage,
            memory_mib=memory_mib,
        )  # fmt: skip
        rows.append(
            {
                "fd": distance,
                "kid": kid(a, b).value,
                **{name: estimate.value for name, estimate in vars(manifold).items()},
            }
        )
    return Floor(size, {name: float(np.mean([row[name] for row in rows])) for name in rows[0]})


def frechet_excess(
    fake: NDArray[np.floating],
    real: NDArray[np.floating],
    *,
    splits: int = 5,
    seed: int = 0,
    halves: Halves | None = None,
) -> tuple[float, int] | None:
    """Fréchet distance of the fakes above the floor, both measured at the same small n.

    In each split as many fakes as half the reals take the place of the first half against the second, and the
    distance of the halves is subtracted. The bias of small n cancels, so zero means "as good as more reals";
    values a little below zero are legal.

    Args:
        fake: ``[n, dim]``.
        real: ``[m, dim]``.
        splits: random splits averaged.
        seed: of the splits.
        halves: those of this size, splits and seed, where they are at hand.

    Returns:
        Mean excess and the images a side, or None with fewer than 10 a side.

    Raises:
        ValueError: bad matrices or no split asked for.
    """
    x, y = as_pair(fake, real, ("fake", "real"))
    size = min(len(y) // 2, len(x))
    if size < LEAST_HALF:
        return None
    if halves is None:
        halves = Halves(y, size, splits, seed, keep=False)
    draw = np.random.default_rng([seed, 1])
    excesses = []
    for split, distance in enumerate(halves.distances):
        drawn = moments(x[draw.permutation(len(x))[:size]])
        excesses.append(frechet_from_moments(drawn, halves.reference(split)) - distance)
    return float(np.mean(excesses)), size


def _halves(n: int, size: int, splits: int, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    if splits < 1:
        raise ValueError("a floor needs at least one split")
    draw = np.random.default_rng([seed, 0])
    orders = [draw.permutation(n) for _ in range(splits)]
    return [(order[:size], order[size : 2 * size]) for order in orders]
