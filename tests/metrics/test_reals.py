"""Reals that serve many sets of fakes: the same bits as afresh, and nothing of the reals done twice."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from graftgan.metrics import copying, frechet, reals
from graftgan.metrics.copying import CopyTest, copy_report
from graftgan.metrics.floor import frechet_excess, real_floor
from graftgan.metrics.frechet import frechet_estimate, frechet_from_moments, moments
from graftgan.metrics.intervals import Estimate, jackknife_variance, student_quantile, symmetric_interval
from graftgan.metrics.kid import (
    difference_of_sums,
    kernel_sums,
    kid,
    kid_of_sums,
    paired_kid_difference,
    within_sums,
)
from graftgan.metrics.manifold import manifold_scores
from graftgan.metrics.reals import Reals

SHAPES = [(50, 12), (41, 64), (18, 6)]
"""More images than dimensions, fewer, and too few to halve."""
ROOMS = [256.0, 1e-9]
"""Memory in MiB that holds the moments of parts of the reals, and that does not."""


def draw(n: int, seed: int, dim: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, size=(n, dim)).astype(np.float32)


def halves(n: int, size: int, splits: int = 5) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng([0, 0])
    orders = [rng.permutation(n) for _ in range(splits)]
    return [(order[:size], order[size : 2 * size]) for order in orders]


def frechet_afresh(fake: np.ndarray, real: np.ndarray) -> Estimate:
    """The estimate with everything computed where it is used."""
    x, y = fake.astype(np.float64), real.astype(np.float64)
    value = frechet_from_moments(moments(x), moments(y))
    if len(y) < 20:
        return Estimate(value, math.nan, math.nan, math.nan)
    spread = [frechet_from_moments(moments(x[b::5]), moments(y)) for b in range(5)]
    block = np.arange(len(y)) % 10
    deleted = [frechet_from_moments(moments(x), moments(y[block != b])) for b in range(10)]
    variance = float(np.var(spread, ddof=1)) / 5 + jackknife_variance(np.array(deleted))
    return symmetric_interval(value, math.sqrt(variance), student_quantile(0.95, 4))


def floor_afresh(real: np.ndarray, size: int) -> dict[str, float]:
    y = real.astype(np.float64)
    rows = []
    for first, second in halves(len(y), size):
        a, b = y[first], y[second]
        four = {name: e.value for name, e in vars(manifold_scores(a, b)).items()}
        distance = frechet_from_moments(moments(a), moments(b))
        rows.append({"fd": distance, "kid": kid(a, b).value, **four})
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def excess_afresh(fake: np.ndarray, real: np.ndarray, size: int) -> float:
    x, y = fake.astype(np.float64), real.astype(np.float64)
    rng = np.random.default_rng([0, 1])
    found = []
    for first, second in halves(len(y), size):
        drawn = moments(x[rng.permutation(len(x))[:size]])
        against = moments(y[second])
        found.append(frechet_from_moments(drawn, against) - frechet_from_moments(moments(y[first]), against))
    return float(np.mean(found))


@pytest.mark.parametrize("memory_mib", ROOMS)
@pytest.mark.parametrize(("n", "dim"), SHAPES)
def test_every_score_has_the_bits_that_it_has_afresh(n: int, dim: int, memory_mib: float) -> None:
    real = draw(n, 0, dim)
    held, size = Reals(real, memory_mib), n // 2
    for seed in (1, 2):
        fake = draw(60, seed, dim, 0.2)
        # nan is not equal to itself, so texts are compared
        assert repr(held.frechet(fake)) == repr(frechet_estimate(fake, real))
        assert repr(held.frechet(fake)) == repr(frechet_afresh(fake, real))
        assert held.kid(held.sums(fake)) == kid(fake, real)
        assert held.manifold(fake) == manifold_scores(fake, real)
        assert held.manifold(fake, 2, 4, 0.9) == manifold_scores(
            fake, real, k_precision_recall=2, k_density_coverage=4, confidence=0.9
        )
        floor, excess = held.floor(size), held.excess(fake)
        assert floor == real_floor(real)
        assert excess == frechet_excess(fake, real)
        if n == 18:
            assert floor is None and excess is None
        else:
            assert floor is not None and floor.values == floor_afresh(real, size)
            assert excess == (excess_afresh(fake, real, size), size)


def test_fewer_fakes_than_half_the_reals_make_halves_of_their_own() -> None:
    real, held = draw(60, 0, 8), Reals(draw(60, 0, 8))
    for count in (60, 24):
        fake = draw(count, 3, 8)
        size = min(30, count)
        assert held.excess(fake) == (excess_afresh(fake, real, size), size)
        floor = held.floor(size)
        assert floor is not None and floor.values == floor_afresh(real, size)


def test_what_is_of_the_reals_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done: Counter[str] = Counter()

    def count(module: Any, name: str) -> None:
        function = getattr(module, name)

        def counted(*given: Any, **named: Any) -> Any:
            done[name] += 1
            return function(*given, **named)

        monkeypatch.setattr(module, name, counted)

    for name in ("squared_radii", "within_sums", "real_floor"):
        count(reals, name)
    count(frechet, "moments")
    held = Reals(draw(50, 0, 12))
    for seed in (1, 2, 3):
        fake = draw(60, seed, 12)
        held.manifold(fake)
        held.kid(held.sums(fake))
        held.floor(25)
        held.excess(fake)
        done["before"] = done["moments"]
        held.frechet(fake)
    assert (done["squared_radii"], done["within_sums"], done["real_floor"]) == (1, 1, 1)
    assert done["moments"] - done["before"] == 1 + 5, "the fakes and their blocks alone"


def test_moments_of_parts_that_do_not_fit_are_not_kept() -> None:
    for memory_mib, kept in zip(ROOMS, (10, 0), strict=True):
        held = Reals(draw(50, 0, 12), memory_mib)
        held.frechet(draw(60, 1, 12))
        assert len(held._moments._kept) == kept


def test_kernel_sums_give_kid_and_its_differences() -> None:
    real, a, b = draw(30, 0, 5), draw(20, 1, 5), draw(20, 2, 5, 0.3)
    of_a, of_b = kernel_sums(a, real), kernel_sums(b, real)
    assert kid_of_sums(of_a, within_sums(real)) == kid(a, real)
    assert difference_of_sums(of_a, of_b) == paired_kid_difference(a, b, real)
    difference = difference_of_sums(of_a, of_b, confidence=0.5)
    assert difference.value == pytest.approx(kid(a, real).value - kid(b, real).value)
    assert difference.high < difference_of_sums(of_a, of_b).high
    with pytest.raises(ValueError, match="30 reals do not belong to 29"):
        kid_of_sums(of_a, within_sums(real[:29]))


@pytest.mark.parametrize("held_out", [None, 10, 40])
def test_one_copy_test_serves_many_sets_and_levels(
    held_out: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, mirrored = draw(25, 0, 6), draw(25, 1, 6)
    unseen = None if held_out is None else draw(held_out, 2, 6)
    fakes = [draw(30, seed, 6) for seed in (3, 4)]
    levels = (0.95, 0.8)
    expected = [
        copy_report(fake, train, unseen, mirrored=mirrored, pairs=4, confidence=level)
        for fake in fakes
        for level in levels
    ]
    searches: list[int] = []
    search = copying.nearest

    def counted(a: Any, *rest: Any) -> Any:
        searches.append(len(a))
        return search(a, *rest)

    monkeypatch.setattr(copying, "nearest", counted)
    test = CopyTest(train, unseen, mirrored=mirrored)
    found = [test.find(fake) for fake in fakes]
    assert [f.report(pairs=4, confidence=level) for f in found for level in levels] == expected
    assert searches == [30, 30] + ([40] if held_out == 40 else [])
