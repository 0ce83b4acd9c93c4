from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from graftgan.metrics.class_diversity import covered, distances, relative, robust_scores, spread

ROWS = np.random.default_rng(0).normal(size=(12, 5))


def test_distances_are_those_of_scipy() -> None:
    assert distances(ROWS) == pytest.approx(cdist(ROWS, ROWS), abs=1e-9)


def test_spread_is_the_mean_over_pairs() -> None:
    z = np.random.default_rng(1).normal(size=(12, 3))
    found = spread(ROWS, z, scale=1.0)
    assert found.distance == pytest.approx(pdist(ROWS).mean())
    assert found.per_latent == pytest.approx((pdist(ROWS) / pdist(z)).mean())
    assert found.twins == 0.0


def test_equal_samples_are_twins() -> None:
    rows = np.concatenate([np.repeat(ROWS[:1], 9, axis=0), ROWS[1:4]])
    found = spread(rows, np.random.default_rng(1).normal(size=(12, 3)), scale=1.0)
    assert found.twins == pytest.approx(9 / 12)


def test_samples_that_ignore_z_have_no_spread() -> None:
    same = np.repeat(ROWS[:1], 6, axis=0)
    found = spread(same, np.random.default_rng(1).normal(size=(6, 3)), scale=1.0)
    assert found.distance == pytest.approx(0.0, abs=1e-6)
    assert found.twins == 1.0


def test_robust_scores_single_out_one_value() -> None:
    scores = robust_scores(np.array([1.0, 1.1, 0.9, 1.0, 1.05, 3.0]))
    assert scores[-1] > 10 and np.abs(scores[:-1]).max() < 2


def test_a_value_is_compared_with_the_others_only() -> None:
    assert relative(np.array([1.0, 2.0, 4.0])) == pytest.approx([1 / 3, 2 / 2.5, 4 / 1.5])
    assert relative(np.array([5.0])) == pytest.approx([1.0])


def test_coverage_of_a_half() -> None:
    rng = np.random.default_rng(2)
    left, right = rng.normal(size=(40, 2)), rng.normal(size=(40, 2)) + 100
    density, coverage = covered(left + 0.01, np.concatenate([left, right]))
    assert coverage == pytest.approx(0.5, abs=0.03)
    assert density > 0.5


def test_too_few_images_give_nothing() -> None:
    assert covered(ROWS, ROWS[:3]) is None
