"""Many scores from one feature pass, each with interval, floor and the protocol that gives it a meaning."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftgan.errors import ProtocolMismatch
from graftgan.metrics.copying import CLOSE_QUANTILE, CopySearch, CopyTest
from graftgan.metrics.floor import Floor
from graftgan.metrics.intervals import Estimate
from graftgan.metrics.kid import KernelSums
from graftgan.metrics.neighbours import MEMORY_MIB
from graftgan.metrics.reals import Reals

OFFICIAL_EXTRACTOR = "inception"
Matrix = NDArray[np.floating]


@dataclass(frozen=True)
class ScoreSettings:
    """Choices that all scores of one evaluation share.

    Attributes:
        k_precision_recall: neighbour of precision and recall.
        k_density_coverage: neighbour of density and coverage.
        confidence: level of the intervals.
        splits: real-versus-real splits averaged by the floor.
        seed: of those splits.
        memory_mib: bound on the working memory of neighbour searches.
    """

    k_precision_recall: int = 3
    k_density_coverage: int = 5
    confidence: float = 0.95
    splits: int = 5
    seed: int = 0
    memory_mib: float = MEMORY_MIB

    @property
    def neighbours(self) -> tuple[int, int]:
        """Neighbour of precision and recall, and of density and coverage."""
        return self.k_precision_recall, self.k_density_coverage


@dataclass(frozen=True)
class Score:
    """One score and all that is needed to read it.

    Attributes:
        name: metric and extractor, such as ``kid_efflite0``; bare ``fid`` and ``kid`` only for the official
            network.
        value: None where it could not be measured, see ``note``.
        low: lower end of the interval, None where there is none.
        high: upper end.
        floor: the same score of reals against reals at ``floor_n`` images a side, or the honest value.
        n_fake: generated images used.
        n_real: real images used.
        protocol: protocol id of the features.
        floor_n: images a side of the floor, None where the floor is not measured.
        note: what a reader must know, or why the value is missing.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    floor: float | None
    n_fake: int
    n_real: int
    protocol: str
    floor_n: int | None = None
    note: str = ""

    def to_dict(self) -> dict[str, str | int | float | None]:
        """Plain values in a fixed order, for JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class _Context:
    n_fake: int
    n_real: int
    protocol: str
    floor: Floor | None

    def score(
        self, metric: str, estimate: Estimate | None, note: str = "", honest: float | None = None
    ) -> Score:
        floor = self.floor.values.get(metric, honest) if self.floor else honest
        floor_n = self.floor.n if self.floor and metric in self.floor.values else None
        value, low, high = (None,) * 3 if estimate is None else _finite(estimate)
        name = metric_name(metric, self.protocol)
        return Score(name, value, low, high, floor, self.n_fake, self.n_real, self.protocol, floor_n, note)


def metric_name(metric: str, protocol: str) -> str:
    """Name of a metric under a protocol; ``fid`` and ``kid`` alone mean the official network.

    Args:
        metric: ``fd``, ``kid``, ``precision`` and so on.
        protocol: protocol id, ``extractor@px/resize/hash``.

    Returns:
        For example ``kid_efflite0``.
    """
    extractor = protocol.split("@", 1)[0]
    if extractor == OFFICIAL_EXTRACTOR and metric in {"fd", "kid"}:
        return {"fd": "fid", "kid": "kid"}[metric]
    slug = re.sub(r"[^a-z0-9]+", "_", extractor.lower()).strip("_")
    return f"{metric}_{slug}"


def require_same_protocol(*protocols: str) -> str:
    """The one protocol id that all scores or features share.

    Raises:
        ProtocolMismatch: they differ, so their numbers must not be compared.
        ValueError: none given.
    """
    if not protocols:
        raise ValueError("no protocol given")
    different = sorted(set(protocols))
    if len(different) > 1:
        raise ProtocolMismatch(
            f"scores of different protocols cannot be compared: {', '.join(different)}",
            "measure both with the same evaluate.extractor, which fixes size and resize too",
        )
    return different[0]


def evaluate_features(
    fake: Matrix,
    real_test: Matrix,
    train: Matrix | None,
    protocol: str,
    *,
    train_mirrored: Matrix | None = None,
    settings: ScoreSettings = ScoreSettings(),
) -> list[Score]:
    """All scores of one set of fakes.

    Args:
        fake: ``[n, dim]`` features of generated images, untruncated, from independent latents.
        real_test: ``[m, dim]`` features of test images that neither training nor checkpoint choice has
            seen; they serve as the held-out images of the copy test too.
        train: ``[t, dim]`` features of the training images, or None.
        protocol: id of the extractor that made all of them.
        train_mirrored: features of the mirrored training images, where mirroring was an augmentation.
        settings: neighbours, level, splits and seed.

    Returns:
        Scores in a fixed order: Fréchet distance, its excess over the floor, KID, precision, recall,
        density, coverage, then the copy scores.

    Raises:
        ValueError: bad matrices, or fewer rows than the neighbours need.
    """
    reals = Reals(real_test, settings.memory_mib)
    found = None
    if train is not None:
        test = CopyTest(train, real_test, mirrored=train_mirrored, memory_mib=settings.memory_mib)
        found = test.find(fake)
    return scores_against(fake, reals, reals.sums(fake), found, protocol, settings)


def scores_against(
    fake: Matrix,
    reals: Reals,
    sums: KernelSums,
    found: CopySearch | None,
    protocol: str,
    settings: ScoreSettings = ScoreSettings(),
) -> list[Score]:
    """Return what `evaluate_features` does, where several sets of fakes share the reals.

    Args:
        fake: ``[n, dim]`` features of generated images.
        reals: the test images.
        sums: what ``reals.sums`` gave for the fakes.
        found: where the copy test found the fakes' nearest training images; None without training features.
        protocol: id of the extractor that made all of them.
        settings: neighbours, level, splits and seed; the bound on memory is that of the reals.

    Raises:
        ValueError: bad matrices, or fewer rows than the neighbours need.
    """
    level, n, ks = settings.confidence, min(len(reals) // 2, len(fake)), settings.neighbours
    context = _Context(len(fake), len(reals), protocol, reals.floor(n, *ks, settings.splits, settings.seed))
    scores = [
        context.score("fd", reals.frechet(fake, level), "biased upwards at small n; compare at equal n"),
        _excess_score(context, reals.excess(fake, settings.splits, settings.seed)),
        context.score("kid", reals.kid(sums, level)),
        *(context.score(name, estimate) for name, estimate in vars(reals.manifold(fake, *ks, level)).items()),
    ]
    return scores + _copy_scores(context, found, level)


def _excess_score(context: _Context, excess: tuple[float, int] | None) -> Score:
    name = metric_name("fd_excess", context.protocol)
    value, n = excess or (None, 0)
    note = f"above the floor, both at {n} images a side" if excess else "too few real images to halve"
    return Score(name, value, None, None, 0.0, n, n, context.protocol, None, note)


def _copy_scores(context: _Context, found: CopySearch | None, confidence: float) -> list[Score]:
    names, honest = ("copying", "close_share", "authenticity"), (0.5, CLOSE_QUANTILE, None)
    if found is None:
        return [context.score(name, None, "no training features were given") for name in names]
    report = found.report(pairs=0, confidence=confidence)
    notes = (report.reason or "1 is all copies", report.reason, "")
    estimates = (report.copying, report.close_share, report.authenticity)
    rows = zip(names, estimates, notes, honest, strict=True)
    return [context.score(*row) for row in rows]


def _finite(estimate: Estimate) -> tuple[float | None, float | None, float | None]:
    values = (estimate.value, estimate.low, estimate.high)
    value, low, high = (v if math.isfinite(v) else None for v in values)
    return value, low, high
