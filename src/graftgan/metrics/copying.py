"""Does the generator copy its training images?

Precision, recall, density and coverage all reward copies. The question is put to held-out images instead: an
honest generator's samples lie no nearer to the training set than unseen real images do. The rank test is the
data-copying test of Meehan et al. 2020 (C_T, without cells) on its probability scale; authenticity is that
of Alaa et al. 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from graftgan.metrics.intervals import (
    Array,
    Estimate,
    as_matrices,
    as_matrix,
    normal_quantile,
    wilson,
)
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


class CopyTest:
    """The copy test against one training set; what does not depend on the fakes is computed once.

    Args:
        train: ``[m, dim]``, the images that generators were trained on.
        held_out: ``[h, dim]`` unseen images of the same kind, or None.
        mirrored: ``[m, dim]`` features of the training images' mirror images, searched as well.
        memory_mib: bound on working memory.

    Raises:
        ValueError: bad matrices, or ``mirrored`` is not one row a training image.
    """

    def __init__(
        self,
        train: NDArray[np.floating],
        held_out: NDArray[np.floating] | None,
        *,
        mirrored: NDArray[np.floating] | None = None,
        memory_mib: float = MEMORY_MIB,
    ) -> None:
        t = as_matrix(train, "train")
        self.originals, self.memory_mib = len(t), memory_mib
        if mirrored is not None:
            _, flipped = as_matrices(train, mirrored, ("train", "mirrored"))
            if len(flipped) != self.originals:
                raise ValueError(f"{len(flipped)} mirrored rows for {self.originals} training rows")
            t = np.concatenate([t, flipped])
        self.searched, self.held_out = t, held_out

    @cached_property
    def own(self) -> Array:
        """``[m]`` distance of each training image to the training image nearest to it."""
        squares: Array = squared_radii(self.searched[: self.originals], [1], self.memory_mib)[0]
        return np.sqrt(squares)

    @cached_property
    def unseen(self) -> Array | None:
        """``[h]`` distance of each held-out image to the training set; None where there are too few."""
        if self.held_out is None or len(self.held_out) < LEAST_HELD_OUT:
            return None
        h, _ = as_matrices(self.held_out, self.searched, ("held_out", "train"))
        return nearest(h, self.searched, self.memory_mib)[1]

    def find(self, fake: NDArray[np.floating]) -> CopySearch:
        """Search the training image nearest to each of the fakes ``[n, dim]``.

        Raises:
            ValueError: a bad matrix.
        """
        x, t = as_matrices(fake, self.searched, ("fake", "train"))
        index, distance = nearest(x, t, self.memory_mib)
        return CopySearch(self, index, distance)


@dataclass(frozen=True)
class CopySearch:
    """The training image nearest to each fake, which every report on them begins with.

    Attributes:
        test: what was searched.
        index: ``[n]`` row of the nearest image; those from ``test.originals`` on are mirror images.
        distance: ``[n]`` its distance.
    """

    test: CopyTest
    index: NDArray[np.int64]
    distance: Array

    def report(self, *, pairs: int = 16, confidence: float = 0.95) -> CopyReport:
        """Compare the fakes' nearest training neighbours with those of held-out images.

        Args:
            pairs: how many closest pairs to return.
            confidence: two-sided level of the intervals.

        Raises:
            ValueError: bad held-out features.
        """
        test, index, distance, n = self.test, self.index, self.distance, len(self.index)
        authentic = wilson(float(np.mean(distance > test.own[index % test.originals])), n, confidence)
        gallery = _worst_pairs(index, distance, test.originals, pairs)
        unseen = test.unseen
        if unseen is None:
            n_held_out = 0 if test.held_out is None else len(test.held_out)
            reason = f"the copy test needs {LEAST_HELD_OUT} held-out images, there are {n_held_out}"
            return CopyReport(None, None, authentic, gallery, reason)
        closer = float(np.mean(distance < np.quantile(unseen, CLOSE_QUANTILE)))
        # the quantile is as uncertain as a share of the held-out images, so both sizes count
        close = wilson(closer, 1 / (1 / n + 1 / len(unseen)), confidence)
        return CopyReport(_nearer_chance(distance, unseen, confidence), close, authentic, gallery)


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
    """Compare one set of fakes' nearest training neighbours with those of held-out images.

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
    test = CopyTest(train, held_out, mirrored=mirrored, memory_mib=memory_mib)
    return test.find(fake).report(pairs=pairs, confidence=confidence)


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
