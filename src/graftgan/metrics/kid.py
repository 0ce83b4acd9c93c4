"""Kernel inception distance as the full U-statistic, with a jackknife standard error.

``k(x, y) = (x.y / dim + 1)^3`` and ``KID = mean_offdiag k(X, X) + mean_offdiag k(Y, Y) - 2 mean k(X, Y)``
(Binkowski et al. 2018, section 3). Every pair is used once instead of 100 random subsets: no randomness, and
the row sums that give the value also give the two-sample delete-one jackknife. The estimate is unbiased, so
values below zero are legal and never clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftgan.metrics.intervals import (
    Array,
    Estimate,
    Matrix,
    as_matrices,
    as_matrix,
    jackknife_variance,
    normal_quantile,
    symmetric_interval,
)
from graftgan.metrics.products import blocks, product

_BLOCK_ROWS = 1024


@dataclass(frozen=True)
class KernelSums:
    """Kernel sums of one fake set against the reals: what each row adds to each mean.

    Attributes:
        within: ``[n]`` sums over the other fakes.
        across: ``[n]`` sums of each fake over the reals.
        across_real: ``[m]`` sums of each real over the fakes.
    """

    within: Array
    across: Array
    across_real: Array

    @property
    def n(self) -> int:
        """Number of fakes."""
        return len(self.within)

    def value(self) -> float:
        """Return KID without the term of the reals among themselves."""
        n, m = self.n, len(self.across_real)
        return float(self.within.sum() / (n * (n - 1)) - 2 * self.across.sum() / (n * m))

    def without_fake(self) -> Array:
        """Return ``[n]`` values with each fake left out."""
        n, m = self.n, len(self.across_real)
        within = (self.within.sum() - 2 * self.within) / ((n - 1) * (n - 2))
        replicates: Array = within - 2 * (self.across.sum() - self.across) / ((n - 1) * m)
        return replicates

    def without_real(self) -> Array:
        """Return ``[m]`` values with each real left out."""
        n, m = self.n, len(self.across_real)
        within = self.within.sum() / (n * (n - 1))
        replicates: Array = within - 2 * (self.across.sum() - self.across_real) / (n * (m - 1))
        return replicates


def kid(fake: NDArray[np.floating], real: NDArray[np.floating], *, confidence: float = 0.95) -> Estimate:
    """Kernel distance between fakes ``[n, dim]`` and reals ``[m, dim]`` with its interval.

    The interval is normal around the U-statistic with the two-sample delete-one jackknife error: the variance
    from deleting one fake plus that from deleting one real (Arvesen 1969).

    Raises:
        ValueError: not finite matrices of equal width with three or more rows.
    """
    return kid_of_sums(kernel_sums(fake, real), within_sums(real), confidence)


def kid_of_sums(sums: KernelSums, within_real: Array, confidence: float = 0.95) -> Estimate:
    """Return what :func:`kid` does, from the kernel sums of the fakes and of the reals among themselves.

    Raises:
        ValueError: the sums are of different reals.
    """
    m = len(within_real)
    if m != len(sums.across_real):
        raise ValueError(f"sums over {len(sums.across_real)} reals do not belong to {m} reals")
    total = within_real.sum()
    value = sums.value() + float(total / (m * (m - 1)))
    without_real = sums.without_real() + (total - 2 * within_real) / ((m - 1) * (m - 2))
    variance = jackknife_variance(sums.without_fake()) + jackknife_variance(without_real)
    return symmetric_interval(value, math.sqrt(variance), normal_quantile(confidence))


def paired_kid_difference(
    fake_a: NDArray[np.floating],
    fake_b: NDArray[np.floating],
    real: NDArray[np.floating],
    *,
    same_latents: bool = True,
    confidence: float = 0.95,
) -> Estimate:
    """``KID(a, real) - KID(b, real)`` against the same reals; below zero means that a is better.

    What the reals share cancels, and with ``same_latents`` (row i of both sets comes from the same latent) so
    does what the latents share: the pair is deleted together. That makes small real differences visible that
    two separate intervals would hide.

    Args:
        fake_a: ``[n_a, dim]``, for a gate the challenger.
        fake_b: ``[n_b, dim]``, for a gate the champion.
        real: ``[m, dim]``.
        same_latents: the rows of a and b are pairs; needs ``n_a == n_b``.
        confidence: two-sided level.

    Raises:
        ValueError: bad matrices, or pairs asked for with unequal numbers.
    """
    if same_latents and len(fake_a) != len(fake_b):
        raise ValueError(
            f"pairs need equally many rows, not {len(fake_a)} and {len(fake_b)}; pass same_latents=False"
        )
    return difference_of_sums(
        kernel_sums(fake_a, real, "fake_a"), kernel_sums(fake_b, real, "fake_b"), same_latents, confidence
    )


def difference_of_sums(
    a: KernelSums, b: KernelSums, same_latents: bool = True, confidence: float = 0.95
) -> Estimate:
    """Return what :func:`paired_kid_difference` does, from the kernel sums of both sets of fakes."""
    if same_latents:
        variance = jackknife_variance(a.without_fake() - b.without_fake())
    else:
        variance = jackknife_variance(a.without_fake()) + jackknife_variance(b.without_fake())
    variance += jackknife_variance(a.without_real() - b.without_real())
    return symmetric_interval(a.value() - b.value(), math.sqrt(variance), normal_quantile(confidence))


def kernel_sums(fake: Matrix, real: Matrix, name: str = "fake") -> KernelSums:
    """Sum the kernel of fakes ``[n, dim]`` among themselves and with reals ``[m, dim]``.

    Raises:
        ValueError: not finite matrices of equal width with three or more rows; the fakes are called `name`.
    """
    x, y = as_matrices(fake, real, (name, "real"), least_rows=3)
    across, across_real = np.zeros(len(x)), np.zeros(len(y))
    for rows in blocks(len(x), _BLOCK_ROWS):
        for columns in blocks(len(y), _BLOCK_ROWS):
            _add(_kernel(x[rows], y[columns]), across[rows], across_real[columns])
    return KernelSums(_off_diagonal_rows(x), across, across_real)


def within_sums(real: Matrix) -> Array:
    """Sum the kernel of each of the reals ``[m, dim]`` with the other reals, ``[m]``.

    Raises:
        ValueError: not a finite matrix of three or more rows.
    """
    return _off_diagonal_rows(as_matrix(real, "real", least_rows=3))


def _off_diagonal_rows(x: Matrix) -> Array:
    """Row sums of the kernel of a set with itself, from the blocks on and above the diagonal."""
    sums = np.zeros(len(x))
    for rows in blocks(len(x), _BLOCK_ROWS):
        kernel = _kernel(x[rows], x[rows])
        np.fill_diagonal(kernel, 0)
        sums[rows] += kernel.sum(axis=1, dtype=np.float64)
        for columns in blocks(len(x), _BLOCK_ROWS, rows.stop):
            _add(_kernel(x[rows], x[columns]), sums[rows], sums[columns])
    return sums


def _add(kernel: Matrix, of_rows: Array, of_columns: Array) -> None:
    of_rows += kernel.sum(axis=1, dtype=np.float64)
    of_columns += kernel.sum(axis=0, dtype=np.float64)


def _kernel(x: Matrix, y: Matrix) -> Matrix:
    inner = product(x, y)
    inner /= x.shape[1]
    inner += 1
    cubed: Matrix = inner * inner * inner
    return cubed
