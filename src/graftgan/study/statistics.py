"""Correlations with their sample size and p-value, and the interval of a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np


@dataclass(frozen=True)
class Correlation:
    """A correlation coefficient and how surprising it is.

    Attributes:
        r: Coefficient, or None where one of the variables is constant.
        n: Number of pairs.
        p: Two-sided p-value under independence of the pairs, or None.
    """

    r: float | None
    n: int
    p: float | None


def pearson(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Return Pearson's r; p from ``t = r sqrt((n - 2) / (1 - r^2))``, Student with n - 2 degrees.

    Raises:
        ValueError: The series differ in length.
    """
    from scipy.special import stdtr

    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(a) != len(b):
        raise ValueError(f"series of {len(a)} and {len(b)} numbers have no correlation")
    n = len(a)
    if n < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Correlation(None, n, None)
    a, b = a - a.mean(), b - b.mean()
    r = float(np.clip(np.sum(a * b) / math.sqrt(np.sum(a * a) * np.sum(b * b)), -1, 1))
    if abs(r) == 1:
        return Correlation(r, n, 0.0)
    t = abs(r) * math.sqrt((n - 2) / (1 - r * r))
    return Correlation(r, n, float(2 * stdtr(n - 2, -t)))


def student_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the mean and the ends of its interval, ``m -/+ t_(n-1) s / sqrt(n)``.

    Raises:
        ValueError: There are fewer than two values, which have no spread.
    """
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        raise ValueError(f"a spread needs two or more values, not {n}")
    mean = fmean(values)
    margin = float(stdtrit(n - 1, 0.5 + confidence / 2)) * stdev(values) / math.sqrt(n)
    return mean, mean - margin, mean + margin


def ranks(values: Sequence[float]) -> list[float]:
    """Return the places of values in their order, from 1; equal values share their mean place."""
    array = np.asarray(values, np.float64)
    return [float((array < v).sum() + ((array == v).sum() + 1) / 2) for v in array]


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, Pearson's r of the ranks; None where a series is constant."""
    return pearson(ranks(x), ranks(y)).r
