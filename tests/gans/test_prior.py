from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graftgan.errors import CheckpointError
from graftgan.gans.base import build, draw_latents, sample
from graftgan.gans.prior import PREFIX, Mixture, split_prior, step_length
from graftgan.gans.walk import slerp, walk_latents

from .stylegan2.sizes import TINY

DIM, K = 6, 3


def parts(seed: int = 0, k: int = K, dim: int = DIM) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and covariances of a lopsided mixture, far from N(0, I)."""
    rng = torch.Generator().manual_seed(seed)
    weights = torch.rand(k, generator=rng, dtype=torch.float64) + 0.2
    roots = torch.randn(k, dim, dim, generator=rng, dtype=torch.float64) * 0.4
    means = torch.randn(k, dim, generator=rng, dtype=torch.float64)
    return weights / weights.sum(), means, roots @ roots.mT


def mixture(position: float = 0.0, **sizes: int) -> Mixture:
    return Mixture.of_moments(*parts(**sizes)).at(position)


def fast(law: Mixture, n: int, seed: int = 0) -> np.ndarray:
    """Many draws by the same formula, all at once; tied to `draw_one` by a test of its own."""
    rng = torch.Generator().manual_seed(seed)
    j = torch.multinomial(law.weights, n, replacement=True, generator=rng)
    e = torch.randn(n, law.z_dim, generator=rng)
    spread = ((1 - law.position) * law.eigenvalues[j] + law.position).sqrt()
    return (
        (1 - law.position) * law.means[j] + (law.eigenvectors[j] @ (spread * e)[..., None])[..., 0]
    ).numpy()


def closed_form(position: float) -> tuple[np.ndarray, np.ndarray]:
    """Moments of the sheet's T2 to T4, from the covariances themselves."""
    weights, means, covariances = (part.numpy() for part in parts())
    mean = (1 - position) * weights @ means
    inside = (1 - position) * covariances + position * np.eye(DIM)
    second = inside + (1 - position) ** 2 * means[:, :, None] * means[:, None]
    return mean, np.einsum("k,kij->ij", weights, second) - np.outer(mean, mean)


# The law


@pytest.mark.parametrize("position", [0.0, 0.5, 0.9, 1.0])
def test_the_moments_are_the_closed_form(position: float) -> None:
    mean, covariance = mixture(position).moments()
    wanted_mean, wanted_covariance = closed_form(position)
    np.testing.assert_allclose(mean, wanted_mean, atol=1e-6)
    np.testing.assert_allclose(covariance, wanted_covariance, atol=1e-5)


def test_at_lambda_one_the_law_is_standard_normal() -> None:
    mean, covariance = mixture(1.0).moments()
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    np.testing.assert_allclose(covariance, np.eye(DIM), atol=1e-6)


@pytest.mark.parametrize("position", [0.0, 0.5])
def test_draws_have_these_moments(position: float) -> None:
    law = mixture(position)
    drawn = law.draw(20_000, torch.Generator().manual_seed(3)).double().numpy()
    mean, covariance = closed_form(position)
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.04)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.08)


def test_at_one_half_it_is_neither_a_mix_of_laws_nor_interpolated_samples() -> None:
    drawn = fast(mixture(0.5), 400_000)
    mean, covariance = closed_form(0.5)
    np.testing.assert_allclose(drawn.mean(0), mean, atol=5e-3)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=3e-2)
    mean_0, covariance_0 = closed_form(0.0)
    # Half of the draws from each law: the same mean here, yet the spread between them counts in full.
    mixed = (covariance_0 + np.eye(DIM)) / 2 + np.outer(mean_0, mean_0) / 4
    interpolated = covariance_0 / 4 + np.eye(DIM) / 4
    for wrong in (mixed, interpolated):
        assert np.abs(np.cov(drawn.T) - wrong).max() > 0.1


def test_the_eigen_sampler_is_the_cholesky_sampler_in_distribution() -> None:
    weights, means, covariances = parts()
    position, n = 0.3, 100_000
    mine = fast(mixture(position), n)
    rng = np.random.default_rng(0)
    j = rng.choice(K, n, p=weights.numpy())
    roots = np.linalg.cholesky((1 - position) * covariances.numpy() + position * np.eye(DIM))
    theirs = (1 - position) * means.numpy()[j] + np.einsum("nij,nj->ni", roots[j], rng.normal(size=(n, DIM)))
    for direction in np.eye(DIM):
        a, b = np.sort(mine @ direction), np.sort(theirs @ direction)
        assert np.abs(a - b)[n // 100 : -n // 100].max() < 0.05


def test_one_draw_is_the_formula_on_the_normal_draw() -> None:
    law = mixture(0.25)
    drawn = law.draw(64, torch.Generator().manual_seed(9))
    rng = torch.Generator().manual_seed(9)
    seen = set()
    for z in drawn:
        normal = torch.randn(DIM, generator=rng)
        level = float(torch.rand((), generator=rng, dtype=torch.float64))
        j = int(np.searchsorted(np.cumsum(law.weights.numpy()), level, side="right"))
        root = law.eigenvectors[j] @ torch.diag((0.75 * law.eigenvalues[j] + 0.25).sqrt())
        torch.testing.assert_close(z, 0.75 * law.means[j] + root @ normal)
        seen.add(j)
    assert seen == {0, 1, 2}


def test_components_come_as_often_as_their_weights_say() -> None:
    weights = torch.tensor([0.7, 0.0, 0.3], dtype=torch.float64)
    means = torch.tensor([[0.0], [10.0], [20.0]])
    law = Mixture.of_moments(weights, means, torch.zeros(3, 1, 1))
    values, counts = np.unique(law.draw(4000, torch.Generator().manual_seed(0)).numpy(), return_counts=True)
    assert values.tolist() == [0.0, 20.0]
    assert counts[0] / 4000 == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize(("given_", "kept"), [(-0.5, 0.0), (1.0001, 1.0), (7.0, 1.0)])
def test_lambda_is_clamped(given_: float, kept: float) -> None:
    assert mixture().at(given_).position == kept


def test_a_covariance_of_zero_gives_the_means_and_no_nan() -> None:
    law = Mixture.of_moments(torch.ones(1), torch.full((1, DIM), 2.0), torch.zeros(1, DIM, DIM))
    rng = torch.Generator().manual_seed(0)
    assert torch.equal(law.draw(4, rng), torch.full((4, DIM), 2.0))
    moved = law.at(0.01).draw(2000, rng)
    assert bool(torch.isfinite(moved).all())
    assert float(moved.std()) == pytest.approx(0.1, rel=0.1)


def test_negative_rounding_of_a_singular_covariance_is_cut_off() -> None:
    v = torch.ones(1, DIM, 1, dtype=torch.float64) / 3
    law = Mixture.of_moments(torch.ones(1), torch.zeros(1, DIM), v @ v.mT - 1e-12 * torch.eye(DIM))
    assert float(law.eigenvalues.min()) == 0.0


# Draws


def test_at_lambda_one_draws_are_the_plain_ones_bit_for_bit() -> None:
    plain, prior = (torch.Generator().manual_seed(5) for _ in range(2))
    spec = replace(TINY, z_dim=DIM, classes=3)
    for _ in range(2):
        a = draw_latents(spec, 7, plain)
        b = draw_latents(spec, 7, prior, mixture(1.0))
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert torch.equal(plain.get_state(), prior.get_state())


def test_a_longer_series_begins_with_the_same_latents() -> None:
    law = mixture(0.4)
    long = law.draw(9, torch.Generator().manual_seed(1))
    rng = torch.Generator().manual_seed(1)
    assert torch.equal(long, torch.cat([law.draw(4, rng), law.draw(0, rng), law.draw(5, rng)]))


def test_samples_come_from_the_generators_own_prior() -> None:
    generator = build(replace(TINY, z_dim=DIM), 0).generator_ema
    plain = sample(generator, 3, 0)
    generator.prior = mixture()
    mine = sample(generator, 3, 0)
    assert not np.array_equal(plain, mine)
    assert np.array_equal(sample(generator, 5, 0, batch=2)[:3], mine)
    assert np.array_equal(sample(copy.deepcopy(generator), 3, 0), mine)
    generator.prior = mixture(1.0)
    assert np.array_equal(sample(generator, 3, 0), plain)


def test_a_gan_hands_its_prior_to_both_generators_and_no_state_shows_it() -> None:
    gan = build(TINY, 0)
    names = set(gan.generator.state_dict())
    law = mixture(dim=TINY.z_dim)
    gan.prior = law
    assert gan.generator.prior is law
    assert gan.generator_ema.prior is law
    assert set(gan.generator.state_dict()) == names


def test_mixed_styles_take_their_second_latents_from_the_prior_too() -> None:
    gan = build(replace(TINY, z_dim=DIM, classes=0), 0)
    generator: Any = gan.generator
    point = Mixture.of_moments(torch.ones(1), torch.ones(1, DIM), torch.zeros(1, DIM, DIM))
    generator.prior = point
    z = point.draw(3)
    torch.manual_seed(0)
    mixed = generator.mixed_styles(z, None, 1.0)
    torch.testing.assert_close(mixed, generator.mapping(z, None, update_w_avg=False))


def test_a_walk_stops_at_latents_of_the_prior() -> None:
    law = mixture(0.2)
    latents = walk_latents(DIM, 2, 3, 4, 7, law)
    stops = law.draw(6, torch.Generator().manual_seed(7)).view(2, 3, DIM)
    torch.testing.assert_close(latents[4], stops[:, 1])
    torch.testing.assert_close(latents[5][0], slerp(stops[0, 1], stops[0, 2], 0.25))


# As tensors


def test_tensors_and_back() -> None:
    law = mixture(0.3)
    rest, again = split_prior({"generator.w": torch.ones(1), **law.tensors()}, "a file")
    assert list(rest) == ["generator.w"]
    assert again is not None
    assert again.position == 0.3
    rngs = [torch.Generator().manual_seed(2) for _ in range(2)]
    assert torch.equal(law.draw(5, rngs[0]), again.draw(5, rngs[1]))
    assert split_prior(rest, "a file") == (rest, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("means", None),
        ("means", torch.zeros(K, DIM + 1)),
        ("means", torch.zeros(K)),
        ("means", torch.full((K, DIM), float("nan"))),
        ("weights", torch.tensor([0.9, 0.9, -0.8], dtype=torch.float64)),
        ("weights", torch.ones(K, dtype=torch.float64)),
        ("eigenvalues", -torch.ones(K, DIM)),
        ("lambda", torch.tensor(1.5)),
        ("lambda", torch.zeros(2)),
        ("more", torch.zeros(2)),
    ],
)
def test_a_damaged_prior_is_refused(name: str, value: Tensor | None) -> None:
    tensors = mixture().tensors()
    tensors.pop(PREFIX + name, None)
    if value is not None:
        tensors[PREFIX + name] = value
    with pytest.raises(CheckpointError, match="damaged prior"):
        split_prior(tensors, "a file")


# Its way


def between(here: float, there: float) -> float:
    """The step from the matrices, by the formula for two Gaussians whose covariances commute."""
    weights, means, covariances = (part.numpy() for part in parts())
    total = 0.0
    for w, m, c in zip(weights, means, covariances, strict=True):
        values, vectors = np.linalg.eigh(c)
        a, b = ((vectors * np.sqrt((1 - at) * values + at)) @ vectors.T for at in (here, there))
        total += w * ((there - here) ** 2 * m @ m + np.sum((a - b) ** 2))
    return float(np.sqrt(total))


@given(st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_the_step_is_the_weighted_bures_distance(here: float, there: float) -> None:
    assert step_length(mixture(), here, there) == pytest.approx(between(here, there), rel=1e-4, abs=1e-6)


def test_null_directions_move_by_the_root_of_lambda() -> None:
    law = Mixture.of_moments(torch.ones(1), torch.zeros(1, 16), torch.zeros(1, 16, 16))
    for at in (0.01, 0.1, 1.0):
        assert step_length(law, 0.0, at) == pytest.approx(4 * at**0.5)
