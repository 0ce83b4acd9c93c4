from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from graftgan.metrics.translation import (
    cosine_distances,
    grouped_mean,
    l1_distances,
    l2_distances,
    paired_scores,
    psnr,
)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)


class Means:
    """Features are the mean colours."""

    name, dim, input_px, protocol = "means", 3, 6, "means@6/none/000000000000"

    def __call__(self, given: np.ndarray) -> np.ndarray:
        return given.mean(axis=(1, 2)).astype(np.float32)


@pytest.mark.parametrize("levels", [0, 1, 51, 255])
def test_a_constant_difference_is_its_share_of_the_range(levels: int) -> None:
    black = np.zeros((3, 4, 4, 3), np.uint8)
    shifted = black + np.uint8(levels)
    assert l1_distances(shifted, black) == pytest.approx(levels / 255)
    assert l1_distances(black, shifted) == pytest.approx(levels / 255)
    expected = 20 * math.log10(255 / levels) if levels else 10 * math.log10(255**2 * 12)
    assert psnr(black, shifted) == pytest.approx(expected)


def test_l1_and_psnr_are_those_of_each_image() -> None:
    a, b = images(4), images(4, 1)
    for i in range(4):
        difference = a[i].astype(float) - b[i].astype(float)
        assert l1_distances(a, b)[i] == pytest.approx(np.abs(difference).mean() / 255)
        assert psnr(a, b)[i] == pytest.approx(10 * math.log10(255**2 / np.mean(difference**2)))


def test_feature_distances_have_closed_forms() -> None:
    a = np.array([[3.0, 4.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    b = np.array([[6.0, 8.0], [0.0, 2.0], [-5.0, 0.0], [1.0, 1.0]])
    assert cosine_distances(a, b) == pytest.approx([0, 1, 2, 1])
    assert l2_distances(a, b) == pytest.approx([5, math.sqrt(5), 6, math.sqrt(2)])


def test_each_its_own_group_is_students_interval() -> None:
    values = np.random.default_rng(0).normal(3, 2, 40)
    found = grouped_mean(values, [str(i) for i in range(40)], 0.9)
    low, high = stats.t.interval(0.9, 39, values.mean(), stats.sem(values))
    assert found.value == pytest.approx(values.mean())
    assert found.stderr == pytest.approx(stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-3)


def test_repeated_images_of_a_group_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(0).normal(0, 1, 20)
    groups = [str(i) for i in range(20)]
    alone = grouped_mean(values, groups)
    repeated = grouped_mean(np.tile(values, 5), groups * 5)
    assert (repeated.value, repeated.stderr) == pytest.approx((alone.value, alone.stderr))


def test_the_interval_covers_the_mean_of_correlated_groups() -> None:
    rng = np.random.default_rng(1)
    groups = [str(i // 4) for i in range(120)]
    covered = 0
    for _ in range(400):
        values = np.repeat(rng.normal(0, 1, 30), 4) + rng.normal(0, 0.3, 120)
        found = grouped_mean(values, groups)
        covered += found.low <= 0 <= found.high
    assert covered / 400 == pytest.approx(0.95, abs=0.04)


def test_scores_are_named_by_the_extractor() -> None:
    outputs, truths = images(8), images(8, 1)
    groups = [str(i) for i in range(8)]
    scores = paired_scores(outputs, truths, groups, Means())
    assert list(scores) == ["l1", "psnr", "cosine_means", "l2_means"]
    means = outputs.mean(axis=(1, 2)) - truths.mean(axis=(1, 2))
    assert scores["l2_means"].value == pytest.approx(np.linalg.norm(means, axis=1).mean(), rel=1e-5)
    assert scores["l1"].value == pytest.approx(l1_distances(outputs, truths).mean())
    perfect = paired_scores(truths, truths, groups, Means())
    assert perfect["l1"].value == perfect["l2_means"].value == 0
    assert perfect["cosine_means"].value == pytest.approx(0, abs=1e-6)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="equal shape"):
        l1_distances(images(2), images(3))
    with pytest.raises(ValueError, match="equal shape"):
        psnr(images(0), images(0))
    with pytest.raises(ValueError, match="equal shape"):
        l2_distances(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="5 groups"):
        grouped_mean(np.arange(20.0), ["a", "b", "c", "d"] * 5)
    with pytest.raises(ValueError, match="3 values in 5 groups"):
        grouped_mean(np.arange(3.0), list("abcde"))
