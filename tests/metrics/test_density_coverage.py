from __future__ import annotations

import numpy as np
import pytest
from prdc import compute_prdc
from scipy.spatial.distance import cdist

from graftgan.metrics.density_coverage import density_coverage


def draw(n: int, seed: int, dim: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dim))


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("memory_mib", [0.01, 256.0])
def test_agrees_with_prdc_at_any_block_size(k: int, memory_mib: float) -> None:
    real, fake = draw(120, 0), draw(150, 1) * 0.8 + 0.1
    theirs = compute_prdc(real, fake, nearest_k=k)
    density, coverage = density_coverage(fake, real, k=k, memory_mib=memory_mib)
    assert density.value == pytest.approx(theirs["density"], abs=1e-12)
    assert coverage.value == pytest.approx(theirs["coverage"], abs=1e-12)


def test_identical_far_and_collapsed_sets() -> None:
    real = draw(100, 0)
    density, coverage = density_coverage(real, real)
    assert coverage.value == 1.0 and density.value > 1.0
    density, coverage = density_coverage(real + 100, real)
    assert coverage.value == density.value == 0.0
    density, coverage = density_coverage(np.repeat(real[:5], 200, axis=0), real)
    assert coverage.value < 0.6 and density.value > 0.5


def test_an_outlier_among_the_fakes_reaches_nothing() -> None:
    real, fake = draw(80, 0), draw(80, 1)
    _, before = density_coverage(fake, real)
    _, after = density_coverage(np.vstack([fake, np.full((1, 8), 1e3)]), real)
    assert before == after


def test_density_error_is_that_of_a_mean_over_fakes() -> None:
    real, fake = draw(50, 0), draw(70, 1)
    radii = np.sort(cdist(real, real), axis=1)[:, 5]
    counts = (cdist(fake, real) <= radii).sum(axis=1) / 5
    density, _ = density_coverage(fake, real)
    assert density.stderr == pytest.approx(counts.std(ddof=1) / np.sqrt(70))
    assert density.low < density.value < density.high


def test_intervals_cover_given_the_reals() -> None:
    real = draw(60, 0, 4)
    truth = density_coverage(draw(20_000, 1, 4) + 0.2, real)[0].value
    estimates = [density_coverage(draw(80, t + 2, 4) + 0.2, real)[0] for t in range(200)]
    assert 0.9 <= np.mean([e.low <= truth <= e.high for e in estimates]) <= 0.99
