from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from graftgan.metrics import kid as kid_module
from graftgan.metrics.kid import kid, paired_kid_difference


def draw(n: int, seed: int, shift: float = 0.0, dim: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dim)) + shift


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    def mean_within(a: np.ndarray) -> float:
        values = [(a[i] @ a[j] / a.shape[1] + 1) ** 3 for i in range(len(a)) for j in range(len(a)) if i != j]
        return float(np.mean(values))

    cross = np.mean([(p @ q / x.shape[1] + 1) ** 3 for p in x for q in y])
    return mean_within(x) + mean_within(y) - 2 * float(cross)


def test_is_the_u_statistic_at_unequal_n() -> None:
    x, y = draw(9, 0, 0.3), draw(13, 1)
    assert kid(x, y).value == pytest.approx(by_definition(x, y), abs=1e-13)


def test_agrees_with_torchmetrics() -> None:
    x, y = draw(80, 0, 0.1), draw(80, 1)
    features = torch.from_numpy(x), torch.from_numpy(y)

    theirs = poly_mmd(features[0], features[1])
    assert kid(x, y).value == pytest.approx(float(theirs), abs=1e-12)


def test_the_error_is_the_delete_one_jackknife_by_brute_force() -> None:
    x, y = draw(11, 0, 0.2), draw(14, 1)
    variance = 0.0
    for first, second, swap in ((x, y, False), (y, x, True)):
        deleted = [np.delete(first, i, axis=0) for i in range(len(first))]
        values = np.array([by_definition(*((second, d) if swap else (d, second))) for d in deleted])
        variance += (len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum()
    estimate = kid(x, y)
    assert estimate.stderr == pytest.approx(np.sqrt(variance), rel=1e-10)
    assert estimate.high - estimate.value == pytest.approx(1.959964 * estimate.stderr, rel=1e-6)


def test_identical_sets_give_a_negative_value_that_is_kept() -> None:
    x = draw(50, 0)
    assert kid(x, x).value < 0


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draw(50, 0, 0.2), draw(33, 1)
    whole = kid(x, y)
    monkeypatch.setattr(kid_module, "_BLOCK_ROWS", 7)
    parts = kid(x, y)
    assert parts.value == pytest.approx(whole.value, abs=1e-13)
    assert parts.stderr == pytest.approx(whole.stderr, rel=1e-10)


def test_unbiased_and_covered_under_the_null_and_under_a_shift() -> None:
    for shift, truth in ((0.0, 0.0), (0.25, kid(draw(6000, 8, 0.25), draw(6000, 9)).value)):
        estimates = [kid(draw(60, 2 * t + 100, shift), draw(40, 2 * t + 101)) for t in range(200)]
        values = np.array([e.value for e in estimates])
        assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(len(values))
        covered = np.mean([e.low <= truth <= e.high for e in estimates])
        assert covered >= 0.9
        assert np.mean([e.stderr for e in estimates]) < 2.0 * values.std()


def test_paired_difference_is_the_difference_and_its_error_brute_force() -> None:
    a, b, y = draw(12, 0, 0.3), draw(12, 1, 0.1), draw(9, 2)
    estimate = paired_kid_difference(a, b, y)
    assert estimate.value == pytest.approx(by_definition(a, y) - by_definition(b, y), abs=1e-12)
    rows = [
        by_definition(np.delete(a, i, 0), y) - by_definition(np.delete(b, i, 0), y) for i in range(len(a))
    ]
    reals = [
        by_definition(a, np.delete(y, i, 0)) - by_definition(b, np.delete(y, i, 0)) for i in range(len(y))
    ]
    variance = sum((len(v) - 1) / len(v) * np.sum((np.array(v) - np.mean(v)) ** 2) for v in (rows, reals))
    assert estimate.stderr == pytest.approx(np.sqrt(variance), rel=1e-9)


def test_paired_difference_is_antisymmetric_and_zero_for_one_generator() -> None:
    a, b, y = draw(30, 0, 0.3), draw(30, 1), draw(25, 2)
    forth, back = paired_kid_difference(a, b, y), paired_kid_difference(b, a, y)
    assert forth.value == pytest.approx(-back.value)
    assert forth.low == pytest.approx(-back.high)
    same = paired_kid_difference(a, a, y)
    assert same.value == 0 and same.stderr == 0


def test_pairing_sharpens_what_separate_errors_hide() -> None:
    latents, y = draw(200, 0), draw(150, 1)
    better, worse = latents + 0.02, latents + 0.13
    paired = paired_kid_difference(better, worse, y)
    apart = paired_kid_difference(better, worse, y, same_latents=False)
    assert paired.value == apart.value
    assert paired.high < 0 < apart.high
    assert paired.stderr < 0.7 * apart.stderr


def test_paired_interval_covers() -> None:
    truth = paired_kid_difference(
        draw(4000, 5, 0.2), draw(4000, 6, 0.1), draw(4000, 7), same_latents=False
    ).value
    hits = []
    for t in range(200):
        latents = draw(60, 3 * t + 10)
        estimate = paired_kid_difference(latents + 0.2, latents + 0.1, draw(50, 3 * t + 11))
        hits.append(estimate.low <= truth <= estimate.high)
    assert np.mean(hits) >= 0.9


def test_pairs_need_equal_numbers() -> None:
    with pytest.raises(ValueError, match="10 and 12"):
        paired_kid_difference(draw(10, 0), draw(12, 1), draw(9, 2))
    paired_kid_difference(draw(10, 0), draw(12, 1), draw(9, 2), same_latents=False)
