from __future__ import annotations

import numpy as np
import pytest
from prdc import compute_prdc

from graftgan.metrics.density_coverage import density_coverage
from graftgan.metrics.manifold import manifold_scores
from graftgan.metrics.precision_recall import precision, recall


def sets(dtype: type) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(120, 16)).astype(dtype), (rng.normal(size=(90, 16)) * 1.2 + 0.2).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_four_are_those_of_the_single_functions(dtype: type) -> None:
    fake, real = sets(dtype)
    scores = manifold_scores(fake, real, k_precision_recall=3, k_density_coverage=5, confidence=0.9)
    assert scores.precision == precision(fake, real, k=3, confidence=0.9)
    assert scores.recall == recall(real, fake, k=3, confidence=0.9)
    assert (scores.density, scores.coverage) == density_coverage(fake, real, k=5, confidence=0.9)


def test_the_four_are_those_of_prdc() -> None:
    fake, real = sets(np.float32)
    scores = manifold_scores(fake, real, k_precision_recall=5, k_density_coverage=5)
    ours = {name: estimate.value for name, estimate in vars(scores).items()}
    assert ours == pytest.approx(compute_prdc(real, fake, nearest_k=5), rel=1e-12)


def test_a_k_beyond_a_set_is_refused() -> None:
    fake, real = sets(np.float64)
    with pytest.raises(ValueError, match="between 1 and 89"):
        manifold_scores(fake, real, k_density_coverage=90)
