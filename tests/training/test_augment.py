"""The factory, the ADA controller and DiffAugment."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from graftgan.training.ada_controller import (
    SCRATCH_SPEED_KIMG,
    TRANSFER_SPEED_KIMG,
    AdaController,
    AdaControllerConfig,
)
from graftgan.training.augment import make_augment
from graftgan.training.diffaugment import DiffAugment, brightness, contrast, cutout, saturation, translate

NAMES = ("none", "ada", "diffaugment")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(
    count: int = 4, channels: int = 3, size: int = 8, seed: int = 1, dtype=torch.float32
) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=rng(seed), dtype=dtype) * 2 - 1


def logits(positive: int, negative: int) -> torch.Tensor:
    return torch.cat([torch.full((positive, 1), 2.5), torch.full((negative, 1), -0.1)])


@pytest.mark.parametrize("speed_kimg", [SCRATCH_SPEED_KIMG, TRANSFER_SPEED_KIMG])
def test_p_moves_by_exactly_four_batches_over_the_speed(speed_kimg: float) -> None:
    batch, control = 32, AdaController(AdaControllerConfig(speed_kimg=speed_kimg))
    step = 4 * batch / (1000 * speed_kimg)
    for _ in range(3):
        control.observe(logits(batch, 0))
        assert control.p == 0.0
    control.observe(logits(batch, 0))
    assert control.p == step
    assert control.r == 1.0
    for _ in range(4):
        control.observe(logits(0, batch))
    assert control.p == 0.0
    assert control.r == -1.0


def test_p_goes_from_zero_to_one_in_speed_kimg() -> None:
    control = AdaController(AdaControllerConfig(speed_kimg=1.0, p_max=1.0))
    for _ in range(100):
        control.observe(logits(10, 0))
    assert control.p == pytest.approx(1.0, abs=1e-12)


def test_p_stays_between_zero_and_its_limit() -> None:
    control = AdaController(AdaControllerConfig(speed_kimg=0.1))
    for _ in range(8):
        control.observe(logits(0, 16))
    assert control.p == 0.0
    for _ in range(80):
        control.observe(logits(16, 0))
    assert control.p == 0.85


@pytest.mark.parametrize(("positive", "direction"), [(79, -1), (80, 0), (81, 1)])
def test_direction_follows_the_mean_sign_over_the_interval(positive: int, direction: int) -> None:
    """Of 100 logits 80 positive give r = 0.6, the target; the batches alone lie on either side of it."""
    control = AdaController(AdaControllerConfig(speed_kimg=1.0))
    control.p = 0.5
    signs = torch.cat([torch.ones(positive), -torch.ones(100 - positive)])
    for batch in signs.split(25):
        control.observe(batch)
    assert control.r == (2 * positive - 100) / 100
    assert control.p == 0.5 + direction * 0.1


def test_sizes_of_logits_do_not_matter_and_zero_counts_as_neither() -> None:
    control = AdaController(AdaControllerConfig(interval=1))
    control.observe(torch.tensor([1e6, 1e-6, 0.0, -1e-6]))
    assert control.r == 0.25


def test_bfloat16_logits_are_counted_exactly() -> None:
    control = AdaController(AdaControllerConfig(interval=1))
    control.observe(torch.ones(1001, dtype=torch.bfloat16))
    assert control.r == 1.0


def test_nan_logits_count_as_neither_sign() -> None:
    control = AdaController(AdaControllerConfig(interval=1))
    control.observe(torch.tensor([math.nan, 1.0]))
    assert control.r == 0.5


def test_observing_keeps_no_graph() -> None:
    weight = torch.ones(4, requires_grad=True)
    control = AdaController()
    control.observe(weight * 2)
    assert control.state_dict()["sign_sums"] == [4.0]


def test_resumed_controller_goes_on_exactly_in_the_middle_of_an_interval() -> None:
    config = AdaControllerConfig(speed_kimg=0.7, interval=3)
    batches = list((torch.randn(50, 7, generator=rng()) + 0.9).unbind(0))
    whole, first, second = (AdaController(config) for _ in range(3))
    for batch in batches[:25]:
        first.observe(batch)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for batch in batches[25:]:
        second.observe(batch)
    for batch in batches:
        whole.observe(batch)
    assert 0.0 < whole.p < 0.85
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    "wrong", [{"target": 1.0}, {"interval": 0}, {"speed_kimg": 0.0}, {"speed_kimg": math.nan}, {"p_max": 1.2}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AdaControllerConfig(**wrong)


def test_color_functions_match_their_formulas() -> None:
    images = noise(2, dtype=torch.float64)
    values = torch.tensor([0.3, 1.4], dtype=torch.float64)
    x, v = images.numpy(), values.numpy()[:, None, None, None]
    grey, mean = x.mean(axis=1, keepdims=True), x.mean(axis=(1, 2, 3), keepdims=True)
    assert np.allclose(brightness(images, values), x + v)
    assert np.allclose(saturation(images, values), grey + v * (x - grey))
    assert np.allclose(contrast(images, values), mean + v * (x - mean))


def test_translation_shifts_and_fills_with_zeros() -> None:
    images = noise(3)
    moved = translate(images, torch.tensor([2, 0, -1]), torch.tensor([0, -3, 1]))
    assert torch.equal(moved[0, :, :, 2:], images[0, :, :, :-2])
    assert not moved[0, :, :, :2].any()
    assert torch.equal(moved[1, :, :-3], images[1, :, 3:])
    assert not moved[1, :, -3:].any()
    assert torch.equal(moved[2, :, 1:, :-1], images[2, :, :-1, 1:])


def test_cutout_blanks_half_the_side_clipped_at_the_border() -> None:
    images = torch.ones(3, 2, 8, 8)
    holes = cutout(images, torch.tensor([4, 0, 8]), torch.tensor([4, 3, 8])) == 0
    expected = torch.zeros(3, 2, 8, 8, dtype=torch.bool)
    expected[0, :, 2:6, 2:6] = True
    expected[1, :, 1:5, 0:2] = True
    expected[2, :, 6:8, 6:8] = True
    assert torch.equal(holes, expected)


def test_translation_covers_every_shift_up_to_an_eighth_evenly() -> None:
    count, size = 6_000, 16
    images = torch.zeros(count, 1, size, size)
    images[:, :, 8, 8] = 1.0
    moved = DiffAugment(("translation",))(images, 1.0, rng())
    rows, cols = moved.amax(3).argmax(2).flatten() - 8, moved.amax(2).argmax(2).flatten() - 8
    for shift in (rows, cols):
        counts = torch.bincount(shift + 2, minlength=5)
        assert len(counts) == 5
        assert (counts - count / 5).abs().max() < 4 * math.sqrt(count * 0.2 * 0.8)


def test_cutout_reaches_all_pixels_and_treats_opposite_sides_alike() -> None:
    images = torch.ones(20_000, 1, 8, 8)
    blank = (DiffAugment(("cutout",))(images, 1.0, rng()) == 0).double().mean(dim=(0, 1))
    # The square covers pixel i for 4 of the 9 places of its centre, fewer where places would lie outside.
    covered = torch.tensor([3, 4, 4, 4, 4, 4, 4, 3], dtype=torch.float64) / 9
    assert torch.allclose(blank, covered[:, None] * covered, atol=4 * math.sqrt(0.16 / 20_000))


def test_color_draws_have_the_ranges_of_the_paper() -> None:
    """A grey picture shows the brightness alone: uniform on [-1/2, 1/2]."""
    out = DiffAugment(("color",))(torch.zeros(10_000, 3, 2, 2), 1.0, rng())[:, 0, 0, 0]
    assert -0.5 <= out.min() < -0.49 < 0.49 < out.max() <= 0.5
    assert out.std().item() == pytest.approx(1 / math.sqrt(12), rel=0.03)


def test_color_leaves_alpha_alone_and_works_on_grey() -> None:
    images = noise(channels=4)
    out = DiffAugment(("color",))(images, 1.0, rng())
    assert torch.equal(out[:, 3], images[:, 3])
    assert torch.equal(out[:, :3], DiffAugment(("color",))(images[:, :3], 1.0, rng()))
    assert DiffAugment()(noise(channels=1), 1.0, rng()).shape == (4, 1, 8, 8)


def test_policies_draw_the_same_amount_and_p_is_not_used() -> None:
    images, states = noise(), []
    for policies in (("color",), ("translation", "cutout"), ("color", "translation", "cutout")):
        generator = rng(3)
        DiffAugment(policies)(images, 1.0, generator)
        states.append(generator.get_state())
    assert all(torch.equal(states[0], state) for state in states)
    assert torch.equal(DiffAugment()(images, 0.0, rng()), DiffAugment()(images, 1.0, rng()))


def test_no_policy_changes_nothing_and_unknown_ones_are_refused() -> None:
    images = noise()
    assert torch.equal(DiffAugment(())(images, 1.0, rng()), images)
    with pytest.raises(ValueError, match="colour"):
        DiffAugment(("colour",))


def test_diffaugment_gradients_of_first_and_second_order() -> None:
    images = noise(2, size=4, dtype=torch.float64).requires_grad_()
    pipe = DiffAugment()
    assert torch.autograd.gradcheck(lambda x: pipe(x, 1.0, rng(1)), images)
    assert torch.autograd.gradgradcheck(lambda x: pipe(x, 1.0, rng(1)) ** 2, images)


def test_none_is_the_identity_and_draws_nothing() -> None:
    augment, generator, images = make_augment("none"), rng(2), noise()
    before = generator.get_state()
    assert augment(images, generator) is images
    assert torch.equal(generator.get_state(), before)
    assert augment.p == 0.0


def test_ada_starts_as_the_identity_and_acts_once_p_has_risen() -> None:
    augment, images = make_augment("ada", ada=AdaControllerConfig(speed_kimg=0.1, interval=2)), noise(16)
    assert augment.p == 0.0
    assert augment(images, rng()) is images
    for _ in range(6):
        augment.observe(torch.ones(16))
    assert augment.p == pytest.approx(0.85)
    assert not torch.equal(augment(images, rng()), images)


def test_diffaugment_takes_its_policies_and_is_always_on() -> None:
    augment, images = make_augment("diffaugment", policies=("cutout",)), torch.ones(4, 3, 8, 8)
    assert augment.p == 1.0
    assert (augment(images, rng()) == 0).any()
    assert torch.equal(augment(images, rng()), DiffAugment(("cutout",))(images, 1.0, rng()))


@pytest.mark.parametrize("name", NAMES)
def test_state_goes_through_json_and_back(name: str) -> None:
    saved, loaded = make_augment(name), make_augment(name)
    for _ in range(5):
        saved.observe(torch.ones(32))
    loaded.load_state_dict(json.loads(json.dumps(saved.state_dict())))
    assert loaded.p == saved.p
    assert loaded.state_dict() == saved.state_dict()


def test_state_of_another_kind_is_refused() -> None:
    ada = make_augment("ada")
    for name in ("none", "diffaugment"):
        with pytest.raises(ValueError, match="no state"):
            make_augment(name).load_state_dict(ada.state_dict())
        with pytest.raises(ValueError, match="keys"):
            ada.load_state_dict(make_augment(name).state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_generator(name: str) -> None:
    augment, images = make_augment(name), noise().requires_grad_()
    for _ in range(400):
        augment.observe(torch.ones(32))
    augment(images, rng()).square().sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert images.grad.abs().sum() > 0


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="none, ada, diffaugment"):
        make_augment("adaptive")
