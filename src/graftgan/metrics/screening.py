"""Bounds of squared distances by matrix products, and the exact distances of single pairs.

Products are of factors rounded to bfloat16 where there are many and the processor is faster in it, of float32
or of float64; each comes with a bound of its rounding error. Whoever screens a tile of distances by them has
to decide what the bounds leave open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from graftgan.metrics.intervals import Array, Matrix
from graftgan.metrics.products import bfloat16_is_faster, blocks, product

_MOST_TILE_ROWS = 2048
_NORM_ROWS = 256
_PAIRS = 32
_MANY = 2500
"""Columns from which rounded products save more than what they leave open takes."""


@dataclass(frozen=True)
class Screen:
    """How a tile is screened.

    Attributes:
        dtype: Of the products' sums.
        slack: Error of a squared distance, over ``|a|^2 + |b|^2``.
        rounded: Whether factors are rounded to bfloat16.
    """

    dtype: type[np.floating]
    slack: float
    rounded: bool = False


@dataclass(frozen=True)
class Points:
    """A set with its squared norms, seen from a common origin so that little cancels.

    Attributes:
        x: ``[n, dim]``.
        origin: ``[dim]``.
        norms: ``[n]``, squared.
        lost: Bound of what rounding to bfloat16 takes off a row, over its norm.
    """

    x: Matrix
    origin: Array
    norms: Array
    lost: float

    @classmethod
    def of(cls, x: Matrix, origin: Array) -> Points:
        """Return the rows of ``x``, seen from a point near them."""
        origin = origin.astype(np.float32).astype(np.float64)  # the same point for either precision of x
        norms, lost = np.empty(len(x)), np.zeros(len(x))
        for rows in blocks(len(x), _NORM_ROWS):
            centred = torch.from_numpy(x[rows]) - torch.from_numpy(origin)
            norms[rows] = centred.square().sum(dim=1).numpy()
            lost[rows] = (centred - centred.float().bfloat16()).square().sum(dim=1).numpy()
        share = np.divide(lost, norms, out=np.zeros(len(x)), where=norms > 0)
        return cls(x, origin, norms, math.sqrt(share.max(initial=0.0)))

    def part(self, rows: slice, screen: Screen) -> tuple[Matrix, Array]:
        """Return rows as seen from the origin, and their squared norms."""
        working = np.promote_types(self.x.dtype, screen.dtype)
        part = torch.from_numpy(self.x[rows].astype(working, copy=False))
        centred = part - torch.from_numpy(self.origin.astype(working))
        if screen.rounded:
            centred.copy_(centred.float().bfloat16())
        return centred.numpy().astype(screen.dtype, copy=False), self.norms[rows]


@dataclass(frozen=True)
class Tile:
    """Bounds of the squared distances between some rows and some columns.

    Attributes:
        low: ``[rows, columns]`` lower bounds.
        row_width: ``[rows]``, which adds to ``column_width`` as the width of the bounds.
        column_width: ``[columns]``.
    """

    low: Matrix
    row_width: Matrix
    column_width: Matrix

    def raise_to_upper(self) -> Matrix:
        """Return upper bounds, in the memory of ``low``, which is lost."""
        upper = self.low
        upper += self.row_width[:, None]
        upper += self.column_width
        return upper


def bounded(a: Points, b: Points, rows: slice, columns: slice, screen: Screen) -> Tile:
    """Bound the squared distances of a tile by ``|a|^2 + |b|^2 - 2 a.b`` and the rounding of its products.

    Args:
        a: The rows' set.
        b: The columns' set.
        rows: Of a.
        columns: Of b.
        screen: One of `screens_for` both.
    """
    dtype, slack = screen.dtype, screen.slack
    left, left_norms = a.part(rows, screen)
    right, right_norms = b.part(columns, screen)
    left *= -2  # of the shorter side, and exact
    bounds = product(left, right, screen.rounded)
    added = torch.from_numpy(bounds)  # whose sums run on all threads
    added += torch.from_numpy((left_norms * (1 - slack)).astype(dtype))[:, None]
    added += torch.from_numpy((right_norms * (1 - slack)).astype(dtype))
    added.clamp_(min=0)
    return Tile(bounds, (2 * slack * left_norms).astype(dtype), (2 * slack * right_norms).astype(dtype))


def screens_for(a: Points, b: Points) -> list[Screen]:
    """Return how tiles of two sets are screened, the coarsest and fastest way first.

    Args:
        a: The rows' set.
        b: The columns' set.
    """
    dim = a.x.shape[1]
    single, double = (Screen(dtype, _slack(dim, dtype)) for dtype in (np.float32, np.float64))
    if len(b.x) < _MANY or not bfloat16_is_faster():
        return [single, double]
    # |ab - AB| <= |a - A| |b| + |A| |b - B| of the rounded A and B, and 2 |a| |b| <= |a|^2 + |b|^2.
    rounding = a.lost + b.lost + a.lost * b.lost
    return [Screen(np.float32, rounding + (1 + rounding) * single.slack, rounded=True), single, double]


def _slack(dim: int, dtype: type[np.floating]) -> float:
    """Rounding error of a squared distance by products, over ``|a|^2 + |b|^2``.

    A sum of n products is off by at most n units of rounding times the sum of their sizes, here at most
    ``(|a|^2 + |b|^2) / 2``; the other steps add fewer than 16 units.
    """
    return float((dim + 16) * np.finfo(dtype).eps / 2)


def exact_squares(a: Points, b: Points, i: NDArray[np.int64], j: NDArray[np.int64]) -> Array:
    """Squared distances of single pairs, from float64 differences.

    Args:
        a: The rows' set.
        b: The columns' set.
        i: ``[n]`` rows.
        j: ``[n]`` their columns.
    """
    squares = np.empty(len(i))
    for some in blocks(len(i), _PAIRS):
        difference = a.x[i[some]].astype(np.float64)
        difference -= b.x[j[some]]
        squares[some] = np.einsum("nd,nd->n", difference, difference)
    return squares


def tile_shape(memory_mib: float, dim: int, share: float = 1.0) -> tuple[int, int]:
    """Rows and columns of a tile that stays in a share of the memory.

    A pair takes 12 bytes with its booleans and copies, each feature of a row or column 6 more, of which 2 are
    its copy in bfloat16.

    Args:
        memory_mib: bound on the working memory.
        dim: number of features.
        share: part of the memory that a tile may take.
    """
    room = share * memory_mib * 2**20
    square = (math.sqrt((6 * dim) ** 2 + 12 * room) - 6 * dim) / 12
    rows = min(max(1, int(square)), _MOST_TILE_ROWS)
    return rows, max(1, int((room - 6 * dim * rows) / (12 * rows + 6 * dim)))
