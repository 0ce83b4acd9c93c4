from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from graftgan.metrics import neighbours, screening
from graftgan.metrics.neighbours import hits, nearest, squared_radii
from graftgan.metrics.products import fast_products
from scripts import loaded

measuring: Any = loaded("measuring")
TINY_MIB = 0.004


def draw(n: int, seed: int, dim: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dim))


@pytest.fixture(autouse=True, params=[False, True], ids=["float32", "bfloat16"])
def rounded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether screening begins with bfloat16, as of many on processors that multiply it faster."""
    monkeypatch.setattr(screening, "_MANY", 0)
    monkeypatch.setattr(screening, "bfloat16_is_faster", lambda: request.param)
    return bool(request.param)


@pytest.fixture
def decided_by_hand(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Numbers of pairs that were decided one by one."""
    counts: list[int] = []
    exact = neighbours.exact_squares

    def counted(a: object, b: object, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        counts.append(len(i))
        return exact(a, b, i, j)  # type: ignore[arg-type]

    monkeypatch.setattr(neighbours, "exact_squares", counted)
    yield counts


@pytest.mark.parametrize("memory_mib", [0.0, TINY_MIB, 256.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hits_are_those_of_scipys_distances_at_any_tile(memory_mib: float, dtype: type) -> None:
    a, b = draw(30, 0).astype(dtype), draw(17, 1).astype(dtype)
    squares = cdist(a.astype(float), b.astype(float), "sqeuclidean")
    of_rows, of_columns = np.linspace(1, 20, 30), np.linspace(0, 25, 17)
    first, second = hits(a, b, row_radii=[of_rows], column_radii=[of_columns], memory_mib=memory_mib)
    np.testing.assert_array_equal(first.by_row, (squares <= of_rows[:, None]).sum(axis=1))
    np.testing.assert_array_equal(first.by_column, (squares <= of_rows[:, None]).sum(axis=0))
    np.testing.assert_array_equal(second.by_row, (squares <= of_columns).sum(axis=1))
    np.testing.assert_array_equal(second.by_column, (squares <= of_columns).sum(axis=0))


def test_ties_count_although_the_products_round() -> None:
    """All corners of a cube far from the origin: half of all distances are exactly a radius."""
    cube = np.array(np.meshgrid(*[[0.0, 1.0]] * 6)).reshape(6, -1).T.astype(np.float32) + 1000
    (found,) = hits(cube, cube, column_radii=[np.full(64, 3.0)])
    assert found.by_row.tolist() == [1 + 6 + 15 + 20] * 64
    (radii,) = squared_radii(cube, [6])
    assert radii.tolist() == [1.0] * 64


def test_pairs_that_float32_cannot_tell_apart_are_told_apart() -> None:
    """Two tight clumps far apart: within a clump, float32 products see zero."""
    clumps = np.repeat([[-100.0] * 20, [100.0] * 20], 30, axis=0) + 1e-5 * draw(60, 3, 20)
    squares = cdist(clumps, clumps, "sqeuclidean")
    (radii,) = squared_radii(clumps, [2])
    np.testing.assert_allclose(radii, np.sort(squares, axis=1)[:, 2], rtol=1e-12)
    (found,) = hits(clumps, clumps, column_radii=[radii])
    np.testing.assert_array_equal(found.by_row, (squares <= radii * (1 + 1e-9)).sum(axis=1))


def test_few_pairs_of_ordinary_features_need_more_than_the_products(
    decided_by_hand: list[int], rounded: bool
) -> None:
    x = draw(300, 0, 64).astype(np.float32)
    (radii,) = squared_radii(x, [3])
    hits(x, x + 0.5, column_radii=[radii])
    assert 0 < sum(decided_by_hand) < (4 if rounded else 2) * len(x)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_bounds_of_every_screen_hold(scale: float) -> None:
    """Also where a row is much longer than another, and where it is the origin itself."""
    a, b = draw(60, 0, 200), draw(50, 1, 200)
    a[0], b[0], a[1] = 0, 0, 1000 * a[1]
    first, second = (screening.Points.of((scale * x).astype(np.float32), np.zeros(200)) for x in (a, b))
    squares = cdist(first.x.astype(float), second.x.astype(float), "sqeuclidean")
    for screen in screening.screens_for(first, second):
        tile = screening.bounded(first, second, slice(0, 60), slice(0, 50), screen)
        low = tile.low.copy()
        assert (low <= squares).all() and (tile.raise_to_upper() >= squares).all()
        # Narrow enough to be of use, too.
        assert np.median(squares - low) < (0.01 if screen.rounded else 1e-4) * np.median(squares)


def test_copies_are_at_distance_zero_far_from_the_origin() -> None:
    x = draw(40, 0, 300).astype(np.float32) + 1000
    index, distance = nearest(x, x)
    assert index.tolist() == list(range(40))
    assert (distance == 0).all()
    assert (squared_radii(x, [1])[0] > 0).all()


def test_equal_pictures_have_no_radius() -> None:
    x = np.repeat(draw(3, 0, 50), 20, axis=0).astype(np.float32)
    assert (squared_radii(x, [19])[0] == 0).all()
    assert (squared_radii(x, [20])[0] > 1).all()


def test_a_point_is_not_its_own_neighbour() -> None:
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), -1).reshape(-1, 2)
    np.testing.assert_array_equal(squared_radii(grid, [1])[0], 1.0)


@pytest.mark.parametrize("memory_mib", [0.0, TINY_MIB, 256.0])
def test_radii_are_the_sorted_distances(memory_mib: float) -> None:
    x = draw(40, 0)
    ordered = np.sort(cdist(x, x), axis=1)
    found = squared_radii(x, [1, 3, 39], memory_mib=memory_mib)
    for k, radii in zip([1, 3, 39], found, strict=True):
        np.testing.assert_allclose(np.sqrt(radii), ordered[:, k], rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 6), st.booleans())
def test_results_do_not_depend_on_tiles(seed: int, n: int, dim: int, whole: bool) -> None:
    """Bit for bit, with and without ties."""
    a, b = draw(n, seed, dim), draw(n + 3, seed + 1, dim)
    if whole:
        a, b = a.round(), b.round()
    k = min(3, n - 1)
    np.testing.assert_array_equal(squared_radii(a, [k], TINY_MIB), squared_radii(a, [k]))
    for small, large in zip(nearest(a, b, TINY_MIB), nearest(a, b), strict=True):
        np.testing.assert_array_equal(small, large)
    expected = cdist(a, b, "sqeuclidean")
    np.testing.assert_array_equal(nearest(a, b)[0], (expected.round(9)).argmin(axis=1))


def test_k_must_leave_a_neighbour() -> None:
    for k in (0, 5):
        with pytest.raises(ValueError, match="between 1 and 4"):
            squared_radii(draw(5, 0), [2, k])


def test_nearest_takes_the_lowest_of_equals() -> None:
    b = np.array([[0.0, 0], [2, 0], [2, 0], [0, 5]])
    index, distance = nearest(np.array([[2.0, 1], [0, 4], [1, 0]]), b)
    assert index.tolist() == [1, 3, 0]
    np.testing.assert_allclose(distance, [1, 1, 1])
    many = np.repeat(b, 30, axis=0)
    assert nearest(np.array([[2.0, 1], [0, 4], [1, 0]]), many)[0].tolist() == [30, 90, 0]


def test_the_switch_of_products_is_set_back() -> None:
    owner = torch.backends.mkldnn.matmul
    before = owner.fp32_precision
    a, b = torch.randn(70, 50), torch.randn(50, 60)
    with pytest.raises(KeyError), fast_products():
        torch.testing.assert_close((a @ b).double(), a.double() @ b.double(), rtol=1e-4, atol=1e-4)
        raise KeyError
    assert owner.fp32_precision == before


# Sets that float32 leaves open: pictures that are equal, and a few clumps of almost equal ones


def repeated(n: int, dim: int) -> np.ndarray:
    """Features of pictures half of which are one and the same."""
    x = draw(n, 0, dim).astype(np.float32)
    x[: n // 2] = x[0]
    return x


def clumped(n: int, dim: int) -> np.ndarray:
    """Features of a generator that collapsed to a few pictures, with hardly a difference among them."""
    return (np.repeat(draw(4, 1, dim), n // 4, axis=0) + 1e-3 * draw(n, 2, dim)).astype(np.float32)


@pytest.mark.parametrize("memory_mib", [4.0, 16.0])
@pytest.mark.parametrize("make", [repeated, clumped])
def test_a_search_keeps_to_its_memory_where_float32_decides_little(
    make: Callable[[int, int], np.ndarray], memory_mib: float
) -> None:
    n, dim, spare_mib = 3000, 256, 6.0
    few, x = make(40, dim), make(n, dim)
    hits(few, few, row_radii=[squared_radii(few, [3])[0]])  # loads what there is to load
    found: list[list[np.ndarray]] = []
    searching = measuring.extra_mib(lambda: found.append(squared_radii(x, [3, 5], memory_mib)))
    assert searching < memory_mib + spare_mib
    radii = found[0]
    asked: Any = {"row_radii": radii[:1], "column_radii": radii, "memory_mib": memory_mib}
    assert measuring.extra_mib(lambda: hits(x, x, **asked)) < memory_mib + spare_mib


def test_rows_that_float32_cannot_settle_are_screened_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one, each of them would have the whole set copied and multiplied again."""
    alone: list[int] = []
    search = neighbours._nearest_of_row
    monkeypatch.setattr(
        neighbours, "_nearest_of_row", lambda *given: alone.append(given[2]) or search(*given)
    )
    x = clumped(200, 64)
    (radii,) = squared_radii(x, [3])
    np.testing.assert_allclose(radii, np.sort(cdist(x, x, "sqeuclidean"), axis=1)[:, 3], rtol=1e-9)
    assert not alone


def test_more_hits_than_a_byte_holds_are_counted() -> None:
    a, b = draw(600, 3, 4), draw(520, 4, 4)
    (all_of_them,) = hits(a, b, row_radii=[np.full(600, 1e9)])
    assert (all_of_them.by_row == 520).all() and (all_of_them.by_column == 600).all()
