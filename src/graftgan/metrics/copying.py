"""Does the generator copy its training images?

Precision, recall, density and coverage all reward copies. The question is put to held-out images instead: an
honest generator's samples lie no nearer to the training set than unseen real images do. The rank test is the
data-copying test of Meehan et al. 2020 (C_T, without cells) on its probability scale; authenticity is that
of Alaa et al. 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftgan.metrics.intervals import Array, Estimate, as_matrices, normal_quantile, wilson
from graftgan.metrics.neighbours import MEMORY_MIB, nearest, squared_radii

LEAST_HELD_OUT = 20
HONEST = 0.5
# Held-out real images stay near 0.5; samples this far below it resemble no image of the set.
FAR = 0.25
CLOSE_QUANTILE = 0.05


@dataclass(frozen=True)
class Pair:
    """A generated image and the training image nearest to it.

    Attributes:
        fake: row of the generated image.
        train: row of the training image.
        distance: feature distance.
        mirrored: the match is with the mirror image of the training image.
    """

    fake: int
    train: int
    distance: float
    mirrored: bool


@dataclass(frozen=True)
class CopyReport:
    """Outcome of the copy test.

    Attributes:
        copying: chance that a fake lies nearer to the training set than a held-out image: 0.5 is honest, 1
            copies everything; None where there are too few held-out images.
        close_share: share of fakes nearer than the nearest 5 % of held-out images, 0.05 when honest; None
            likewise.
        authenticity: share of fakes farther from their training image than that image is from its own
            neighbour.
        pairs: the closest fakes of different training images, closest first, for the gallery.
        reason: why the first two are missing, else empty.
    """

    copying: Estimate | None
    close_share: Estimate | None
    authenticity: Estimate
    pairs: tuple[Pair, ...]
    reason: str = ""


def copy_report(
    fake: NDArray[np.floating],
    train: NDArray[np.floating],
    held_out: NDArray[np.floating] | None,
    *,
    mirrored: NDArray[np.floating] | None = None,
    pairs: int = 16,
    confidence: float = 0.95,
    memory_mib: float = MEMORY_MIB,
) -> CopyReport:
    """Compare the fakes' nearest training neighbours with those of held-out images.

    Args:
        fake: ``[n, dim]``.
        train: ``[m, dim]``, the images that the generator was trained on.
        held_out: ``[h, dim]`` unseen images of the same kind, or None.
        mirrored: ``[m, dim]`` features of the training images' mirror images, searched as well.
        pairs: how many closest pairs to return.
        confidence: two-sided level of the intervals.
        memory_mib: bound on working memory.

    Raises:
        ValueError: bad matrices, or ``mirrored`` is not one row a training image.
    """
    x, t = as_matrices(fake, train, ("fake", "train"))
    originals = len(t)
    if mirrored is not None:
        _, flipped = as_matrices(fake, mirrored, ("fake", "mirrored"))
        if len(flipped) != originals:
            raise ValueError(f"{len(flipped)} mirrored rows for {originals} training rows")
        t = np.concatenate([t, flipped])
    index, distance = nearest(x, t, memory_mib)
    own = np.sqrt(squared_radii(t[:originals], [1], memory_mib)[0])
    authentic = wilson(float(np.mean(distance > own[index % originals])), len(x), confidence)
    gallery = _worst_pairs(index, distance, originals, pairs)
    n_held_out = 0 if held_out is None else len(held_out)
    if held_out is None or n_held_out < LEAST_HELD_OUT:
        reason = f"the copy test needs {LEAST_HELD_OUT} held-out images, there are {n_held_out}"
        return CopyReport(None, None, authentic, gallery, reason)
    h, _ = as_matrices(held_out, train, ("held_out", "train"))
    _, unseen = nearest(h, t, memory_mib)
    closer = float(np.mean(distance < np.quantile(unseen, CLOSE_QUANTILE)))
    # the quantile is as uncertain as a share of the held-out images, so both sizes count
    close = wilson(closer, 1 / (1 / len(x) + 1 / len(h)), confidence)
    return CopyReport(_nearer_chance(distance, unseen, confidence), close, authentic, gallery)


def _worst_pairs(index: NDArray[np.int64], distance: Array, originals: int, count: int) -> tuple[Pair, ...]:
    found: dict[int, Pair] = {}
    for row in np.argsort(distance, kind="stable"):
        if len(found) == count:
            break
        train = int(index[row]) % originals
        if train not in found:
            found[train] = Pair(int(row), train, float(distance[row]), bool(index[row] >= originals))
    return tuple(found.values())


def _nearer_chance(fake: Array, unseen: Array, confidence: float) -> Estimate:
    """``P(fake < unseen) + P(equal) / 2`` with the error of DeLong et al. 1988, kept inside [0, 1]."""
    of_fake = _share_above(fake, unseen)
    of_unseen = 1 - _share_above(unseen, fake)
    value = float(of_fake.mean())
    variance = of_fake.var(ddof=1) / len(fake) + of_unseen.var(ddof=1) / len(unseen)
    error = math.sqrt(float(variance))
    half = normal_quantile(confidence) * error
    return Estimate(value, error, max(0.0, value - half), min(1.0, value + half))


def _share_above(points: Array, others: Array) -> Array:
    ordered = np.sort(others)
    below = np.searchsorted(ordered, points, side="left") + np.searchsorted(ordered, points, side="right")
    share: Array = 1 - below / (2 * len(others))
    return share
