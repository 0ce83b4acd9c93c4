"""Exact neighbour searches in feature space, in tiles of bounded memory.

Squared distances are screened by matrix products with a bound of their rounding error (`metrics.screening`).
What the bound leaves open is decided by the float64 sum of squared differences, or, if it is much, screened
again by finer products. So results are those of exact distances, whatever the tile, the processor and the
library below the product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftgan.metrics.intervals import Array, Matrix
from graftgan.metrics.products import blocks
from graftgan.metrics.screening import Points, Screen, bounded, exact_squares, screens_for, tile_shape

Mask = NDArray[np.bool_]
MEMORY_MIB = 256.0
_TIE_SLACK = 1.0 + 1e-9
_SPARE = 4
"""Candidates kept beside the k wanted, so that rounding seldom hides a nearer one."""
_SPARE_ROUNDED = 16
_MOST_IN_A_BYTE = 255
_OPEN_PAIRS = 1 << 16
_WIDE_STRIPS = 4
"""Parts of a tile that is screened again: a pair that is open after float64, too, takes more memory."""
_OPEN_SHARE = 1e-3
"""Above this share of undecided pairs a tile is screened again instead of going pair by pair."""


@dataclass(frozen=True)
class Hits:
    """How many distances are within a radius.

    Attributes:
        by_row: ``[n]`` number of columns, for each row.
        by_column: ``[m]`` number of rows, for each column.
    """

    by_row: NDArray[np.int64]
    by_column: NDArray[np.int64]


def hits(
    a: Matrix,
    b: Matrix,
    *,
    row_radii: Sequence[Array] = (),
    column_radii: Sequence[Array] = (),
    memory_mib: float = MEMORY_MIB,
) -> list[Hits]:
    """Count the distances between two sets that are at most a radius; ties count, with a slack of rounding.

    Args:
        a: ``[n, dim]``, the rows.
        b: ``[m, dim]``, the columns.
        row_radii: squared radii ``[n]`` around the rows.
        column_radii: squared radii ``[m]`` around the columns.
        memory_mib: bound on the working memory.

    Returns:
        One count for each array of radii, those of the rows first.
    """
    of_rows = [r[:, None] * _TIE_SLACK for r in row_radii]
    of_columns = [r[None, :] * _TIE_SLACK for r in column_radii]
    found = [Hits(np.zeros(len(a), np.int64), np.zeros(len(b), np.int64)) for _ in [*of_rows, *of_columns]]
    origin = _middle(b)
    first, second = Points.of(a, origin), Points.of(b, origin)
    screens = screens_for(first, second)
    height, width = tile_shape(memory_mib, a.shape[1])
    for rows in blocks(len(a), height):
        for columns in blocks(len(b), width):
            here = [r[rows] for r in of_rows] + [r[:, columns] for r in of_columns]
            inside = _inside(first, second, rows, columns, here, screens)
            for hit, held in zip(found, inside, strict=True):
                by_row, by_column = _counts(held)
                hit.by_row[rows] += by_row
                hit.by_column[columns] += by_column
    return found


def squared_radii(x: Matrix, ks: Sequence[int], memory_mib: float = MEMORY_MIB) -> list[Array]:
    """Squared distance of each row to its k-th nearest other row, for each k; a row is never its own.

    Raises:
        ValueError: a k is not between 1 and the number of other rows.
    """
    for k in ks:
        if not 1 <= k < len(x):
            raise ValueError(f"k must lie between 1 and {len(x) - 1} for {len(x)} rows, not {k}")
    points = Points.of(x, _middle(x))
    _, squares = _smallest(points, points, ks, memory_mib, same=True)
    return [np.ascontiguousarray(squares[:, k - 1]) for k in ks]


def nearest(a: Matrix, b: Matrix, memory_mib: float = MEMORY_MIB) -> tuple[NDArray[np.int64], Array]:
    """Nearest row of ``b`` for each row of ``a``: its index (the lowest of equals) and its distance."""
    origin = _middle(b)
    index, squares = _smallest(Points.of(a, origin), Points.of(b, origin), [1], memory_mib, same=False)
    return index[:, 0], np.sqrt(squares[:, 0])


def _smallest(
    a: Points, b: Points, ks: Sequence[int], memory_mib: float, *, same: bool
) -> tuple[NDArray[np.int64], Array]:
    """Indices and squared distances of the nearest columns of each row, exact at the ks (from 1)."""
    others = len(b.x) - same
    screen, *finer = screens_for(a, b)
    keep = min(max(ks) + (_SPARE_ROUNDED if screen.rounded else _SPARE), others)
    bounds = torch.full((len(a.x), keep), torch.inf)
    indices = torch.zeros((len(a.x), keep), dtype=torch.int64)
    height, width = tile_shape(memory_mib, a.x.shape[1])
    for rows in blocks(len(a.x), height):
        for columns in blocks(len(b.x), width, rows.start if same else 0):
            low = torch.from_numpy(bounded(a, b, rows, columns, screen).low)
            if same and columns.start == rows.start:
                low.fill_diagonal_(torch.inf)
            _merge(bounds[rows], indices[rows], low, columns.start)
            later = slice(max(rows.stop, columns.start), columns.stop)
            if same and later.start < later.stop:
                mirrored = low[:, later.start - columns.start :].T
                _merge(bounds[later], indices[later], mirrored, rows.start)
    every = np.arange(len(a.x))
    index, squares = _settle(a, b, every, indices.numpy(), bounds.numpy(), ks, screen)
    left = np.flatnonzero(_unsettled(bounds, squares, ks, others, same))
    # Wider numbers take twice the memory, and the rows are copied.
    height, width = tile_shape(memory_mib, a.x.shape[1], share=1 / 3)
    for some in blocks(len(left), height):
        rows_left = left[some]
        index[rows_left], squares[rows_left] = _again(a, b, rows_left, ks, keep, width, same, finer)
    return index, squares


def _unsettled(bounds: Tensor, squares: Array, ks: Sequence[int], others: int, same: bool) -> Mask:
    """Which rows may have nearer columns than those kept, or for `nearest` as near with a lower index."""
    worst, last = bounds[:, -1].numpy(), squares[:, max(ks) - 1]
    settled = (last < worst) | (same & (last == worst)) | (bounds.shape[1] == others)
    return np.asarray(~settled)


def _again(
    a: Points,
    b: Points,
    rows: NDArray[np.int64],
    ks: Sequence[int],
    keep: int,
    width: int,
    same: bool,
    screens: Sequence[Screen],
) -> tuple[NDArray[np.int64], Array]:
    """What `_smallest` gives for a few rows: by finer and finer screens, at last row by row."""
    screen, *finer = screens
    part = replace(a, x=a.x[rows], norms=a.norms[rows])
    bounds = torch.from_numpy(np.full((len(rows), keep), np.inf, screen.dtype))
    indices = torch.zeros((len(rows), keep), dtype=torch.int64)
    for columns in blocks(len(b.x), width):
        low = bounded(part, b, slice(0, len(rows)), columns, screen).low
        if same:
            own = np.flatnonzero((rows >= columns.start) & (rows < columns.stop))
            low[own, rows[own] - columns.start] = np.inf
        _merge(bounds, indices, torch.from_numpy(low), columns.start)
    index, squares = _settle(part, b, np.arange(len(rows)), indices.numpy(), bounds.numpy(), ks, screen)
    left = np.flatnonzero(_unsettled(bounds, squares, ks, len(b.x) - same, same))
    if finer and len(left):
        index[left], squares[left] = _again(a, b, rows[left], ks, keep, width, same, finer)
    else:
        for at in left:
            index[at], squares[at] = _nearest_of_row(a, b, int(rows[at]), ks, keep, width, same, screen)
    return index, squares


def _counts(held: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of those that hold, by row and by column, several times as fast as NumPy's own."""
    by_row = np.bitwise_count(np.packbits(held, axis=1)).sum(axis=1, dtype=np.int64)
    by_column = np.zeros(held.shape[1], np.int64)
    for rows in blocks(len(held), _MOST_IN_A_BYTE):
        by_column += np.add.reduce(held[rows].view(np.uint8), axis=0, dtype=np.uint8)
    return by_row, by_column


def _middle(x: Matrix) -> Array:
    middle: Array = np.mean(x, axis=0, dtype=np.float64)
    return middle


def _merge(bounds: Tensor, indices: Tensor, low: Tensor, start: int) -> None:
    """Keep the lowest bounds of each row, in place."""
    keep = bounds.shape[1]
    wanted = min(keep, low.shape[1])
    if low.is_contiguous():
        values, at = low.topk(wanted, dim=1, largest=False)
    else:  # a transposed tile, which topk would copy
        values, at = (found.T for found in low.T.topk(wanted, dim=0, largest=False))
    both, both_at = torch.cat([bounds, values], dim=1), torch.cat([indices, at + start], dim=1)
    values, order = both.topk(keep, dim=1, largest=False)
    bounds.copy_(values)
    indices.copy_(both_at.gather(1, order))


def _nearest_of_row(
    a: Points, b: Points, row: int, ks: Sequence[int], keep: int, width: int, same: bool, screen: Screen
) -> tuple[NDArray[np.int64], Array]:
    here = slice(row, row + 1)
    parts = [bounded(a, b, here, columns, screen).low for columns in blocks(len(b.x), width)]
    low = np.concatenate(parts, axis=1)
    if same:
        low[0, row] = np.inf
    every = np.arange(len(b.x))[None]
    index, squares = _settle(a, b, np.array([row]), every, low, ks, screen)
    return index[0, :keep], squares[0, :keep]


def _settle(
    a: Points,
    b: Points,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    low: Matrix,
    ks: Sequence[int],
    screen: Screen,
) -> tuple[NDArray[np.int64], Array]:
    """Sort candidates by distance, then index; distances that may be among the ks are made exact first.

    Args:
        a: The rows' set.
        b: The columns' set.
        rows: ``[n]``.
        columns: ``[n, c]`` candidates of each row.
        low: ``[n, c]`` lower bounds of their squared distances.
        ks: Which of the sorted ones must be exact, from 1.
        screen: Where the bounds are from.
    """
    upper = low + 2 * screen.slack * (a.norms[rows, None] + b.norms[columns])
    upper[~np.isfinite(low)] = np.inf
    low_sorted, upper_sorted = np.sort(low, axis=1), np.sort(upper, axis=1)
    squares = low.astype(np.float64)
    open_ = np.zeros(low.shape, dtype=bool)
    for k in ks:
        open_ |= (low <= upper_sorted[:, k - 1 : k]) & (upper >= low_sorted[:, k - 1 : k])
    at, candidate = np.nonzero(open_ & np.isfinite(low))
    squares[at, candidate] = exact_squares(a, b, rows[at], columns[at, candidate])
    order = np.lexsort((columns, squares), axis=1)
    return np.take_along_axis(columns, order, 1), np.take_along_axis(squares, order, 1)


def _inside(
    a: Points, b: Points, rows: slice, columns: slice, radii: list[Array], screens: Sequence[Screen]
) -> list[Mask]:
    """Which distances of a tile are at most each of the squared radii, ``[rows, columns]`` booleans."""
    screen, *finer = screens
    sure, open_ = _screened(a, b, rows, columns, radii, screen)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if not finer or sum(map(np.count_nonzero, open_)) <= _OPEN_SHARE * height * width:
        return _decided(a, b, rows, columns, radii, sure, open_)
    del open_
    for strip in blocks(columns.stop, math.ceil(width / _WIDE_STRIPS), columns.start):
        there = slice(strip.start - columns.start, strip.stop - columns.start)
        here = [radius if radius.shape[1] == 1 else radius[:, there] for radius in radii]
        for whole, part in zip(sure, _inside(a, b, rows, strip, here, finer), strict=True):
            whole[:, there] = part
    return sure


def _screened(
    a: Points, b: Points, rows: slice, columns: slice, radii: list[Array], screen: Screen
) -> tuple[list[Mask], list[Mask]]:
    """Return for each radius which distances are within it for sure, and which are open."""
    tile = bounded(a, b, rows, columns, screen)
    limits = [radius.astype(screen.dtype) for radius in radii]
    possible = [tile.low <= limit for limit in limits]
    upper = tile.raise_to_upper()
    sure = [upper <= limit for limit in limits]
    return sure, [np.logical_xor(p, s, out=p) for p, s in zip(possible, sure, strict=True)]


def _decided(
    a: Points,
    b: Points,
    rows: slice,
    columns: slice,
    radii: list[Array],
    sure: list[Mask],
    open_: list[Mask],
) -> list[Mask]:
    """Return which distances are within each radius, the open ones by their exact values; fills in `sure`."""
    for held, radius, undecided in zip(sure, radii, open_, strict=True):
        flat, limits = np.flatnonzero(undecided), np.broadcast_to(radius, held.shape)
        for some in blocks(len(flat), _OPEN_PAIRS):
            i, j = np.divmod(flat[some], held.shape[1])
            held[i, j] = exact_squares(a, b, i + rows.start, j + columns.start) <= limits[i, j]
    return sure
