from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from graftgan.gans.base import build, draw_latents, to_uint8
from graftgan.gans.stylegan2 import StyleGAN2Spec
from graftgan.gans.walk import slerp, walk, walk_latents

SIZES = {"resolution": 32, "z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 128, "channel_max": 8}


def test_the_ends_of_an_arc_are_its_points() -> None:
    a, b = torch.randn(64), 3 * torch.randn(64)
    assert torch.allclose(slerp(a, b, 0.0), a, atol=1e-5)
    assert torch.allclose(slerp(a, b, 1.0), b, atol=1e-5)


def test_lengths_go_evenly_from_one_to_the_other() -> None:
    a, b = torch.randn(64), 3 * torch.randn(64)
    for share in (0.1, 0.5, 0.8):
        expected = (1 - share) * a.norm() + share * b.norm()
        assert slerp(a, b, share).norm().item() == pytest.approx(expected.item(), rel=1e-5)


def test_angles_go_evenly_too() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    for share in (0.25, 0.5, 2 / 3):
        expected = [math.cos(share * math.pi / 2), math.sin(share * math.pi / 2)]
        assert slerp(a, b, share).tolist() == pytest.approx(expected, abs=1e-6)


def test_parallel_points_are_joined_by_a_line() -> None:
    a = torch.randn(16)
    assert torch.allclose(slerp(a, a, 0.3), a)
    assert torch.allclose(slerp(a, 3 * a, 0.5), 2 * a, atol=1e-5)


def test_a_walk_is_closed_and_its_steps_are_even() -> None:
    latents = walk_latents(z_dim=32, walks=3, stops=4, frames_a_leg=6, seed=1)
    assert latents.shape == (24, 3, 32)
    around = torch.cat([latents, latents[:1]])
    steps = (around[1:] - around[:-1]).norm(dim=2)
    # The step from the last frame back to the first is a step like any other.
    for leg in range(4):
        inside = steps[6 * leg : 6 * leg + 6]
        assert float((inside.amax(0) / inside.amin(0)).max()) < 1.4
    assert float(steps.max()) < 4.0


def test_a_walk_passes_through_normal_latents() -> None:
    latents = walk_latents(z_dim=16, walks=2, stops=3, frames_a_leg=5, seed=7)
    points = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(7))
    for stop in range(3):
        assert torch.allclose(latents[5 * stop], points[:, stop], atol=1e-5)


def test_the_seed_decides_the_walk() -> None:
    first, again, other = (walk_latents(8, 1, 2, 3, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("channels", "classes"), [(1, 0), (3, 2), (4, 0)])
def test_frames_are_the_pictures_of_the_latents(channels: int, classes: int) -> None:
    spec = StyleGAN2Spec(**SIZES, channels=channels, classes=classes, label_layers=1)
    generator = build(spec, 0).generator_ema
    frames = walk(generator, walks=2, stops=2, frames_a_leg=3, seed=5, label=1 if classes else None)
    assert frames.shape == (6, 2, 32, 32, channels)
    assert frames.dtype == np.uint8
    z = walk_latents(8, 2, 2, 3, 5)[4]
    ids = torch.ones(2, dtype=torch.long) if classes else None
    with torch.no_grad():
        assert np.array_equal(frames[4], to_uint8(generator(z, ids, 1.0, "const")))


def test_truncation_draws_the_frames_together() -> None:
    generator = build(StyleGAN2Spec(**SIZES), 0).generator
    for _ in range(20):
        generator.train()(draw_latents(generator.spec, 16, torch.Generator().manual_seed(0))[0])
    generator.eval()
    spread = [
        walk(generator, 3, 2, 2, 0, psi).astype(float).std(axis=(0, 1)).mean() for psi in (1.0, 0.3, 0.0)
    ]
    assert spread[0] > spread[1] > spread[2]
    assert spread[2] == 0
