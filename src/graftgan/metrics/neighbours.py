"""Exact neighbour searches in feature space, in blocks of bounded memory.

Squared distances come from one float64 matrix product per block. Features are centred first and rounding
noise around zero is snapped to zero, so that copies are at distance 0 and no result depends on the size of a
block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from graftgan.metrics.intervals import Array

MEMORY_MIB = 256.0
_TIE_SLACK = 1.0 + 1e-9


def centre_pair(a: Array, b: Array) -> tuple[Array, Array]:
    """Shift both sets by the mean of ``b``: distances stay, cancellation in float64 goes."""
    middle = b.mean(axis=0)
    return a - middle, b - middle


def squared_distance_blocks(
    a: Array, b: Array, memory_mib: float = MEMORY_MIB
) -> Iterator[tuple[slice, Array]]:
    """Squared Euclidean distances of the rows of ``a`` to all rows of ``b``, some rows at a time.

    Args:
        a: ``[n, dim]``.
        b: ``[m, dim]``.
        memory_mib: bound on the working memory of one block; at least one row is always done.

    Yields:
        The rows of ``a`` done and their distances ``[rows, m]``.
    """
    norms_a, norms_b = np.sum(a * a, axis=1), np.sum(b * b, axis=1)
    noise = (a.shape[1] + 8) * np.finfo(np.float64).eps
    # a block, its norms and one temporary are alive together
    step = max(1, int(memory_mib * 2**20 / (8 * 3 * max(1, len(b)))))
    for start in range(0, len(a), step):
        rows = slice(start, min(start + step, len(a)))
        scale = norms_a[rows, None] + norms_b[None, :]
        squares = a[rows] @ b.T
        squares *= -2
        squares += scale
        scale *= noise
        squares[squares <= scale] = 0
        yield rows, squares


def within(squares: Array, squared_radii: Array) -> NDArray[np.bool_]:
    """Distance at most the radius; ties count, with a slack of rounding so that they count everywhere."""
    return squares <= squared_radii * _TIE_SLACK


def squared_radii(x: Array, k: int, memory_mib: float = MEMORY_MIB) -> Array:
    """Squared distance of each row to its k-th nearest other row; a row is never its own neighbour.

    Raises:
        ValueError: k is not between 1 and the number of other rows.
    """
    if not 1 <= k < len(x):
        raise ValueError(f"k must lie between 1 and {len(x) - 1} for {len(x)} rows, not {k}")
    radii = np.empty(len(x))
    for rows, squares in squared_distance_blocks(x, x, memory_mib):
        squares[np.arange(len(squares)), np.arange(rows.start, rows.stop)] = np.inf
        radii[rows] = np.partition(squares, k - 1, axis=1)[:, k - 1]
    return radii


def nearest(a: Array, b: Array, memory_mib: float = MEMORY_MIB) -> tuple[NDArray[np.int64], Array]:
    """Nearest row of ``b`` for each row of ``a``: its index (the lowest of equals) and its distance."""
    index, distance = np.empty(len(a), dtype=np.int64), np.empty(len(a))
    for rows, squares in squared_distance_blocks(a, b, memory_mib):
        index[rows] = squares.argmin(axis=1)
        distance[rows] = np.sqrt(squares.min(axis=1))
    return index, distance
