from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from graftgan.metrics.neighbours import centre_pair, nearest, squared_distance_blocks, squared_radii


def draw(n: int, seed: int, dim: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dim))


@pytest.mark.parametrize("memory_mib", [0.0, 0.002, 256.0])
def test_distances_are_scipys_at_any_block_size(memory_mib: float) -> None:
    a, b = draw(30, 0), draw(17, 1)
    blocks = list(squared_distance_blocks(a, b, memory_mib))
    np.testing.assert_allclose(np.vstack([s for _, s in blocks]), cdist(a, b, "sqeuclidean"), rtol=1e-12)
    assert [rows.start for rows, _ in blocks[1:]] == [rows.stop for rows, _ in blocks[:-1]]


def test_blocks_respect_the_memory_bound() -> None:
    a, b = draw(500, 0), draw(1000, 1)
    assert max(s.nbytes for _, s in squared_distance_blocks(a, b, memory_mib=1.0)) <= 2**20 / 3


def test_copies_are_at_distance_zero_far_from_the_origin() -> None:
    x = draw(40, 0, 300).astype(np.float32).astype(np.float64) + 1000.0
    a, b = centre_pair(x, x)
    squares = np.vstack([s for _, s in squared_distance_blocks(a, b)])
    assert (np.diagonal(squares) == 0).all()
    assert (squares[~np.eye(40, dtype=bool)] > 0).all()


def test_a_point_is_not_its_own_neighbour() -> None:
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), -1).reshape(-1, 2)
    np.testing.assert_array_equal(squared_radii(grid, 1), 1.0)


@pytest.mark.parametrize("k", [1, 3, 9])
def test_radii_are_the_sorted_distances(k: int) -> None:
    x = draw(40, 0)
    expected = np.sort(cdist(x, x), axis=1)[:, k]
    np.testing.assert_allclose(np.sqrt(squared_radii(x, k, memory_mib=0.004)), expected, rtol=1e-12)


def test_k_must_leave_a_neighbour() -> None:
    for k in (0, 5):
        with pytest.raises(ValueError, match="between 1 and 4"):
            squared_radii(draw(5, 0), k)


def test_nearest_takes_the_lowest_of_equals() -> None:
    b = np.array([[0.0, 0], [2, 0], [2, 0], [0, 5]])
    index, distance = nearest(np.array([[2.0, 1], [0, 4], [1, 0]]), b)
    assert index.tolist() == [1, 3, 0]
    np.testing.assert_allclose(distance, [1, 1, 1])
