"""The laws of the two-dimensional playground, and what is measured on them (Grigoryev et al. 2022).

Two sources and a target in the plane: a fat circle that covers the target's ring, three of its ten modes, and
the ring of ten modes itself. All points are float32 [n, 2].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

RADIUS = 20.0
MODES = 10
CIRCLE_SIGMA = 4.0
SOURCE_SIGMA = 0.5
TARGET_SIGMA = 0.25
# The three leftmost centres, as in the published figure: angles of 144, 180 and 216 degrees.
SOURCE_MODES = (4, 5, 6)
MODE_REACH = 4 * TARGET_SIGMA
MODE_SHARE = 0.01
SUBSET = 512
"""Points a side that the potentials which speed an assignment up are found on."""

Points = NDArray[np.floating]
Law = Callable[[int, torch.Generator], Tensor]


def ring_centres() -> Tensor:
    """Return the ten centres ``20 exp(2 pi i j / 10)`` as [10, 2], by growing angle."""
    angles = torch.arange(MODES, dtype=torch.float64) * (2 * torch.pi / MODES)
    return (RADIUS * torch.stack([angles.cos(), angles.sin()], dim=1)).float()


def fat_circle(n: int, rng: torch.Generator) -> Tensor:
    """Draw source I: a uniform angle and a radius of ``20 + 4 N(0, 1)``."""
    angles = torch.rand(n, generator=rng) * (2 * torch.pi)
    radii = RADIUS + CIRCLE_SIGMA * torch.randn(n, generator=rng)
    return torch.stack([radii * angles.cos(), radii * angles.sin()], dim=1)


def _mixture(n: int, rng: torch.Generator, centres: Tensor, sigma: float) -> Tensor:
    chosen = torch.randint(len(centres), (n,), generator=rng)
    return centres[chosen] + sigma * torch.randn(n, 2, generator=rng)


def three_modes(n: int, rng: torch.Generator) -> Tensor:
    """Draw source II: Gaussians of deviation 0.5 at three neighbouring centres."""
    return _mixture(n, rng, ring_centres()[list(SOURCE_MODES)], SOURCE_SIGMA)


def ten_modes(n: int, rng: torch.Generator) -> Tensor:
    """Draw the target: Gaussians of deviation 0.25 at all ten centres."""
    return _mixture(n, rng, ring_centres(), TARGET_SIGMA)


LAWS: dict[str, Law] = {"I": fat_circle, "II": three_modes, "target": ten_modes}


def wasserstein(x: Points, y: Points) -> float:
    """Return the exact 1-Wasserstein distance of two equally large sets of points [n, 2].

    With uniform weights and equal sizes optimal transport is an assignment; the distance is the mean matched
    Euclidean distance. The best assignment stays the best whatever is subtracted from whole rows and columns:
    from large sets potentials are, which is as exact and several times faster where they are far apart.

    Raises:
        ValueError: The sets differ in size or are empty.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    if len(x) != len(y) or not len(x):
        raise ValueError(f"an assignment needs equally many points, not {len(x)} and {len(y)}")
    costs = cdist(np.asarray(x, np.float64), np.asarray(y, np.float64))
    rows, columns = linear_sum_assignment(_relieved(costs) if len(costs) > 2 * SUBSET else costs)
    return float(costs[rows, columns].mean())


def _relieved(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return costs [n, n] less potentials of rows and columns, so that few of them are far below the rest.

    The columns' are those of entropic transport (Sinkhorn's algorithm in logarithms, with an entropy that
    shrinks) from the first rows to the first columns, extended to all columns.
    """
    some = torch.from_numpy(costs[:SUBSET]).float()
    square, shift = some[:, :SUBSET], torch.zeros(SUBSET)
    scale = float(square.mean())
    rows, entropy = torch.zeros(SUBSET), scale
    for halvings in range(2, 9):
        entropy = scale / 2**halvings
        for _ in range(5):
            rows = -entropy * torch.logsumexp((shift - square) / entropy, dim=1)
            shift = -entropy * torch.logsumexp((rows[:, None] - square) / entropy, dim=0)
    columns = -entropy * torch.logsumexp((rows[:, None] - some) / entropy, dim=0)
    relieved: NDArray[np.float64] = costs - columns.double().numpy()
    relieved -= relieved.min(axis=1, keepdims=True)
    return relieved


def modes_and_fidelity(points: Points) -> tuple[int, float]:
    """Return how many target modes are covered and the share of points near any.

    A mode counts if more than 1 % of the points lie within four deviations (1.0) of its centre; fidelity is
    the share of points within 1.0 of a centre.
    """
    gaps = np.linalg.norm(np.asarray(points)[:, None] - ring_centres().numpy()[None], axis=2)
    near = gaps <= MODE_REACH
    return int((near.mean(axis=0) > MODE_SHARE).sum()), float(near.any(axis=1).mean())


def gradient_similarity(discriminator: nn.Module, points: Tensor, centres: Tensor) -> float:
    """Return the mean cosine between where D moves points and where the nearest centre lies.

    A sample moves along ``-d L_G / d x`` with ``L_G = -log D(x)``, so +1 means that D pulls straight to the
    centres. That direction is the logit's gradient, since the factor between them, ``1 - D(x)``, is positive;
    the logit's does not vanish where D is sure. The published notebook takes ``+d L_G / d x``: its numbers
    have the opposite sign.

    Args:
        discriminator: Gives one logit a point.
        points: [n, 2].
        centres: [m, 2].
    """
    x = points.detach().requires_grad_(True)
    (direction,) = torch.autograd.grad(discriminator(x).sum(), x)
    x = x.detach()
    nearest = torch.cdist(x, centres).argmin(dim=1)
    return float(nn.functional.cosine_similarity(centres[nearest] - x, direction, dim=1).mean())
