"""Scores of translated images against their truths: L1, PSNR and distances of features, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from graftgan.metrics.features import Extractor
from graftgan.metrics.intervals import Estimate, student_quantile, symmetric_interval
from graftgan.metrics.scores import metric_name

Images = NDArray[np.uint8]
Values = NDArray[np.float64]

ROUNDING_MSE = 1 / 12
"""Mean squared error of rounding to whole levels; errors below it cannot be told from none."""
LEAST_GROUPS = 5


def l1_distances(outputs: Images, targets: Images) -> Values:
    """Return the mean absolute difference of each pair of images as a share of the range, in [0, 1].

    Args:
        outputs: uint8 [N, H, W, C].
        targets: The same shape.

    Raises:
        ValueError: The shapes differ or there are no images.
    """
    shares: Values = np.abs(_differences(outputs, targets)).mean(axis=(1, 2, 3)) / 255
    return shares


def psnr(outputs: Images, targets: Images) -> Values:
    """Return the peak signal-to-noise ratio of each pair of images, ``10 log10(255^2 / MSE)``, in dB.

    The error counts at least 1 / 12, that of rounding to whole levels, so equal images give 58.92 dB.

    Args:
        outputs: uint8 [N, H, W, C].
        targets: The same shape.

    Raises:
        ValueError: The shapes differ or there are no images.
    """
    errors = np.square(_differences(outputs, targets)).mean(axis=(1, 2, 3))
    decibels: Values = 10 * np.log10(255**2 / np.maximum(errors, ROUNDING_MSE))
    return decibels


def cosine_distances(a: NDArray[np.floating], b: NDArray[np.floating]) -> Values:
    """Return ``1 - cos`` of the angle between rows i of two matrices [N, dim]; a zero row is at 1.

    Raises:
        ValueError: The shapes differ or there are no rows.
    """
    first, second = _rows(a, b)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = (first * second).sum(axis=1)
    cosines: Values = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return 1 - cosines


def l2_distances(a: NDArray[np.floating], b: NDArray[np.floating]) -> Values:
    """Return the Euclidean distance between rows i of two matrices [N, dim].

    Raises:
        ValueError: The shapes differ or there are no rows.
    """
    first, second = _rows(a, b)
    lengths: Values = np.linalg.norm(first - second, axis=1)
    return lengths


def grouped_mean(values: Values, groups: Sequence[str], confidence: float = 0.95) -> Estimate:
    """Return a mean over images with an interval that takes images of one group for one observation.

    The variance is ``G / (G - 1) * sum_g (sum_{i in g} (x_i - mean))^2 / N^2``, with G groups (Cameron and
    Miller 2015, section II.B, for a mean); with one image a group it is the usual ``s^2 / N``. The quantile
    is Student's with G - 1 degrees of freedom.

    Args:
        values: A value for each image [N].
        groups: Its group.
        confidence: Level of the interval.

    Raises:
        ValueError: Fewer than 5 groups, or not one group a value.
    """
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    if len(groups) != len(values) or len(names) < LEAST_GROUPS:
        raise ValueError(f"{len(values)} values in {len(names)} groups give no interval; 5 groups are needed")
    mean = float(values.mean())
    sums = np.bincount(members, weights=values - mean)
    count = len(names)
    variance = count / (count - 1) * float(np.square(sums).sum()) / len(values) ** 2
    return symmetric_interval(mean, math.sqrt(variance), student_quantile(confidence, count - 1))


def paired_values(outputs: Images, targets: Images, extractor: Extractor) -> dict[str, Values]:
    """Return every score of every image; names of feature distances end in the extractor's.

    Args:
        outputs: Translated images, uint8 [N, H, W, 3].
        targets: Their truths, the same shape.
        extractor: What features are.

    Returns:
        ``l1``, ``psnr``, ``cosine_…`` and ``l2_…``, each [N]; of PSNR alone, more is better.
    """
    features, truths = extractor(outputs), extractor(targets)
    return {
        "l1": l1_distances(outputs, targets),
        "psnr": psnr(outputs, targets),
        metric_name("cosine", extractor.protocol): cosine_distances(features, truths),
        metric_name("l2", extractor.protocol): l2_distances(features, truths),
    }


def paired_scores(
    outputs: Images, targets: Images, groups: Sequence[str], extractor: Extractor, confidence: float = 0.95
) -> dict[str, Estimate]:
    """Return the mean of every score of `paired_values` with its interval.

    Raises:
        ValueError: As `grouped_mean`, or shapes that differ.
    """
    return summarised(paired_values(outputs, targets, extractor), groups, confidence)


def summarised(
    values: Mapping[str, Values], groups: Sequence[str], confidence: float = 0.95
) -> dict[str, Estimate]:
    """Return the mean of each named series with its interval."""
    return {name: grouped_mean(series, groups, confidence) for name, series in values.items()}


def _differences(outputs: Images, targets: Images) -> Values:
    if outputs.shape != targets.shape or outputs.ndim != 4 or not len(outputs):
        raise ValueError(f"expected images of equal shape [N, H, W, C], not {outputs.shape}, {targets.shape}")
    return outputs.astype(np.float64) - targets.astype(np.float64)


def _rows(a: NDArray[np.floating], b: NDArray[np.floating]) -> tuple[Values, Values]:
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 2 or not len(first):
        raise ValueError(f"expected matrices of equal shape [N, dim], not {first.shape} and {second.shape}")
    return first, second
