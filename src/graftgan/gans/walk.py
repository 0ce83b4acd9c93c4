"""Smooth walks through latent space, for interpolation pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftgan.gans.base import Generator, draw_latents, to_uint8
from graftgan.gans.prior import Prior
from graftgan.gans.spec import GanSpec


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Return the point at `share` of the great arc from `a` to `b`, both [D], with lengths interpolated too.

    The norm of a standard normal latent hardly varies; a straight line would leave that shell (White 2016).
    """
    unit_a, unit_b = a / a.norm(), b / b.norm()
    angle = torch.arccos((unit_a @ unit_b).clamp(-1, 1))
    length = a.norm() + share * (b.norm() - a.norm())
    if float(angle) < 1e-4:
        return a.lerp(b, share)
    arc = torch.sin((1 - share) * angle) * unit_a + torch.sin(share * angle) * unit_b
    return cast(Tensor, arc * (length / torch.sin(angle)))


def walk_latents(
    z_dim: int, walks: int, stops: int, frames_a_leg: int, seed: int, prior: Prior | None = None
) -> Tensor:
    """Return latents [frames, walks, z_dim] of closed walks, each through `stops` random latents.

    The stops are from N(0, I), or from a prior. The ways between a mixture's stops lead through where it
    may be thin.
    """
    rng = torch.Generator().manual_seed(seed)
    if prior is None:
        points = torch.randn(walks, stops, z_dim, generator=rng)
    else:
        points = prior.draw(walks * stops, rng).view(walks, stops, z_dim)
    return closed(points, frames_a_leg)


def closed(points: Tensor, frames_a_leg: int) -> Tensor:
    """Return latents [frames, walks, D] that go through points [walks, stops, D] and back to the first."""
    stops = points.shape[1]
    rows = []
    for leg in range(stops):
        for step in range(frames_a_leg):
            share = step / frames_a_leg
            ends = zip(points[:, leg], points[:, (leg + 1) % stops], strict=True)
            rows.append(torch.stack([slerp(a, b, share) for a, b in ends]))
    return torch.stack(rows)


def seed_latents(spec: GanSpec, seeds: Sequence[int], walks: int, prior: Prior | None = None) -> Tensor:
    """Return the latents of seeds, those of `sample(generator, 1, seed)`, as stops [walks, stops, z_dim].

    The first walk goes through the first seeds, and so on. Where they cannot be shared out evenly, the last
    walks go through some of the seeds again, from the first on.
    """
    stops = -(-len(seeds) // walks)
    drawn = [draw_latents(spec, 1, torch.Generator().manual_seed(seed), prior)[0][0] for seed in seeds]
    return torch.stack([drawn[i % len(drawn)] for i in range(walks * stops)]).view(walks, stops, -1)


def walk(
    generator: Generator,
    walks: int = 6,
    stops: int = 4,
    frames_a_leg: int = 12,
    seed: int = 0,
    truncation_psi: float = 1.0,
    label: int | None = None,
) -> NDArray[np.uint8]:
    """Return frames uint8 [frames, walks, R, R, C] of closed random walks with constant noise."""
    latents = walk_latents(generator.spec.z_dim, walks, stops, frames_a_leg, seed, generator.prior)
    return frames(generator, latents, truncation_psi, label)


@torch.no_grad()
def frames(
    generator: Generator, latents: Tensor, truncation_psi: float = 1.0, label: int | None = None
) -> NDArray[np.uint8]:
    """Return pictures uint8 [frames, walks, R, R, C] of latents [frames, walks, z_dim]; constant noise."""
    device = next(generator.parameters()).device
    ids = torch.full((latents.shape[1],), label or 0, device=device) if generator.spec.classes else None
    return np.stack([to_uint8(generator(z, ids, truncation_psi, "const")) for z in latents.to(device)])
