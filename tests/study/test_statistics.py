from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from graftgan.study.statistics import pearson, ranks, spearman, student_interval


@pytest.mark.parametrize("n", [3, 10, 101])
@pytest.mark.parametrize("slope", [-2.0, 0.0, 0.3])
def test_pearson_is_that_of_scipy(n: int, slope: float) -> None:
    draw = np.random.default_rng(n)
    x = draw.normal(size=n)
    y = slope * x + draw.normal(size=n)
    expected = stats.pearsonr(x, y)
    found = pearson(list(x), list(y))
    assert found.n == n
    assert found.r == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6)


def test_the_published_p_value_follows_from_its_r_and_n() -> None:
    """r = -0.843 at n = 101 gives 2.0e-28, as the notebook prints; rounding of r leaves a factor of two."""
    r, n = -0.843, 101
    t = abs(r) * np.sqrt((n - 2) / (1 - r * r))
    assert 1e-28 < 2 * stats.t.sf(t, n - 2) < 4e-28


def test_exact_lines_and_constants() -> None:
    assert pearson([1, 2, 3], [2, 4, 6]).r == 1 and pearson([1, 2, 3], [3, 2, 1]).r == -1
    assert pearson([1, 2, 3, 4], [5, 5, 5, 5]).r is None
    assert pearson([1, 2], [1, 2]).r is None, "two points always lie on a line"
    with pytest.raises(ValueError, match="3 and 2"):
        pearson([1, 2, 3], [1, 2])


@pytest.mark.parametrize("seed", range(3))
def test_ranks_and_spearman_are_those_of_scipy_with_ties(seed: int) -> None:
    draw = np.random.default_rng(seed)
    x, y = draw.integers(0, 6, 12), draw.integers(0, 6, 12)
    assert ranks(list(x)) == list(stats.rankdata(x))
    assert spearman(list(x), list(y)) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_a_monotone_map_changes_no_rank_correlation() -> None:
    x = list(np.random.default_rng(0).normal(size=9))
    assert spearman(x, list(np.exp(x))) == pytest.approx(1) and spearman(x, [1.0] * 9) is None


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_of_a_mean_is_that_of_the_t_test(confidence: float) -> None:
    values = [0.2, 0.35, 0.3]
    ends = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    assert student_interval(values, confidence) == pytest.approx((np.mean(values), *ends))


def test_one_value_has_no_spread() -> None:
    with pytest.raises(ValueError, match="two or more values, not 1"):
        student_interval([0.2])
