"""Estimates with an interval, and the few textbook formulas that make one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Matrix = NDArray[np.floating]


@dataclass(frozen=True)
class Estimate:
    """A number and how well it is known.

    Attributes:
        value: the estimate itself.
        stderr: its standard error; nan where it cannot be had.
        low: lower end of the confidence interval.
        high: upper end of the confidence interval.
    """

    value: float
    stderr: float
    low: float
    high: float


def normal_quantile(confidence: float) -> float:
    """Two-sided standard normal quantile, 1.96 for a confidence of 0.95.

    Raises:
        ValueError: the confidence is not strictly between 0 and 1.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def student_quantile(confidence: float, degrees: int) -> float:
    """Two-sided Student t quantile by the Cornish-Fisher series (Abramowitz and Stegun 26.7.5).

    Within 0.4 % of the exact quantile from 4 degrees of freedom on at a confidence of 0.95.

    Raises:
        ValueError: fewer than 4 degrees of freedom, where the series is poor.
    """
    if degrees < 4:
        raise ValueError(f"the series needs 4 or more degrees of freedom, not {degrees}")
    z = normal_quantile(confidence)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / degrees**power for power, term in enumerate(terms, start=1))


def symmetric_interval(value: float, stderr: float, quantile: float) -> Estimate:
    """Interval ``value ± quantile * stderr``; never clipped, so a legal negative KID stays negative."""
    return Estimate(value, stderr, value - quantile * stderr, value + quantile * stderr)


def wilson(share: float, n: float, confidence: float = 0.95) -> Estimate:
    """Score interval of a share of ``n`` independent yes/no answers (Wilson 1927).

    Unlike the normal interval it stays inside [0, 1] and keeps a width at 0 and at 1. The standard error
    is the usual ``sqrt(p (1 - p) / n)``. ``n`` may be an effective number.

    Raises:
        ValueError: ``n`` is not positive.
    """
    if n <= 0:
        raise ValueError("a share needs at least one observation")
    z = normal_quantile(confidence)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low = 0.0 if share <= 0.0 else max(0.0, centre - half)
    high = 1.0 if share >= 1.0 else min(1.0, centre + half)
    return Estimate(share, math.sqrt(share * (1 - share) / n), low, high)


def jackknife_variance(replicates: Array) -> float:
    """Variance of a statistic from its delete-one (or delete-block) replicates.

    ``(m - 1) / m * sum (t_i - mean t)^2`` (Efron and Stein 1981), blocks of equal size.

    Raises:
        ValueError: fewer than two replicates.
    """
    m = len(replicates)
    if m < 2:
        raise ValueError("a jackknife needs at least two replicates")
    return float((m - 1) / m * np.sum((replicates - replicates.mean()) ** 2))


def as_matrix(features: Matrix, name: str, least_rows: int = 2) -> Matrix:
    """Check a feature matrix ``[n, dim]``; float32 stays so, all else becomes float64.

    Args:
        features: ``[n, dim]`` floating array.
        name: what to call it in the error.
        least_rows: fewest rows the caller can work with.

    Raises:
        ValueError: not a matrix, too few rows, or a value that is not finite.
    """
    given = np.asarray(features)
    matrix = given if given.dtype == np.float32 else given.astype(np.float64, copy=False)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(f"{name}: expected a matrix [n, dim], got shape {matrix.shape}")
    if len(matrix) < least_rows:
        raise ValueError(f"{name}: needs at least {least_rows} rows, has {len(matrix)}")
    # a sum needs no array of booleans as large as the features
    if not np.isfinite(matrix.sum(dtype=np.float64)) and not np.isfinite(matrix).all():
        raise ValueError(f"{name}: holds values that are not finite")
    return matrix


def as_features(features: Matrix, name: str, least_rows: int = 2) -> Array:
    """Check a feature matrix and widen it to float64; see `as_matrix`.

    Raises:
        ValueError: as `as_matrix`.
    """
    return as_matrix(features, name, least_rows).astype(np.float64, copy=False)


def as_matrices(a: Matrix, b: Matrix, names: tuple[str, str], least_rows: int = 2) -> tuple[Matrix, Matrix]:
    """Check two feature matrices that must have the same width.

    Raises:
        ValueError: as `as_matrix`, or the widths differ.
    """
    first, second = as_matrix(a, names[0], least_rows), as_matrix(b, names[1], least_rows)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"{names[0]} has {first.shape[1]} columns but {names[1]} has {second.shape[1]}")
    return first, second


def as_pair(a: Matrix, b: Matrix, names: tuple[str, str], least_rows: int = 2) -> tuple[Array, Array]:
    """Check two feature matrices that must have the same width, and widen them to float64.

    Raises:
        ValueError: as `as_matrices`.
    """
    first, second = as_matrices(a, b, names, least_rows)
    return first.astype(np.float64, copy=False), second.astype(np.float64, copy=False)
