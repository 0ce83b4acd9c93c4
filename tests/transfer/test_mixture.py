from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from graftgan.errors import ConfigError, GraftganError
from graftgan.transfer import mixture
from graftgan.transfer.mixture import component_count, effective_rank, fit_mixture


def cloud(n: int = 60, dim: int = 4, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    centres = 6 * rng.normal(size=(3, dim))
    return torch.from_numpy(centres[rng.integers(3, size=n)] + rng.normal(size=(n, dim))).float()


def covariance(fit: mixture.Fit, j: int) -> np.ndarray:
    vectors, values = fit.mixture.eigenvectors[j].double(), fit.mixture.eigenvalues[j].double()
    return np.asarray((vectors * values) @ vectors.T)


def test_one_component_is_mean_and_covariance_with_the_ridge() -> None:
    rows = cloud()
    fit = fit_mixture(rows, 1, seed=0)
    exact = rows.double().numpy()
    np.testing.assert_allclose(fit.mixture.means[0], exact.mean(0), rtol=1e-5, atol=1e-6)
    wanted = np.cov(exact.T, bias=True) + 1e-6 * np.eye(4)
    np.testing.assert_allclose(covariance(fit, 0), wanted, rtol=1e-4, atol=1e-4)
    assert fit.plain
    assert fit.warnings() == []
    # The mean log density of a Gaussian at its own sample, but for the ridge.
    entropy = 0.5 * (4 * np.log(2 * np.pi) + np.linalg.slogdet(wanted)[1] + 4)
    assert fit.log_likelihood == pytest.approx(-entropy, rel=1e-4)


def test_three_components_are_those_of_scikit_learn_in_float64() -> None:
    rows = cloud()
    fit = fit_mixture(rows, 3, seed=0)
    theirs = GaussianMixture(3, random_state=0).fit(rows.double().numpy())
    np.testing.assert_allclose(fit.mixture.weights, theirs.weights_, rtol=1e-9)
    np.testing.assert_allclose(fit.mixture.means, theirs.means_, rtol=1e-5)
    for j in range(3):
        np.testing.assert_allclose(covariance(fit, j), theirs.covariances_[j], rtol=1e-4, atol=1e-5)
    # The three clouds are far apart, so the moments of the law are those of the points.
    mean, spread = fit.mixture.moments()
    np.testing.assert_allclose(mean, rows.double().mean(0), rtol=1e-4)
    np.testing.assert_allclose(spread, np.cov(rows.double().numpy().T, bias=True), rtol=1e-3, atol=1e-3)


def test_few_latents_in_many_dimensions_are_fitted_all_the_same() -> None:
    rows = torch.randn(25, 64, generator=torch.Generator().manual_seed(0))
    fit = fit_mixture(rows, 3, seed=0)
    assert fit.mixture.components == 3
    assert fit.plain
    ranks = [effective_rank(values) for values in fit.mixture.eigenvalues]
    # Each of n points spans at most n - 1 directions around their mean.
    assert sum(ranks) <= 22.1
    assert bool(torch.isfinite(fit.mixture.at(0.2).draw(8)).all())


def test_equal_latents_give_a_point() -> None:
    fit = fit_mixture(torch.ones(6, 3), 2, seed=0)
    drawn = fit.mixture.draw(5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, torch.ones(5, 3), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("first_good", "expected"),
    [(1, (3, "full", 1e-6)), (2, (2, "full", 1e-6)), (3, (1, "full", 1e-6)),
     (4, (3, "full", None)), (5, (3, "diag", None))],
)  # fmt: skip
def test_the_order_of_retreat(
    monkeypatch: pytest.MonkeyPatch, first_good: int, expected: tuple[int, str, float | None]
) -> None:
    rows, real, tried = cloud(), mixture._em, []

    def failing(data: Any, count: int, kind: str, ridge: float, seed: int) -> Any:
        tried.append((count, kind, ridge))
        return real(data, count, kind, ridge, seed) if len(tried) == first_good else None

    monkeypatch.setattr(mixture, "_em", failing)
    fit = fit_mixture(rows, 3, seed=0)
    wide = 1e-4 * float(rows.double().numpy().var(axis=0).mean())
    count, kind, ridge = expected
    assert tried[-1] == (count, kind, pytest.approx(wide if ridge is None else ridge))
    assert fit.mixture.components == count
    assert f"{count} components, {kind} covariances" in fit.report()["fit"]
    assert fit.report()["wanted"] == 3
    assert fit.plain == (first_good == 1)
    assert len(fit.warnings()) == (first_good > 1)
    if kind == "diag":
        off = covariance(fit, 0) - np.diag(np.diag(covariance(fit, 0)))
        assert np.abs(off).max() < 1e-6


def test_no_attempt_left_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "_em", lambda *_: None)
    with pytest.raises(GraftganError, match="no mixture"):
        fit_mixture(cloud(), 3, seed=0)


def test_more_components_than_points_are_no_fit() -> None:
    assert mixture._em(cloud(2).double().numpy(), 3, "full", 1e-6, 0) is None


def test_how_many_components() -> None:
    assert [component_count(None, n) for n in (3, 25, 26, 1000)] == [3, 3, 5, 5]
    assert component_count(8, 10) == 8
    for wanted, images in ((None, 2), (11, 10)):
        with pytest.raises(ConfigError, match=r"finetune\.mixture\.components.*finetune\.prior"):
            component_count(wanted, images)


def test_the_effective_rank_counts_equal_directions() -> None:
    assert effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3.0)
    assert effective_rank(torch.tensor([1.0, 0.0])) == pytest.approx(1.0)
    assert 1 < effective_rank(torch.tensor([1.0, 0.1])) < 2


def test_scikit_learn_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    mixture.check_installed()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="scikit-learn"):
        mixture.check_installed()
