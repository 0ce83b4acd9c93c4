"""Many scores from one feature pass, each with interval, floor and the protocol that gives it a meaning."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftgan.errors import ProtocolMismatch
from graftgan.metrics.copying import CLOSE_QUANTILE, copy_report
from graftgan.metrics.floor import Floor, frechet_excess, real_floor
from graftgan.metrics.frechet import frechet_estimate
from graftgan.metrics.intervals import Estimate
from graftgan.metrics.kid import kid
from graftgan.metrics.manifold import manifold_scores
from graftgan.metrics.neighbours import MEMORY_MIB

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
            "measure both with the same extractor, size and resize (evaluate.features)",
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
    level = settings.confidence
    floor = real_floor(
        real_test,
        splits=settings.splits,
        seed=settings.seed,
        n=min(len(real_test) // 2, len(fake)),
        k_precision_recall=settings.k_precision_recall,
        k_density_coverage=settings.k_density_coverage,
        memory_mib=settings.memory_mib,
    )
    context = _Context(len(fake), len(real_test), protocol, floor)
    frechet = frechet_estimate(fake, real_test, confidence=level)
    manifold = manifold_scores(
        fake,
        real_test,
        k_precision_recall=settings.k_precision_recall,
        k_density_coverage=settings.k_density_coverage,
        confidence=level,
        memory_mib=settings.memory_mib,
    )
    scores = [
        context.score("fd", frechet, "biased upwards at small n; compare at equal n"),
        _excess_score(context, frechet_excess(fake, real_test, splits=settings.splits, seed=settings.seed)),
        context.score("kid", kid(fake, real_test, confidence=level)),
        *(context.score(name, estimate) for name, estimate in vars(manifold).items()),
    ]
    return scores + _copy_scores(context, (fake, train, real_test, train_mirrored), settings)


def _excess_score(context: _Context, excess: tuple[float, int] | None) -> Score:
    name = metric_name("fd_excess", context.protocol)
    value, n = excess or (None, 0)
    note = f"above the floor, both at {n} images a side" if excess else "too few real images to halve"
    return Score(name, value, None, None, 0.0, n, n, context.protocol, None, note)


def _copy_scores(
    context: _Context, sets: tuple[Matrix, Matrix | None, Matrix, Matrix | None], settings: ScoreSettings
) -> list[Score]:
    fake, train, held_out, mirrored = sets
    names, honest = ("copying", "close_share", "authenticity"), (0.5, CLOSE_QUANTILE, None)
    if train is None:
        return [context.score(name, None, "no training features were given") for name in names]
    report = copy_report(
        fake, train, held_out,
        mirrored=mirrored, pairs=0, confidence=settings.confidence, memory_mib=settings.memory_mib,
    )  # fmt: skip
    notes = (report.reason or "1 is all copies", report.reason, "")
    estimates = (report.copying, report.close_share, report.authenticity)
    rows = zip(names, estimates, notes, honest, strict=True)
    return [context.score(*row) for row in rows]


def _finite(estimate: Estimate) -> tuple[float | None, float | None, float | None]:
    values = (estimate.value, estimate.low, estimate.high)
    value, low, high = (v if math.isfinite(v) else None for v in values)
    return value, low, high
