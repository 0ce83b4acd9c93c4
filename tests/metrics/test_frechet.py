from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid

from graftgan.metrics import frechet
from graftgan.metrics.frechet import (
    frechet_distance,
    frechet_estimate,
    frechet_from_moments,
    moments,
)


def draw(n: int, dim: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    spectrum = scale / (1 + np.arange(dim)) ** 0.5
    return np.random.default_rng(seed).normal(size=(n, dim)) * spectrum + shift


def exact(a: np.ndarray, b: np.ndarray) -> float:
    """The definition with 60 digits: eigenvalues of the product of the covariances."""
    with mpmath.workdps(60):
        x, y = mpmath.matrix(a.tolist()), mpmath.matrix(b.tolist())

        def stats(m: mpmath.matrix) -> tuple[mpmath.matrix, mpmath.matrix]:
            mean = mpmath.matrix([mpmath.fsum(m[:, j]) / m.rows for j in range(m.cols)])
            centred = mpmath.matrix(m.rows, m.cols)
            for i in range(m.rows):
                for j in range(m.cols):
                    centred[i, j] = m[i, j] - mean[j]
            return mean, centred.T * centred / (m.rows - 1)

        (m1, s1), (m2, s2) = stats(x), stats(y)
        roots = [mpmath.sqrt(max(mpmath.re(e), 0)) for e in mpmath.eig(s1 * s2, left=False, right=False)]
        traces = mpmath.fsum(s1[i, i] + s2[i, i] for i in range(s1.rows))
        return float(
            mpmath.fsum((p - q) ** 2 for p, q in zip(m1, m2, strict=True)) + traces - 2 * mpmath.fsum(roots)
        )


@pytest.mark.parametrize(("n_a", "n_b"), [(6, 60), (60, 6), (6, 9), (12, 12), (13, 13), (60, 80)])
def test_exact_to_twelve_digits_on_both_sides_of_full_rank(n_a: int, n_b: int) -> None:
    a, b = draw(n_a, 12, 0), draw(n_b, 12, 1, 1.3, 0.1)
    assert frechet_distance(a, b) == pytest.approx(exact(a, b), rel=1e-12)


def test_repeated_images_keep_the_accuracy() -> None:
    a, b = np.repeat(draw(4, 12, 0), 5, axis=0), draw(40, 12, 1)
    assert frechet_distance(a, b) == pytest.approx(exact(a, b), rel=1e-12)


def test_constant_features_and_flat_covariances_keep_the_accuracy() -> None:
    a, b = draw(80, 12, 0), draw(60, 12, 1, shift=0.2)
    a[:, 3] = b[:, 3] = 1.0
    a[:, 5] = a[:, 4] * (1 + 1e-9)
    assert frechet_distance(a, b) == pytest.approx(exact(a, b), rel=1e-12)


@pytest.mark.parametrize(("n_a", "n_b"), [(300, 400), (30, 400)])
def test_agrees_with_scipy_and_torchmetrics(n_a: int, n_b: int) -> None:
    a, b = draw(n_a, 64, 0), draw(n_b, 64, 1, 1.2, 0.3)
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    m1, m2 = a.mean(0), b.mean(0)
    root = scipy.linalg.sqrtm(s1 @ s2).real.trace()
    # a square root of a singular product is only good to the root of the rounding
    tolerance = 1e-10 if n_a > 64 else 1e-5
    ours = frechet_distance(a, b)
    assert ours == pytest.approx(((m1 - m2) ** 2).sum() + s1.trace() + s2.trace() - 2 * root, rel=tolerance)
    theirs = _compute_fid(*(torch.from_numpy(np.asarray(v)) for v in (m1, s1, m2, s2)))
    assert ours == pytest.approx(float(theirs), rel=tolerance)


def test_agrees_with_the_torchmetrics_class_and_an_extractor_of_ours() -> None:
    class Flatten(torch.nn.Module):
        num_features = 12

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1).double()

    metric = FrechetInceptionDistance(feature=Flatten(), input_img_size=(3, 2, 2)).set_dtype(torch.float64)
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (90, 3, 2, 2), generator=generator, dtype=torch.uint8)
    fake = torch.randint(0, 200, (70, 3, 2, 2), generator=generator, dtype=torch.uint8)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    ours = frechet_distance(fake.flatten(1).double().numpy(), real.flatten(1).double().numpy())
    assert ours == pytest.approx(float(metric.compute()), rel=1e-9)


@pytest.mark.parametrize("n", [8, 100])
def test_known_answers(n: int) -> None:
    x = draw(n, 16, 0)
    trace = float(x.var(axis=0, ddof=1).sum())
    shift = np.linspace(-1, 1, 16)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12 * trace)
    assert frechet_distance(x, x + shift) == pytest.approx(float(shift @ shift), rel=1e-12)
    mean = x.mean(0)
    assert frechet_distance(x, mean + 3 * (x - mean)) == pytest.approx(4 * trace, rel=1e-12)


def test_diagonal_gaussians_have_the_closed_form() -> None:
    n, dim = 64, 6
    basis = scipy.linalg.hadamard(n)[:, 1 : dim + 1].astype(float)
    sigma_a, sigma_b = np.arange(1, dim + 1.0), np.array([2.0, 2, 1, 0.5, 9, 6])
    unit = math.sqrt((n - 1) / n)
    distance = frechet_distance(basis * sigma_a * unit, basis[::-1] * sigma_b * unit + 1)
    assert distance == pytest.approx(dim + ((sigma_a - sigma_b) ** 2).sum(), rel=1e-12)


def test_symmetric_and_blind_to_order_and_rotation() -> None:
    rng = np.random.default_rng(2)
    a, b = draw(20, 16, 0), draw(50, 16, 1, 1.5)
    value = frechet_distance(a, b)
    rotation = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    assert frechet_distance(b, a) == pytest.approx(value, rel=1e-12)
    assert frechet_distance(rng.permutation(a), rng.permutation(b)) == pytest.approx(value, rel=1e-12)
    assert frechet_distance(a @ rotation + 5, b @ rotation + 5) == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize("n", [5, 16, 17, 90])
def test_the_root_squares_to_the_covariance(n: int) -> None:
    x = draw(n, 16, 3)
    m = moments(x)
    assert m.root.shape == (min(n - 1, 16), 16)
    np.testing.assert_allclose(m.root.T @ m.root, np.cov(x, rowvar=False), atol=1e-14)
    assert m.trace == pytest.approx(np.cov(x, rowvar=False).trace())


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_do_not_depend_on_how_many_rows_are_summed_at_a_time(
    rows: int, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = (draw(90, 16, 3) + 100).astype(dtype)
    monkeypatch.setattr(frechet, "_ROWS", rows)
    monkeypatch.setattr(frechet, "_STRIP", 5)
    m, covariance = moments(x), np.cov(x.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(m.root.T @ m.root, covariance, rtol=0, atol=1e-13)
    assert m.trace == pytest.approx(covariance.trace(), rel=1e-13)


def test_other_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="16 and of 8 dimensions"):
        frechet_from_moments(moments(draw(9, 16, 0)), moments(draw(9, 8, 0)))


def test_the_interval_covers_the_mean_of_repeated_experiments() -> None:
    estimates = [
        frechet_estimate(draw(250, 12, 2 * t, shift=0.3), draw(120, 12, 2 * t + 1)) for t in range(150)
    ]
    centre = np.mean([e.value for e in estimates])
    covered = np.mean([e.low <= centre <= e.high for e in estimates])
    assert 0.9 <= covered <= 1.0
    spread = np.std([e.value for e in estimates])
    # an error many times the true one would also cover
    assert np.mean([e.stderr for e in estimates]) < 1.6 * spread


def test_too_few_rows_give_no_interval_and_too_few_blocks_an_error() -> None:
    estimate = frechet_estimate(draw(9, 4, 0), draw(50, 4, 1))
    assert estimate.value > 0
    assert math.isnan(estimate.low) and math.isnan(estimate.high)
    with pytest.raises(ValueError, match="5 <= fake_blocks"):
        frechet_estimate(draw(50, 4, 0), draw(50, 4, 1), fake_blocks=4)


@pytest.mark.parametrize(("fall", "by_gram"), [(0.0, True), (2.0, False)])
def test_small_singular_values_are_never_taken_from_squares(
    fall: float, by_gram: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal sets are at distance 0, whether the spectrum is flat or falls by five orders."""
    taken = []
    svd = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda m: taken.append(1) or svd(m))
    scale = np.arange(1, 301) ** -fall
    x = np.random.default_rng(0).normal(size=(2000, 300)) * scale
    assert frechet_distance(x, x + 0.1 * scale) == pytest.approx(np.sum((0.1 * scale) ** 2), rel=1e-9)
    assert bool(taken) is not by_gram


@pytest.mark.parametrize(("fall", "in_vain"), [(0.0, False), (0.3, False), (1.0, True), (2.0, True)])
def test_eigenvalues_of_squares_are_not_taken_in_vain(
    fall: float, in_vain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the diagonals of the roots say that squares would not do, leaving them out changes no bit."""
    taken: list[int] = []
    eigvalsh = torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda m: taken.append(len(m)) or eigvalsh(m))
    scale = np.arange(1, 201) ** -fall
    rng = np.random.default_rng(0)
    roots = [moments(rng.normal(size=(n, 200)) * scale) for n in (900, 700)]
    value = frechet_from_moments(*roots)
    assert bool(taken) is not in_vain
    monkeypatch.setattr(frechet, "_squares_must_drown", lambda *_: False)
    assert frechet_from_moments(*roots) == value
    assert taken


def test_roots_of_few_images_are_not_taken_for_triangular() -> None:
    overlap = np.diag([1.0, 1e-12])
    assert not frechet._squares_must_drown(overlap, np.ones((2, 5)), np.ones((2, 5)))
    assert frechet._squares_must_drown(overlap, np.eye(2), overlap)
    assert frechet._squares_must_drown(np.zeros((2, 2)), np.zeros((2, 2)), np.eye(2))


@pytest.mark.parametrize("strip", [5, 12, 100])
@pytest.mark.parametrize(("n_a", "n_b"), [(60, 80), (7, 80), (80, 7), (12, 80), (6, 9)])
def test_zeros_of_triangular_roots_are_left_out(
    n_a: int, n_b: int, strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = draw(n_a, 12, 0), draw(n_b, 12, 1, 1.3, 0.1)
    expected = float(np.linalg.svd(moments(a).root @ moments(b).root.T, compute_uv=False).sum())
    monkeypatch.setattr(frechet, "_STRIP", strip)
    assert frechet._nuclear_norm(moments(a).root, moments(b).root) == pytest.approx(expected, rel=1e-12)


def test_the_root_of_a_covariance_that_is_given() -> None:
    covariance = np.cov(draw(60, 12, 0), rowvar=False)
    root = frechet.covariance_root(covariance)
    assert root is not None
    np.testing.assert_allclose(root.T @ root, covariance, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(np.tril(root, -1), 0)
    covariance[:, 3] = covariance[3] = 0
    assert frechet.covariance_root(covariance) is None
