"""Directions that must hold, on toys: rows 4, 5, 6, 8 and 10 of the acceptance matrix."""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from graftgan.gans.prior import Mixture
from graftgan.study.nets import Z_DIM, make_generator
from graftgan.study.plane import LAWS, wasserstein
from graftgan.training.ema import update_ema
from graftgan.training.losses import discriminator_loss, generator_loss
from graftgan.transfer.mixture import fit_mixture
from graftgan.transfer.penalties.bsd import spectral_diversification, trailing_variance

POINTS = 256


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Adapted(NamedTuple):
    """A source on the ring, and the mixture fitted to the latents of a target that is three of its modes."""

    generator: nn.Sequential
    mixture: Mixture
    target: np.ndarray

    def w1(self, z: torch.Tensor, batch_statistics: bool = False) -> float:
        """The distance of what the source makes of latents to fresh points of the target."""
        network = copy.deepcopy(self.generator).train(batch_statistics)
        with torch.no_grad():
            return wasserstein(network(z).numpy(), self.target)


@pytest.fixture(scope="module")
def adapted() -> Adapted:
    """A network with batch norm, taught the ring, whose latents of 100 target points were found by Adam."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = make_generator()
    rng, adam = seeded(0), torch.optim.Adam(generator.parameters(), lr=3e-3)
    for _ in range(150):
        z = torch.randn(256, Z_DIM, generator=rng)
        ring = 20 * nn.functional.normalize(z[:, :2], dim=1)
        adam.zero_grad()
        torch.autograd.backward((generator(z) - ring).square().mean())
        adam.step()
    generator.eval().requires_grad_(False)
    points, z = LAWS["II"](100, seeded(1)), torch.randn(100, Z_DIM, generator=seeded(2))
    latents = nn.Parameter(z)
    adam = torch.optim.Adam([latents], lr=0.05)
    for _ in range(150):
        adam.zero_grad()
        torch.autograd.backward((generator(latents) - points).square().mean())
        adam.step()
    mixture = fit_mixture(latents.detach(), 5, seed=0).mixture
    return Adapted(generator, mixture, LAWS["II"](POINTS, seeded(3)).numpy())


def test_4_a_fitted_prior_starts_much_nearer_to_the_target(adapted: Adapted) -> None:
    normal = torch.randn(POINTS, Z_DIM, generator=seeded(4))
    assert adapted.w1(adapted.mixture.draw(POINTS, seeded(4))) < 0.5 * adapted.w1(normal)


def test_5_at_lambda_one_it_starts_where_the_normal_law_does(adapted: Adapted) -> None:
    normal = torch.stack([torch.randn(Z_DIM, generator=rng) for rng in [seeded(4)] for _ in range(POINTS)])
    assert adapted.w1(adapted.mixture.at(1.0).draw(POINTS, seeded(4))) == adapted.w1(normal)
    between = [adapted.w1(adapted.mixture.at(share).draw(POINTS, seeded(4))) for share in (0.0, 0.3, 1.0)]
    assert between[0] < between[1] < between[2]


def test_10_statistics_of_the_batch_undo_the_prior_and_frozen_ones_keep_it(adapted: Adapted) -> None:
    mixed = adapted.mixture.draw(POINTS, seeded(4))
    normal = adapted.w1(torch.randn(POINTS, Z_DIM, generator=seeded(4)))
    assert adapted.w1(mixed) < 0.5 * normal
    assert adapted.w1(mixed, batch_statistics=True) > 0.8 * normal


class Outcome(NamedTuple):
    """What a toy GAN of 64-dimensional data ends with."""

    variance: float
    modes: int


def hidden(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.Linear(width, 64), nn.LeakyReLU(0.2)


def toy(weight: float, seed: int) -> Outcome:
    """Train from a generator that hardly varies; data have 64 dimensions, more than a batch has images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = nn.Sequential(*hidden(32), *hidden(64), nn.Linear(64, 64))
        body, head = nn.Sequential(*hidden(64), *hidden(64)), nn.Linear(64, 1)
    rng = seeded(seed)
    centres = torch.randn(8, 64, generator=rng)
    with torch.no_grad():
        generator[-1].weight *= 0.1
    sides = ([*generator.parameters()], [*body.parameters(), *head.parameters()])
    adams = [torch.optim.Adam(side, lr=2e-3, betas=(0.0, 0.99)) for side in sides]

    def update(side: int, loss: torch.Tensor, features: torch.Tensor) -> None:
        total = loss + weight * spectral_diversification(features, 10) if weight else loss
        adams[side].zero_grad()
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(sides[side], 5.0)
        adams[side].step()

    for _ in range(150):
        fakes = generator(torch.randn(32, 32, generator=rng))
        features = body(fakes)
        update(0, generator_loss(head(features)), features)
        reals = centres[torch.randint(8, (32,), generator=rng)] + 0.3 * torch.randn(32, 64, generator=rng)
        features = body(fakes.detach())
        update(1, discriminator_loss(head(body(reals)), head(features)), features)
    with torch.no_grad():
        samples = generator(torch.randn(512, 32, generator=seeded(9)))
        nearest = torch.cdist(samples, centres).argmin(dim=1)
        share = torch.bincount(nearest, minlength=8) / len(samples)
        few = samples[:32] - samples[:32].mean(dim=0)
        return Outcome(float(trailing_variance(few, 11)), int((share > 0.01).sum()))


@pytest.mark.parametrize("seed", [0, 1])
def test_6_diversification_raises_the_least_singular_values_and_loses_no_mode(seed: int) -> None:
    without, with_term = toy(0.0, seed), toy(1.0, seed)
    assert with_term.variance > 1.2 * without.variance
    assert with_term.modes >= without.modes


def test_8_the_average_is_nearer_to_the_equilibrium_than_the_network_is() -> None:
    """The smallest game: G is a shift, D a slope; both go round the solution, whose average stands still."""
    network, average = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    slope = nn.Parameter(torch.zeros(1))
    with torch.no_grad():
        network.weight.fill_(1.0)
        average.weight.fill_(1.0)
    rate, beta, path = 0.2, 0.98, []
    one = torch.ones(1, 1)
    for _ in range(400):
        (of_g,) = torch.autograd.grad(generator_loss(network(one) * slope), network.weight)
        with torch.no_grad():
            network.weight -= rate * of_g
        (of_d,) = torch.autograd.grad(discriminator_loss(0 * one * slope, network(one) * slope), slope)
        with torch.no_grad():
            slope -= rate * of_d
        update_ema(average, network, beta)
        path.append((abs(float(network.weight)), abs(float(average.weight))))
    raw, averaged = (float(np.sqrt(np.mean(np.square(side)))) for side in zip(*path[200:], strict=True))
    assert averaged < 0.6 * raw
    assert raw > 0.1
