"""Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1 and 2).

The manifold of a set is the union of balls around its points, each reaching to the k-th nearest other point
of the same set. Ties count (``<=``), so exact copies are inside. Recall of a target given a source uses the
radii of the source; precision of a source given a target uses the radii of the target.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graftgan.metrics.intervals import Estimate, as_matrices, wilson
from graftgan.metrics.neighbours import MEMORY_MIB, hits, squared_radii


def covered(
    points: NDArray[np.floating],
    manifold: NDArray[np.floating],
    *,
    k: int = 3,
    memory_mib: float = MEMORY_MIB,
) -> NDArray[np.bool_]:
    """Which points lie in the manifold of another set.

    Args:
        points: ``[n, dim]``, asked about.
        manifold: ``[m, dim]``, whose k-th neighbour radii are used.
        k: which neighbour sets the radius; the point itself is not counted.
        memory_mib: bound on working memory.

    Returns:
        ``[n]`` booleans; for ranking, the false ones are the target images that a source does not reach.

    Raises:
        ValueError: bad matrices, or k not below the number of manifold points.
    """
    x, y = as_matrices(points, manifold, ("points", "manifold"), least_rows=1)
    (found,) = hits(x, y, column_radii=squared_radii(y, [k], memory_mib), memory_mib=memory_mib)
    return found.by_row > 0


def recall(
    target: NDArray[np.floating],
    source: NDArray[np.floating],
    *,
    k: int = 3,
    confidence: float = 0.95,
    memory_mib: float = MEMORY_MIB,
) -> Estimate:
    """Share of target points inside the source manifold (source radii), ``recall(T | S)``.

    The interval is Wilson's over the target images: given the source samples, target images are independent
    yes/no answers. It depends on both sizes and on k, so compare only at equal n and k.

    Raises:
        ValueError: as `covered`.
    """
    inside = covered(target, source, k=k, memory_mib=memory_mib)
    return wilson(float(inside.mean()), len(inside), confidence)


def precision(
    source: NDArray[np.floating],
    target: NDArray[np.floating],
    *,
    k: int = 3,
    confidence: float = 0.95,
    memory_mib: float = MEMORY_MIB,
) -> Estimate:
    """Share of source (generated) points inside the target manifold (target radii), ``precision(S | T)``.

    The interval is Wilson's over the generated images, given the target images.

    Raises:
        ValueError: as `covered`.
    """
    inside = covered(source, target, k=k, memory_mib=memory_mib)
    return wilson(float(inside.mean()), len(inside), confidence)
