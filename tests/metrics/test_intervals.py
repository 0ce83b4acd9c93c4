from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from graftgan.metrics.intervals import (
    as_features,
    as_pair,
    jackknife_variance,
    normal_quantile,
    student_quantile,
    symmetric_interval,
    wilson,
)


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("degrees", [4, 9, 30])
def test_student_quantile_is_scipys(confidence: float, degrees: int) -> None:
    exact = stats.t.ppf(0.5 + confidence / 2, degrees)
    assert student_quantile(confidence, degrees) == pytest.approx(exact, rel=4e-3)


def test_quantiles_refuse_what_they_cannot_do() -> None:
    assert normal_quantile(0.95) == pytest.approx(1.959964, abs=1e-6)
    with pytest.raises(ValueError, match="between 0 and 1"):
        normal_quantile(1.0)
    with pytest.raises(ValueError, match="4 or more"):
        student_quantile(0.95, 3)


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (1, 20), (7, 31), (20, 20)])
def test_wilson_is_scipys(hits: int, n: int) -> None:
    ours = wilson(hits / n, n)
    theirs = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.stderr == pytest.approx(math.sqrt(hits / n * (1 - hits / n) / n))


def test_wilson_needs_an_observation() -> None:
    with pytest.raises(ValueError, match="at least one"):
        wilson(0.5, 0)


def test_jackknife_of_a_mean_is_the_textbook_error() -> None:
    x = np.random.default_rng(0).normal(size=50)
    deleted = (x.sum() - x) / 49
    assert jackknife_variance(deleted) == pytest.approx(x.var(ddof=1) / 50)
    with pytest.raises(ValueError, match="at least two"):
        jackknife_variance(deleted[:1])


def test_symmetric_interval_is_not_clipped() -> None:
    assert symmetric_interval(-0.5, 0.25, 2.0).low == -1.0


def test_bad_matrices_are_named() -> None:
    good = np.zeros((3, 4))
    for bad, message in [
        (np.zeros(3), "expected a matrix"),
        (np.zeros((3, 0)), "expected a matrix"),
        (np.zeros((1, 4)), "at least 2 rows"),
        (np.full((3, 4), np.nan), "not finite"),
    ]:
        with pytest.raises(ValueError, match=f"fake: .*{message}"):
            as_features(bad, "fake")
    with pytest.raises(ValueError, match="3 columns but real has 4"):
        as_pair(np.zeros((3, 3)), good, ("fake", "real"))
