"""Networks and training of the two-dimensional playground (Grigoryev et al. 2022, public code)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graftgan.study.plane import Law

Z_DIM = 64
G_WIDTHS = (Z_DIM, 64, 128, 128, 128, 64, 2)
D_WIDTHS = (2, 64, 128, 128, 64, 1)
BATCH = 64
D_STEPS = 4
LR = 2e-4
BETAS = (0.5, 0.999)
EMA_DECAY = 0.99


def make_generator() -> nn.Sequential:
    """Return G, 64-d latents to points: batch normalisation and ReLU after all layers but the last."""
    layers: list[nn.Module] = []
    for wide, width in pairwise(G_WIDTHS[:-1]):
        layers += [nn.Linear(wide, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*G_WIDTHS[-2:]))


def make_discriminator() -> nn.Sequential:
    """Return D, points to one logit; the sigmoid is in the losses."""
    layers: list[nn.Module] = []
    for wide, width in pairwise(D_WIDTHS[:-1]):
        layers += [nn.Linear(wide, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*D_WIDTHS[-2:]))


@dataclass
class Pair:
    """A generator, its discriminator and the generator's moving average."""

    generator: nn.Sequential
    discriminator: nn.Sequential
    average: nn.Sequential

    def state(self, prefix: str = "") -> dict[str, Tensor]:
        """Return copies of all tensors by network and name."""
        networks = {"g": self.generator, "d": self.discriminator, "ema": self.average}
        return {
            f"{prefix}{key}.{name}": tensor.detach().clone()
            for key, network in networks.items()
            for name, tensor in network.state_dict().items()
        }

    def load_generator(self, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
        """Take generator and average; an average left behind would leak into what is measured."""
        for key, network in (("g", self.generator), ("ema", self.average)):
            network.load_state_dict(_below(tensors, f"{prefix}{key}."))

    def load_discriminator(self, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
        """Take the discriminator."""
        self.discriminator.load_state_dict(_below(tensors, f"{prefix}d."))


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def fresh_pair(seed: int) -> Pair:
    """Return freshly initialised networks; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator, discriminator = make_generator(), make_discriminator()
    return Pair(generator, discriminator, copy.deepcopy(generator).requires_grad_(False))


class Watch(Protocol):
    """Looks at a pair in the course of training."""

    def __call__(self, step: int, pair: Pair) -> None:
        """Look after `step` generator updates."""


class Duel:
    """Training of a pair on a law: four D steps a G step, Adam, no penalty unless `r1_gamma` is given.

    Args:
        pair: The networks; optimisers are fresh.
        law: What the real points are drawn from.
        seed: Seed of latents and real points.
        r1_gamma: Weight of ``gamma / 2 E |grad D(x)|^2`` on real points; 0 is the published setting.
        lr: Learning rate of both networks.
    """

    def __init__(self, pair: Pair, law: Law, seed: int, r1_gamma: float = 0.0, lr: float = LR) -> None:
        self.pair, self.law, self.r1_gamma = pair, law, r1_gamma
        self.rng = torch.Generator().manual_seed(seed)
        self.adam_g = _adam(pair.generator, lr)
        self.adam_d = _adam(pair.discriminator, lr)
        self.live = [t for t in pair.generator.state_dict().values() if t.is_floating_point()]
        self.averaged = [t for t in pair.average.state_dict().values() if t.is_floating_point()]

    def run(self, steps: int, watch: Watch | None = None) -> None:
        """Do generator updates, counted from 1, and show each to `watch`."""
        self.pair.generator.train()
        for step in range(1, steps + 1):
            for _ in range(D_STEPS):
                self._step_d()
            self._step_g()
            torch._foreach_lerp_(self.averaged, self.live, 1 - EMA_DECAY)
            if watch is not None:
                watch(step, self.pair)

    def _latents(self) -> Tensor:
        return torch.randn(BATCH, Z_DIM, generator=self.rng)

    def _step_d(self) -> None:
        with torch.no_grad():
            fakes = self.pair.generator(self._latents())
        reals = self.law(BATCH, self.rng)
        judge = self.pair.discriminator
        self.adam_d.zero_grad(set_to_none=True)
        fake_logits, real_logits = judge(torch.cat([fakes, reals])).chunk(2)
        loss = nn.functional.softplus(fake_logits).mean() + nn.functional.softplus(-real_logits).mean()
        if self.r1_gamma:
            loss = loss + self.r1_gamma / 2 * squared_gradients(judge, reals)
        loss.backward()
        self.adam_d.step()

    def _step_g(self) -> None:
        judge = self.pair.discriminator
        self.adam_g.zero_grad(set_to_none=True)
        judge.requires_grad_(False)
        logits = judge(self.pair.generator(self._latents()))
        nn.functional.softplus(-logits).mean().backward()
        judge.requires_grad_(True)
        self.adam_g.step()


def squared_gradients(discriminator: nn.Module, reals: Tensor) -> Tensor:
    """Return ``E |grad_x logit(x)|^2`` over real points [n, 2] (R1 of Mescheder et al. 2018)."""
    x = reals.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return gradient.square().sum(dim=1).mean()


def _adam(network: nn.Module, lr: float) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=lr, betas=BETAS, fused=True)


@torch.no_grad()
def draw(generator: nn.Module, n: int, seed: int) -> NDArray[np.float32]:
    """Return `n` points [n, 2] of a generator in evaluation mode, without truncation."""
    was_training = generator.training
    generator.eval()
    points = generator(torch.randn(n, Z_DIM, generator=torch.Generator().manual_seed(seed)))
    generator.train(was_training)
    array: NDArray[np.float32] = points.numpy()
    return array
