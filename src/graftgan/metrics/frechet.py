"""Fréchet distance between two Gaussians fitted to features.

``d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)`` (Dowson and Landau 1982; Heusel et al. 2017, eq.
6), covariance divisor n - 1. No matrix square root is taken: with ``S1 = A'A`` and ``S2 = B'B`` the last
trace is the nuclear norm of ``A B'``. That is exact when there are fewer images than dimensions, where
solvers on ``S1 S2`` add one square root of rounding noise per missing rank. Products, factors and eigenvalues
are PyTorch's: two libraries' threads would wait for each other's cores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftgan.metrics.intervals import (
    Array,
    Estimate,
    Matrix,
    as_matrices,
    as_matrix,
    jackknife_variance,
    student_quantile,
    symmetric_interval,
)
from graftgan.metrics.products import blocks

REAL_BLOCKS = 10
_STRIP = 256
_ROWS = 1024
_FLATTEST_PIVOT = 1e-4
_GRAM_ERROR = 1e-11
"""Relative error of a sum of singular values that may come from squaring them."""
_SQUARE_ROUNDING = float(8 * np.finfo(np.float64).eps)
"""What may be wrong with an eigenvalue of squares, in units of the largest."""


@dataclass(frozen=True)
class Moments:
    """What the Fréchet distance needs to know of one feature set.

    Attributes:
        mean: ``[dim]``.
        root: ``[min(n - 1, dim), dim]`` with ``root.T @ root`` the covariance; upper triangular if square.
        trace: trace of the covariance.
        n: number of images.
    """

    mean: Array
    root: Array
    trace: float
    n: int


def moments(features: NDArray[np.floating]) -> Moments:
    """Mean and a thin root of the covariance of a feature matrix ``[n, dim]``.

    Raises:
        ValueError: not a finite matrix of two or more rows.
    """
    x = as_matrix(features, "features")
    n, dim = x.shape
    mean = x.mean(axis=0, dtype=np.float64)
    if n > dim:
        covariance = _lower_covariance(x, mean)
        root = covariance_root(covariance)
        return Moments(mean, _qr_root(x - mean) if root is None else root, float(np.trace(covariance)), n)
    centred = x - mean
    flat = torch.from_numpy(centred).reshape(-1)
    return Moments(mean, _helmert(centred), float(torch.dot(flat, flat)) / (n - 1), n)


def frechet_from_moments(a: Moments, b: Moments) -> float:
    """Fréchet distance (squared, as the field reports it) from two sets of moments.

    Raises:
        ValueError: the two feature spaces differ in dimension.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {a.mean.size} and of {b.mean.size} dimensions cannot be compared")
    overlap = _nuclear_norm(a.root, b.root)
    return max(0.0, float(np.sum((a.mean - b.mean) ** 2)) + a.trace + b.trace - 2 * overlap)


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Fréchet distance between two feature matrices ``[n, dim]``; symmetric, never negative.

    It is biased upwards by a term that grows as n shrinks: read it beside its floor and never across
    different n (Chong and Forsyth 2020).

    Raises:
        ValueError: not finite matrices of equal width with two or more rows.
    """
    first, second = as_matrices(a, b, ("first set", "second set"))
    return frechet_from_moments(moments(first), moments(second))


def frechet_estimate(
    fake: NDArray[np.floating],
    real: NDArray[np.floating],
    *,
    fake_blocks: int = 5,
    real_blocks: int = REAL_BLOCKS,
    confidence: float = 0.95,
    of_reals: RealMoments | None = None,
) -> Estimate:
    """Fréchet distance with an interval for its sampling noise.

    The generator's side is the spread over ``fake_blocks`` interleaved blocks of independent latents, scaled
    to the full number; the real side a delete-block jackknife; both variances add and a Student quantile with
    ``fake_blocks - 1`` degrees of freedom (the smaller of the two) makes the interval. It says how far the
    number would move with other samples of the same size. The upward bias of small n is in the value and in
    the floor, not in the interval. A naive bootstrap would be wrong: repeated rows lower the rank.

    Args:
        fake: ``[n_fake, dim]``.
        real: ``[n_real, dim]``.
        fake_blocks: blocks of the fakes, at least 5.
        real_blocks: jackknife blocks of the reals, at least as many.
        confidence: two-sided level.
        of_reals: what `real_moments` gave for the reals and their blocks, where it is known already.

    Returns:
        The estimate; with fewer than two rows a block its error and interval are nan.

    Raises:
        ValueError: bad matrices, or too few blocks.
    """
    if not 5 <= fake_blocks <= real_blocks:
        raise ValueError(f"needs 5 <= fake_blocks <= real_blocks, not {fake_blocks} and {real_blocks}")
    x, y = as_matrices(fake, real, ("fake", "real"))
    if of_reals is None:
        of_reals = RealMoments(y, real_blocks, keep=False)
    of_x, of_y = moments(x), of_reals.whole
    value = frechet_from_moments(of_x, of_y)
    if len(x) < 2 * fake_blocks or len(y) < 2 * real_blocks:
        return Estimate(value, math.nan, math.nan, math.nan)
    spread = [frechet_from_moments(moments(x[b::fake_blocks]), of_y) for b in range(fake_blocks)]
    deleted = [frechet_from_moments(of_x, rest) for rest in of_reals.deleted()]
    variance = float(np.var(spread, ddof=1)) / fake_blocks + jackknife_variance(np.array(deleted))
    return symmetric_interval(value, math.sqrt(variance), student_quantile(confidence, fake_blocks - 1))


class RealMoments:
    """Moments of the reals, whole and with one interleaved block left out, as `frechet_estimate` asks for.

    Args:
        real: ``[m, dim]``.
        blocks: number of blocks.
        keep: whether those of the blocks are kept for the next set of fakes; else each is made when asked
            for, and one is in memory at a time.

    Raises:
        ValueError: a bad matrix.
    """

    def __init__(self, real: NDArray[np.floating], blocks: int = REAL_BLOCKS, *, keep: bool = True) -> None:
        self._real = as_matrix(real, "real")
        self._blocks, self._keep = blocks, keep
        self._kept: list[Moments] = []
        self.whole = moments(self._real)

    def deleted(self) -> Iterator[Moments]:
        """Give the moments without each block."""
        if self._kept:
            yield from self._kept
            return
        block = np.arange(len(self._real)) % self._blocks
        made: Iterator[Moments] = (moments(self._real[block != b]) for b in range(self._blocks))
        if self._keep:
            self._kept = list(made)
            made = iter(self._kept)
        yield from made


def _helmert(centred: Array) -> Array:
    """The n - 1 rows of the orthonormal Helmert contrasts: same covariance, without the null direction."""
    n = len(centred)
    i = np.arange(1, n, dtype=np.float64)[:, None]
    leading_mean = np.cumsum(centred[:-1], axis=0) / i
    contrasts: Array = (leading_mean - centred[1:]) * np.sqrt(i / (i + 1) / (n - 1))
    return contrasts


def _lower_covariance(x: Matrix, mean: Array) -> Array:
    """Covariance ``[dim, dim]`` up to its diagonal, from few rows at a time; what is above is zero."""
    n, dim = x.shape
    sums, origin = torch.zeros(dim, dim, dtype=torch.float64), torch.from_numpy(mean)
    for some in blocks(n, _ROWS):
        centred = torch.from_numpy(x[some]) - origin
        for rows in blocks(dim, _STRIP):
            sums[rows, : rows.stop].addmm_(centred[:, rows].T, centred[:, : rows.stop])
    covariance: Array = sums.div_(n - 1).numpy()
    return covariance


def covariance_root(covariance: Array) -> Array | None:
    """Upper triangular root of a covariance ``[dim, dim]``, None where it is too flat for Cholesky's.

    Only the diagonal and what is below it are read.
    """
    lower, failed = torch.linalg.cholesky_ex(torch.from_numpy(covariance))
    pivots = lower.diagonal()
    if failed or pivots.min() < _FLATTEST_PIVOT * pivots.max():
        return None
    root: Array = lower.T.numpy()
    return root


def _qr_root(centred: Array) -> Array:
    root: Array = np.linalg.qr(centred / math.sqrt(len(centred) - 1), mode="r")  # type: ignore[assignment]
    return root


def _nuclear_norm(a: Array, b: Array) -> float:
    """Sum of the singular values of ``a @ b.T``.

    Eigenvalues of its Gram matrix are several times cheaper, but small ones drown in the rounding of the
    largest: singular values are taken wherever that could be seen in the sum.
    """
    if len(a) > len(b):
        a, b = b, a
    overlap = _overlap(torch.from_numpy(a), torch.from_numpy(b))
    if not _squares_must_drown(overlap.numpy(), a, b):
        squares = torch.linalg.eigvalsh(_lower_gram(overlap)).numpy()
        rounding = _SQUARE_ROUNDING * squares[-1]
        if squares[0] > rounding:
            values = np.sqrt(squares)
            if np.sum(rounding / values) <= 2 * _GRAM_ERROR * values.sum():
                return float(values.sum())
    return float(torch.linalg.svdvals(overlap).sum())


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T`` without the zeros of square roots, which are triangular."""
    (n, dim), m = a.shape, len(b)
    overlap = torch.empty(n, m, dtype=a.dtype)
    for of_b in blocks(m, _STRIP):
        first = of_b.start if m == dim else 0  # where these rows begin
        if n < dim:
            overlap[:, of_b] = a[:, first:] @ b[of_b, first:].T
        else:
            overlap[of_b, : of_b.stop] = a[of_b, first:] @ b[: of_b.stop, first:].T
            overlap[: of_b.start, of_b] = a[: of_b.start, first:] @ b[of_b, first:].T
    return overlap


def _lower_gram(x: Tensor) -> Tensor:
    """``x @ x.T`` up to its diagonal, block by block; what is above is not to be read."""
    gram = torch.empty(len(x), len(x), dtype=x.dtype)
    for rows in blocks(len(x), _STRIP):
        gram[rows, : rows.stop] = x[rows] @ x[: rows.stop].T
    return gram


def _squares_must_drown(overlap: Array, a: Array, b: Array) -> bool:
    """Whether eigenvalues of squares are in vain, told for next to nothing where both roots are triangular.

    Square roots are triangular. Their diagonals then have the determinant of the overlap, hence the geometric
    mean of its singular values, which bounds the sum of their inverses from below. The longest column bounds
    the largest from below, and the Frobenius norm bounds their sum from above.
    """
    n = len(overlap)
    if not a.shape == b.shape == (n, n):
        return False
    diagonals = np.abs(np.concatenate([np.diagonal(a), np.diagonal(b)]))
    columns = np.einsum("ij,ij->j", overlap, overlap)
    if not diagonals.all() or not columns.any():
        return True
    inverses = math.log(n) - float(np.log(diagonals).sum()) / n
    lost = math.log(_SQUARE_ROUNDING * columns.max()) + inverses
    return lost > math.log(2 * _GRAM_ERROR * math.sqrt(n * columns.sum()))
