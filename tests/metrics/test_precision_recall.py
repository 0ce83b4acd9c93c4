"""Rules R1 to R6 and R9 of the selection sheet, and the library that the field uses."""

from __future__ import annotations

import numpy as np
import pytest
from prdc import compute_prdc
from scipy.spatial.distance import cdist

from graftgan.metrics.precision_recall import covered, precision, recall


def draw(n: int, seed: int, dim: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dim))


def dense_recall(target: np.ndarray, source: np.ndarray, k: int, dtype: type = np.float64) -> float:
    own = np.sort(cdist(source, source).astype(dtype), axis=1)[:, k]
    return float((cdist(target, source).astype(dtype) <= own).any(axis=1).mean())


@pytest.mark.parametrize("k", [1, 3, 5])
def test_agrees_with_prdc(k: int) -> None:
    real, fake = draw(120, 0), draw(150, 1) * 0.8 + 0.1
    theirs = compute_prdc(real, fake, nearest_k=k)
    assert precision(fake, real, k=k).value == pytest.approx(theirs["precision"], abs=1e-12)
    assert recall(real, fake, k=k).value == pytest.approx(theirs["recall"], abs=1e-12)


def test_r1_identical_and_disjoint_sets() -> None:
    x = draw(60, 0)
    assert recall(x, x).value == precision(x, x).value == 1.0
    assert recall(x, x + 100).value == precision(x, x + 100).value == 0.0


def test_r2_a_tight_cluster_is_precise_and_recalls_nothing() -> None:
    target, cluster = draw(200, 0, 2), 0.01 * draw(200, 1, 2)
    assert precision(cluster, target).value == 1.0
    assert recall(target, cluster).value < 0.05
    assert recall(cluster, target).value == 1.0
    assert precision(target, cluster).value < 0.05


def test_r3_only_moving_both_sets_changes_nothing() -> None:
    s, t = draw(80, 0), draw(70, 1) + 0.3
    rotation = np.linalg.qr(draw(8, 2))[0]
    before = recall(t, s), precision(s, t)
    after = (
        recall(3 * t @ rotation + 7, 3 * s @ rotation + 7),
        precision(3 * s @ rotation + 7, 3 * t @ rotation + 7),
    )
    assert before == after
    assert recall(3 * t, s).value < before[0].value


def test_r4_monotone_in_k_and_duplicates_shrink_radii() -> None:
    s, t = draw(60, 0), draw(60, 1)
    values = [recall(t, s, k=k).value for k in range(1, 10)]
    assert values == sorted(values) and values[0] < values[-1]
    doubled = np.repeat(s, 2, axis=0)
    assert recall(t, doubled, k=1).value == 0.0
    assert recall(s, doubled, k=1).value == 1.0
    assert recall(t, doubled, k=3).value == recall(t, s, k=1).value
    assert 0 < recall(t, doubled, k=3).value < recall(t, s, k=3).value


def test_r5_blocks_equal_the_dense_computation_and_half_precision_is_near() -> None:
    s, t = draw(90, 0), draw(110, 1)
    whole = covered(t, s)
    for memory_mib in (0.0, 0.01):
        np.testing.assert_array_equal(covered(t, s, memory_mib=memory_mib), whole)
    assert whole.mean() == dense_recall(t, s, 3)
    assert abs(whole.mean() - dense_recall(t, s, 3, np.float16)) < 0.01


def test_r6_ties_on_a_unit_grid_count() -> None:
    grid = np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), -1).reshape(-1, 2)
    beside = grid + np.array([1.0, 0.0])
    assert recall(beside, grid, k=1).value == 1.0
    assert recall(grid + np.array([7.0 + 1e-6, 0.0]), grid, k=1).value == 0.0
    assert recall(np.array([[6.0 + 1e-6, 0.0]]), grid, k=1).value == 0.0
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert recall(beside @ turn + 50, grid @ turn + 50, k=1).value == 1.0


def test_r9_order_changes_nothing_and_seeds_move_it_within_the_interval() -> None:
    target = draw(150, 0, 4)
    sources = [draw(400, 1, 4), 0.6 * draw(400, 2, 4), 0.2 * draw(400, 3, 4)]
    rng = np.random.default_rng(4)
    values = [recall(target, s).value for s in sources]
    assert values == [recall(rng.permutation(target), rng.permutation(s)).value for s in sources]
    assert values == sorted(values, reverse=True)
    again = recall(target, 0.6 * draw(400, 12, 4))
    first = recall(target, sources[1])
    assert first.low < again.value < first.high


def test_the_interval_covers_the_recall_of_the_whole_population() -> None:
    source = draw(100, 0, 4)
    truth = recall(draw(20_000, 1, 4) + 0.4, source).value
    estimates = [recall(draw(60, t + 2, 4) + 0.4, source) for t in range(300)]
    inside = np.mean([e.low <= truth <= e.high for e in estimates])
    assert 0.91 <= inside <= 0.99


def test_copies_are_inside_although_others_call_ties_outside() -> None:
    real = draw(100, 0)
    copies = real[np.random.default_rng(1).integers(0, 100, 1000)]
    assert precision(copies, real).value == 1.0
    assert recall(real, copies).value > 0.99
    assert compute_prdc(real, copies, nearest_k=3)["recall"] < 0.1
