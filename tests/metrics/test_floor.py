from __future__ import annotations

import numpy as np
import pytest

from graftgan.metrics.floor import frechet_excess, real_floor
from graftgan.metrics.frechet import frechet_distance


def draw(n: int, seed: int, scale: float = 1.0, dim: int = 10) -> np.ndarray:
    return scale * np.random.default_rng(seed).normal(size=(n, dim))


def test_every_metric_has_its_honest_value() -> None:
    floor = real_floor(draw(400, 0))
    assert floor is not None
    assert floor.n == 200
    assert list(floor.values) == ["fd", "kid", "precision", "recall", "density", "coverage"]
    assert abs(floor.values["kid"]) < 0.02
    fresh = np.mean([frechet_distance(draw(200, 2 * t + 1), draw(200, 2 * t + 2)) for t in range(10)])
    assert floor.values["fd"] == pytest.approx(fresh, rel=0.3)
    assert 0.7 < floor.values["coverage"] <= 1.0
    assert 0.8 < floor.values["density"] < 1.2


def test_the_floor_rises_as_images_get_fewer() -> None:
    real = draw(400, 0)
    values = [real_floor(real, n=n).values["fd"] for n in (20, 60, 200)]  # type: ignore[union-attr]
    assert values[0] > values[1] > values[2]


def test_seeded_and_blind_to_nothing_else() -> None:
    real = draw(100, 0)
    assert real_floor(real, seed=3) == real_floor(real, seed=3)
    assert real_floor(real, seed=3) != real_floor(real, seed=4)
    assert real_floor(real, n=9) is None
    assert real_floor(real[:19]) is None
    assert frechet_excess(draw(50, 1), real[:19]) is None
    with pytest.raises(ValueError, match="at least one split"):
        real_floor(real, splits=0)


def test_halves_are_disjoint() -> None:
    real = np.repeat(np.arange(40.0), 1)[:, None] * np.ones((1, 3))
    floor = real_floor(real, k_density_coverage=1, splits=1)
    assert floor is not None
    # a shared image would be at distance zero of itself and lower the distance of the halves
    assert floor.values["fd"] > 0


def test_excess_is_near_zero_for_a_perfect_generator_and_large_for_a_wrong_one() -> None:
    real = draw(200, 0)
    perfect, wrong = (frechet_excess(draw(1000, 1, scale), real, splits=10) for scale in (1.0, 1.5))
    assert perfect is not None and wrong is not None
    assert perfect[1] == 100
    assert abs(perfect[0]) < 0.3 < 2.0 < wrong[0]
    # a wrong one is 10 * (1.5 - 1)^2 away
    assert wrong[0] == pytest.approx(2.5, rel=0.25)
