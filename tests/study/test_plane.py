from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import chisquare, kstest, norm, wasserstein_distance
from torch import Tensor, nn

from graftgan.metrics.precision_recall import precision, recall
from graftgan.study.plane import (
    CIRCLE_SIGMA,
    LAWS,
    MODES,
    RADIUS,
    SOURCE_MODES,
    SUBSET,
    fat_circle,
    gradient_similarity,
    modes_and_fidelity,
    ring_centres,
    ten_modes,
    three_modes,
    wasserstein,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def nearest(points: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest centre and the offset from it."""
    index = torch.cdist(points, ring_centres()).argmin(dim=1)
    return index.numpy(), (points - ring_centres()[index]).numpy()


def test_the_centres_are_the_ten_roots_on_a_circle_of_20() -> None:
    roots = 20 * np.exp(2j * np.pi * np.arange(10) / 10)
    assert np.allclose(ring_centres()[:, 0], roots.real, atol=1e-5)
    assert np.allclose(ring_centres()[:, 1], roots.imag, atol=1e-5)
    left = ring_centres()[list(SOURCE_MODES)].numpy()
    assert np.allclose(sorted(left[:, 0]), [-20, -16.18, -16.18], atol=0.01), "the three leftmost"
    assert np.allclose(sorted(left[:, 1]), [-11.76, 0, 11.76], atol=0.01)


def test_the_fat_circle_has_uniform_angles_and_normal_radii() -> None:
    points = fat_circle(20_000, rng()).numpy().astype(np.float64)
    radii = np.hypot(*points.T)
    # |r| of N(20, 4): the part below zero has probability 3e-7
    assert kstest(radii, norm(RADIUS, CIRCLE_SIGMA).cdf).pvalue > 0.01
    counts, _ = np.histogram(np.arctan2(points[:, 1], points[:, 0]), 16, (-math.pi, math.pi))
    assert chisquare(counts).pvalue > 0.01
    assert radii.mean() == pytest.approx(20, abs=0.1) and radii.std() == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize(("law", "modes", "sigma"), [(three_modes, 3, 0.5), (ten_modes, MODES, 0.25)])
def test_the_mixtures_have_equal_modes_of_their_deviation(law, modes: int, sigma: float) -> None:  # type: ignore[no-untyped-def]
    index, offsets = nearest(law(20_000, rng()))
    found, counts = np.unique(index, return_counts=True)
    assert len(found) == modes and chisquare(counts).pvalue > 0.01
    assert offsets.mean(axis=0) == pytest.approx([0, 0], abs=0.02)
    assert np.cov(offsets.T) == pytest.approx(sigma**2 * np.eye(2), abs=0.01 * sigma)


def test_draws_depend_on_the_generator_alone() -> None:
    for law in LAWS.values():
        assert torch.equal(law(50, rng(3)), law(50, rng(3)))
        assert not torch.equal(law(50, rng(3)), law(50, rng(4)))


def test_w1_of_equal_and_of_shifted_sets() -> None:
    points = np.random.default_rng(0).normal(size=(60, 2))
    assert wasserstein(points, points[::-1]) == 0
    assert wasserstein(points, points + np.array([3, 4])) == pytest.approx(5)


def test_w1_on_a_line_is_that_of_scipy() -> None:
    draw = np.random.default_rng(1)
    a, b = draw.normal(size=80), 2 + 3 * draw.random(80)
    flat = np.zeros(80)
    found = wasserstein(np.stack([a, flat], axis=1), np.stack([b, flat], axis=1))
    assert found == pytest.approx(wasserstein_distance(a, b))


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_potentials_leave_the_distance_of_large_sets_what_it_is(shift: float) -> None:
    x, y = fat_circle(1100, rng(1)).numpy(), ten_modes(1100, rng(2)).numpy() + shift
    costs = cdist(x.astype(np.float64), y.astype(np.float64))
    rows, columns = linear_sum_assignment(costs)
    assert len(x) > 2 * SUBSET, "or it would be the same sum"
    assert wasserstein(x, y) == pytest.approx(costs[rows, columns].mean(), rel=1e-12)
    twice = np.repeat(x[:550], 2, axis=0)
    assert wasserstein(twice, twice[::-1]) == pytest.approx(0, abs=1e-9), "equal points"


def test_w1_of_fresh_target_samples_is_its_sampling_floor() -> None:
    """About 1.7 at 1024 points, from uneven counts of the modes, which have to be moved a chord of 12.4."""
    draw = rng(5)
    found = [wasserstein(ten_modes(256, draw).numpy(), ten_modes(256, draw).numpy()) for _ in range(5)]
    # the deviation of counts goes with the root of n
    assert 2.0 < np.mean(found) < 6.0


def test_w1_asks_for_sets_of_one_size() -> None:
    with pytest.raises(ValueError, match="equally many points, not 3 and 2"):
        wasserstein(np.zeros((3, 2)), np.zeros((2, 2)))


def test_modes_and_fidelity_of_laws_with_known_answers() -> None:
    assert modes_and_fidelity(ten_modes(5000, rng()).numpy()) == (10, pytest.approx(1.0, abs=0.002))
    modes, fidelity = modes_and_fidelity(three_modes(5000, rng()).numpy())
    # within two deviations of a two-dimensional Gaussian: 1 - exp(-2)
    assert modes == 3 and fidelity == pytest.approx(1 - math.exp(-2), abs=0.02)
    assert modes_and_fidelity(np.zeros((100, 2))) == (0, 0.0)


def test_a_mode_counts_from_more_than_one_percent_on() -> None:
    centre = ring_centres()[0].numpy()
    one = np.vstack([np.tile(centre, (1, 1)), np.zeros((99, 2))])
    two = np.vstack([np.tile(centre, (2, 1)), np.zeros((98, 2))])
    assert modes_and_fidelity(one) == (0, 0.01) and modes_and_fidelity(two) == (1, 0.02)
    at = centre + np.array([1.0, 0.0])
    assert modes_and_fidelity(np.tile(at, (5, 1)).astype(np.float64))[0] == 1, "the edge is inside"


class Pull(nn.Module):
    """The logit of ``D(x) = sigmoid(-|x - c|^2)``, times a sign."""

    def __init__(self, centre: Tensor, sign: float) -> None:
        super().__init__()
        self.centre, self.sign = centre, sign

    def forward(self, x: Tensor) -> Tensor:
        return -self.sign * (x - self.centre).square().sum(dim=1, keepdim=True)


def test_a_discriminator_that_pulls_to_the_centre_has_similarity_one() -> None:
    """The published notebook would call it -1: it compares with the loss gradient, not with its negative."""
    centre = ring_centres()[:1]
    points = torch.randn(40, 2, generator=rng()) * 3
    assert gradient_similarity(Pull(centre, 1.0), points, centre) == pytest.approx(1.0, abs=1e-5)
    assert gradient_similarity(Pull(centre, -1.0), points, centre) == pytest.approx(-1.0, abs=1e-5)


def test_the_direction_is_against_the_gradient_of_the_generator_loss() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    x = (torch.randn(30, 2, generator=rng()) * 3).requires_grad_(True)
    (loss_gradient,) = torch.autograd.grad(-torch.log(torch.sigmoid(net(x))).sum(), x)
    centres = ring_centres()
    towards = centres[torch.cdist(x.detach(), centres).argmin(dim=1)] - x.detach()
    expected = nn.functional.cosine_similarity(towards, -loss_gradient, dim=1).mean()
    assert gradient_similarity(net, x.detach(), centres) == pytest.approx(float(expected), abs=1e-5)


def test_the_nearest_centre_is_meant() -> None:
    centres = ring_centres()
    points = centres + torch.tensor([0.5, 0.0])
    towards_first = gradient_similarity(Pull(centres[:1], 1.0), points, centres)
    assert towards_first < 0.9, "all are pulled to one centre, which is right for one point only"


def test_a_discriminator_does_not_get_gradients_from_being_looked_at() -> None:
    net = nn.Linear(2, 1)
    gradient_similarity(net, torch.zeros(4, 2), ring_centres())
    assert net.weight.grad is None


def test_the_ring_beats_the_three_modes_by_recall_and_loses_by_precision() -> None:
    laws = (ten_modes, fat_circle, three_modes)
    target, wide, narrow = (law(1000, rng(i)).numpy() for i, law in enumerate(laws))
    wide_recall, narrow_recall = recall(target, wide, k=5).value, recall(target, narrow, k=5).value
    assert wide_recall > 0.95 and narrow_recall == pytest.approx(0.3, abs=0.05)
    assert precision(narrow, target, k=5).value > 5 * precision(wide, target, k=5).value
