from __future__ import annotations

import pytest
import torch
from torch import nn

from graftgan.training.ema import ema_beta, update_ema


class Net(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((2, 3, 3, 3), value))
        self.register_buffer("seen", torch.full((2,), value))
        self.register_buffer("count", torch.tensor(int(value)))


def test_without_memory_the_average_is_a_copy() -> None:
    average, current = Net(1.0), Net(1.0)
    nn.init.normal_(current.weight)
    update_ema(average, current, 0.0)
    assert torch.equal(average.weight, current.weight)


def test_a_constant_stays_what_it_is() -> None:
    average, current = Net(0.1), Net(0.1)
    for _ in range(100):
        update_ema(average, current, 0.998)
    assert torch.equal(average.weight, current.weight)


def test_one_update_moves_by_one_minus_beta() -> None:
    average, current = Net(1.0), Net(3.0)
    update_ema(average, current, 0.75)
    assert torch.allclose(average.weight, torch.full_like(average.weight, 1.5))


def test_buffers_are_copied_whatever_beta_and_type() -> None:
    average, current = Net(1.0), Net(3.0)
    update_ema(average, current, 0.999)
    assert average.seen.tolist() == [3.0, 3.0]
    assert int(average.count) == 3


def test_buffers_of_all_types_and_layouts_get_the_bits_of_a_copy() -> None:
    """Scalars, whole numbers, half floats and images in another layout, as one by one."""
    average, current = nn.Module(), nn.Module()
    for seed, network in enumerate((average, current)):
        rng = torch.Generator().manual_seed(seed)
        network.weight = nn.Parameter(torch.randn(2, generator=rng))
        network.register_buffer("noise", torch.randn(1, 4, 5, 5, generator=rng))
        network.register_buffer("brief", torch.randn(7, generator=rng).bfloat16())
        network.register_buffer("steps", torch.randint(99, (), generator=rng))
        network.register_buffer("other", torch.randint(99, (3,), generator=rng))
        network.register_buffer("mean", torch.randn(6, generator=rng)[::2])
    current.noise = current.noise.to(memory_format=torch.channels_last)
    places = [buffer.data_ptr() for buffer in average.buffers()]
    before = [buffer.clone() for buffer in current.buffers()]
    update_ema(average, current, 0.5)
    assert [buffer.data_ptr() for buffer in average.buffers()] == places
    for mine, theirs, old in zip(average.buffers(), current.buffers(), before, strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs) and torch.equal(theirs, old)


def test_a_network_without_buffers_is_averaged() -> None:
    average, current = nn.Linear(2, 2), nn.Linear(2, 2)
    update_ema(average, current, 0.0)
    assert torch.equal(average.weight, current.weight)


def test_the_current_network_is_left_alone_and_no_graph_is_built() -> None:
    average, current = Net(1.0), Net(3.0)
    update_ema(average, current, 0.5)
    assert torch.equal(current.weight, Net(3.0).weight)
    assert average.weight.grad_fn is None


def test_memory_layouts_may_differ() -> None:
    average, current = Net(0.0), Net(0.0)
    nn.init.normal_(current.weight)
    average.to(memory_format=torch.channels_last)
    update_ema(average, current, 0.25)
    assert torch.allclose(average.weight, current.weight * 0.75)


@pytest.mark.parametrize("batch", [1, 8, 40])
def test_after_one_half_life_the_old_share_is_one_half(batch: int) -> None:
    average, current = Net(1.0), Net(0.0)
    beta = ema_beta(batch, half_life_kimg=0.4)
    for _ in range(400 // batch):
        update_ema(average, current, beta)
    assert torch.allclose(average.weight, torch.full_like(average.weight, 0.5), rtol=1e-5)


def test_the_ramp_shortens_the_half_life_early_on() -> None:
    # 5 % of 640 images are 32 images: exactly one batch a half-life.
    assert ema_beta(32, half_life_kimg=10, images_seen=640) == pytest.approx(0.5)
    assert ema_beta(32, half_life_kimg=10, images_seen=32) < 1e-5
    late = ema_beta(32, half_life_kimg=10, images_seen=10**7)
    assert late == ema_beta(32, half_life_kimg=10) == pytest.approx(0.5 ** (32 / 10_000))


def test_the_very_first_image_makes_a_copy() -> None:
    assert ema_beta(32, half_life_kimg=10, images_seen=0) == 0.0
