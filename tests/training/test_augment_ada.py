"""The ADA pipeline: every transform against a closed form, rates, randomness, gradients."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from graftgan.training.ada import (
    BGC_TRANSFORMS,
    AdaParameters,
    AdaPipe,
    AdaStrengths,
    apply_color,
    apply_geometry,
    color_matrix,
    draw,
    parameters_at,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(
    count: int = 4, channels: int = 3, size: int = 8, seed: int = 1, dtype=torch.float32
) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=rng(seed), dtype=dtype) * 2 - 1


def smooth(count: int = 2, size: int = 32) -> torch.Tensor:
    """Low-frequency pictures, so that resampling has a closed form to compare with."""
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    planes = [torch.cos(math.tau * (a * x + b * y) + a) for a, b in ((1, 0), (0, 1), (1, 1))]
    return torch.stack(planes).double().expand(count, -1, -1, -1).clone()


def only(count: int, **values) -> AdaParameters:
    do = AdaParameters.neutral(count)
    return replace(
        do,
        **{name: torch.full((count,), float(value), dtype=torch.float64) for name, value in values.items()},
    )


def crop(images: torch.Tensor, margin: int = 8) -> torch.Tensor:
    return images[..., margin:-margin, margin:-margin]


def test_flip_is_torch_flip_bit_for_bit() -> None:
    images = noise()
    assert torch.equal(apply_geometry(images, only(4, flip=1)), images.flip(3))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_rot90_bit_for_bit(turns: int) -> None:
    images = noise(size=7)
    assert torch.equal(apply_geometry(images, only(4, quarter_turns=turns)), images.rot90(turns, (2, 3)))


@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (0, -3), (-1, 2)])
def test_integer_shift_is_roll_of_the_reflected_image(dx: int, dy: int) -> None:
    images = noise()
    moved = apply_geometry(images, only(4, shift_x=dx, shift_y=dy))
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)), mode="reflect")
    expected = np.roll(padded, (dy, dx), axis=(2, 3))[:, :, 3:-3, 3:-3]
    assert np.array_equal(moved.numpy(), expected)


def test_pixel_moves_compose_in_the_order_of_the_paper() -> None:
    images = noise()
    moved = apply_geometry(images, only(4, flip=1, quarter_turns=1, shift_x=1))
    turned = images.flip(3).rot90(1, (2, 3))
    assert torch.equal(moved[..., 1:], turned[..., :-1])


def test_parameters_act_on_their_own_image_only() -> None:
    images = noise(3)
    do = replace(AdaParameters.neutral(3), flip=torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    moved = apply_geometry(images, do)
    assert torch.equal(moved[1], images[1].flip(2))
    assert torch.equal(moved[[0, 2]], images[[0, 2]])


def test_resampled_quarter_turn_agrees_with_rot90() -> None:
    images = smooth()
    turned = apply_geometry(images, only(2, angle_pre=math.pi / 2))
    assert torch.allclose(crop(turned), crop(images.rot90(1, (2, 3))), atol=5e-3)


def test_pre_and_post_rotation_add_up_without_stretch() -> None:
    images = smooth()
    both = apply_geometry(images, only(2, angle_pre=0.4, angle_post=0.3))
    assert torch.allclose(both, apply_geometry(images, only(2, angle_pre=0.7)), atol=1e-9)


def test_rotation_moves_a_bright_dot_counter_clockwise() -> None:
    images = torch.zeros(1, 1, 33, 33, dtype=torch.float64)
    images[0, 0, 16, 26] = 1.0
    turned = apply_geometry(images, only(1, angle_pre=math.pi / 3))
    row, col = divmod(int(turned.argmax()), 33)
    assert (row, col) == (round(16 - 10 * math.sin(math.pi / 3)), round(16 + 10 * math.cos(math.pi / 3)))


def test_scale_magnifies_about_the_centre() -> None:
    size, factor = 32, 1.25
    axis = (torch.arange(size).double() - 15.5) / size
    wave = torch.cos(math.tau * axis)
    images = wave.expand(1, 3, size, size)
    expected = torch.cos(math.tau * axis / factor).expand(1, 3, size, size)
    assert torch.allclose(crop(apply_geometry(images, only(1, scale=factor))), crop(expected), atol=5e-3)


def test_anisotropic_scale_widens_and_flattens() -> None:
    size, factor = 32, 1.25
    axis = (torch.arange(size).double() - 15.5) / size
    images = (torch.cos(math.tau * axis)[:, None] * torch.cos(math.tau * axis)).expand(1, 3, -1, -1)
    wide, flat = torch.cos(math.tau * axis / factor), torch.cos(math.tau * axis * factor)
    expected = (flat[:, None] * wide).expand(1, 3, -1, -1)
    assert torch.allclose(crop(apply_geometry(images, only(1, aniso=factor))), crop(expected), atol=5e-3)


def test_fractional_shift_of_a_wave_shifts_its_phase() -> None:
    size = 32
    x = torch.arange(size).double()
    images = torch.cos(math.tau * 2 * x / size).expand(1, 3, size, size)
    expected = torch.cos(math.tau * 2 * (x - 1.3) / size).expand(1, 3, size, size)
    moved = apply_geometry(images, only(1, frac_x=1.3, frac_y=0.7))
    assert torch.allclose(crop(moved), crop(expected), atol=1e-2)


def test_all_moves_compose_as_the_forward_matrices_of_the_paper() -> None:
    """A wave known at every point, read where the inverted product of the forward matrices says."""
    size = 48

    def turn(angle: float) -> np.ndarray:
        cos, sin = math.cos(angle), math.sin(angle)
        return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])

    def shift(x: float, y: float) -> np.ndarray:
        return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])

    forward = np.eye(3)
    steps = [np.diag([-1, 1, 1]), turn(math.pi / 2), shift(3, -2), np.diag([1.2, 1.2, 1]), turn(0.5)]
    steps += [np.diag([1.3, 1 / 1.3, 1]), turn(-1.1), shift(1.7, 0.4)]
    for step in steps:
        forward = step @ forward
    axis = np.arange(size) - (size - 1) / 2
    points = np.stack([*np.meshgrid(axis, axis), np.ones((size, size))]).reshape(3, -1)

    def wave(at: np.ndarray) -> torch.Tensor:
        return torch.tensor(np.sin(0.15 * at[0] + 0.3) + 0.8 * np.cos(0.1 * at[1])).reshape(1, 1, size, size)

    do = only(
        1,
        flip=1,
        quarter_turns=1,
        shift_x=3,
        shift_y=-2,
        scale=1.2,
        angle_pre=0.5,
        aniso=1.3,
        angle_post=-1.1,
        frac_x=1.7,
        frac_y=0.4,
    )
    expected = wave(np.linalg.inv(forward) @ points)
    assert torch.allclose(crop(apply_geometry(wave(points), do), 12), crop(expected, 12), atol=1e-2)


def test_resampling_keeps_a_constant_image() -> None:
    do = only(2, scale=0.7, angle_pre=0.5, aniso=1.2, angle_post=-1.0, frac_x=3.3)
    images = torch.full((2, 3, 16, 16), 0.37, dtype=torch.float64)
    assert torch.allclose(apply_geometry(images, do), images, atol=1e-12)


def test_shrinking_does_not_alias() -> None:
    """Stripes of period 2.2 pixels are beyond the Nyquist frequency at 0.65 of the size: they must fade."""
    stripes = torch.cos(math.tau * torch.arange(64).double() / 2.2).expand(1, 3, 64, 64)
    shrunk = crop(apply_geometry(stripes, only(1, scale=0.65)), 16)
    grid = F.affine_grid(torch.eye(3).double()[None, :2] / 0.65, [1, 3, 64, 64], align_corners=False)
    naive = crop(F.grid_sample(stripes, grid, padding_mode="reflection", align_corners=False), 16)
    assert shrunk.std() < 0.1 * stripes.std() < 0.5 * stripes.std() < naive.std()


def test_unwarped_images_beside_warped_ones_keep_their_bits() -> None:
    images = noise(3)
    do = replace(AdaParameters.neutral(3), angle_pre=torch.tensor([0.0, 0.3, 0.0], dtype=torch.float64))
    do = replace(do, flip=torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    warped = apply_geometry(images, do)
    assert torch.equal(warped[0], images[0])
    assert torch.equal(warped[2], images[2].flip(2))
    assert not torch.allclose(warped[1], images[1], atol=1e-2)


def paper_color_matrix(b: float, c: float, flip: float, hue: float, s: float) -> np.ndarray:
    """The 4x4 product of appendix B, factor by factor in homogeneous coordinates."""
    v = np.array([1, 1, 1, 0]) / math.sqrt(3)
    brightness = np.eye(4)
    brightness[:3, 3] = b
    contrast = np.diag([c, c, c, 1])
    luma = np.eye(4) - 2 * np.outer(v, v) * flip
    x, y, z = v[:3]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(4)
    rotation[:3, :3] += math.sin(hue) * cross + (1 - math.cos(hue)) * cross @ cross
    saturation = np.outer(v, v) + (np.eye(4) - np.outer(v, v)) * s
    return saturation @ rotation @ luma @ contrast @ brightness


@pytest.mark.parametrize(
    "values",
    [(0.2, 1, 0, 0, 1), (0, 1.7, 0, 0, 1), (0.1, 1, 1, 0, 1), (0, 1, 0, 2.0, 1), (-0.3, 0.6, 1, -1.1, 2.5)],
)
def test_color_matrix_is_the_product_of_the_paper(values: tuple[float, ...]) -> None:
    names = ("brightness", "contrast", "luma_flip", "hue", "saturation")
    ours = color_matrix(only(1, **dict(zip(names, values, strict=True))))[0].numpy()
    assert np.allclose(ours, paper_color_matrix(*values)[:3], atol=1e-12)


def test_brightness_adds_and_contrast_multiplies() -> None:
    images = noise(dtype=torch.float64)
    assert torch.allclose(apply_color(images, only(4, brightness=0.25)), images + 0.25)
    assert torch.allclose(apply_color(images, only(4, contrast=1.5)), images * 1.5)
    assert torch.allclose(apply_color(images, only(4, brightness=0.25, contrast=1.5)), (images + 0.25) * 1.5)


def test_luma_flip_negates_the_mean_and_keeps_the_difference() -> None:
    images = noise(dtype=torch.float64)
    flipped = apply_color(images, only(4, luma_flip=1))
    assert torch.allclose(flipped, images - 2 * images.mean(dim=1, keepdim=True))


def test_hue_rotation_keeps_luma_and_chroma_and_permutes_channels_at_a_third() -> None:
    images = noise(dtype=torch.float64)
    turned = apply_color(images, only(4, hue=0.9))
    mean = images.mean(dim=1, keepdim=True)
    assert torch.allclose(turned.mean(dim=1, keepdim=True), mean)
    assert torch.allclose((turned - mean).norm(dim=1), (images - mean).norm(dim=1))
    third = apply_color(images, only(4, hue=math.tau / 3))
    assert torch.allclose(third, images[:, [2, 0, 1]])


def test_saturation_zero_is_grey_and_two_doubles_the_chroma() -> None:
    images = noise(dtype=torch.float64)
    mean = images.mean(dim=1, keepdim=True)
    assert torch.allclose(apply_color(images, only(4, saturation=0)), mean.expand_as(images))
    assert torch.allclose(apply_color(images, only(4, saturation=2)), mean + 2 * (images - mean))


def test_alpha_is_untouched_by_colour_but_moves_with_the_picture() -> None:
    images = noise(channels=4)
    do = only(4, brightness=0.3, contrast=0.5, luma_flip=1, hue=1.0, saturation=2.0)
    colored = apply_color(images, do)
    assert torch.equal(colored[:, 3], images[:, 3])
    assert torch.allclose(colored[:, :3], apply_color(images[:, :3], do))
    assert torch.equal(apply_geometry(images, only(4, flip=1))[:, 3], images[:, 3].flip(2))


def test_grey_images_get_brightness_and_contrast_only() -> None:
    images = noise(channels=1, dtype=torch.float64)
    do = only(4, brightness=0.3, contrast=0.5, luma_flip=1, hue=1.0, saturation=2.0)
    assert torch.allclose(apply_color(images, do), (images + 0.3) * 0.5)
    assert apply_color(images, only(4, luma_flip=1, hue=1.0, saturation=2.0)) is images


def test_p_zero_returns_the_very_images() -> None:
    images = noise()
    assert AdaPipe()(images, 0.0, rng()) is images


def test_no_transforms_leave_every_bit() -> None:
    images = noise()
    assert torch.equal(AdaPipe(transforms=())(images, 1.0, rng()), images)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("p", [0.0, 1e-9, 0.3, 1.0])
def test_draws_do_not_depend_on_p_or_channels(p: float, channels: int) -> None:
    reference, used = rng(5), rng(5)
    draw(6, reference)
    AdaPipe()(noise(6, channels=channels), p, used)
    assert torch.equal(reference.get_state(), used.get_state())


def test_draws_do_not_depend_on_the_transforms_in_use() -> None:
    images, full, part = noise(6), rng(5), rng(5)
    AdaPipe()(images, 0.5, full)
    AdaPipe(transforms=("hue",))(images, 0.5, part)
    assert torch.equal(full.get_state(), part.get_state())


def test_same_generator_state_gives_same_images() -> None:
    images = noise(8, size=16)
    first, again = (AdaPipe()(images, 0.6, rng(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, AdaPipe()(images, 0.6, rng(4)))


def test_transforms_on_at_a_low_p_stay_on_at_a_higher_one() -> None:
    draws = draw(500, rng())
    low, high = (parameters_at(p, draws, 32, AdaStrengths()) for p in (0.2, 0.7))
    neutral = AdaParameters.neutral(500)
    for field in fields(AdaParameters):
        changed = getattr(low, field.name) != getattr(neutral, field.name)
        assert torch.equal(getattr(high, field.name)[changed], getattr(low, field.name)[changed]), field.name


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_shape_and_dtype_are_kept(channels: int, dtype: torch.dtype) -> None:
    images = noise(5, channels=channels, size=16).to(dtype)
    out = AdaPipe()(images, 0.8, rng())
    assert (out.shape, out.dtype, out.device) == (images.shape, dtype, images.device)
    assert out.isfinite().all()


def test_half_precision_is_computed_in_float32() -> None:
    images = noise(8, size=16).bfloat16()
    assert torch.equal(AdaPipe()(images, 0.8, rng()), AdaPipe()(images.float(), 0.8, rng()).bfloat16())


def test_autocast_changes_nothing() -> None:
    images = noise(8, size=16)
    plain = AdaPipe()(images, 0.8, rng())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(AdaPipe()(images, 0.8, rng()), plain)


def test_filters_first_made_in_inference_mode_serve_training_later() -> None:
    with torch.inference_mode():
        AdaPipe()(noise(size=13), 1.0, rng())
    images = noise(size=13).requires_grad_()
    AdaPipe()(images, 1.0, rng()).sum().backward()
    assert images.grad is not None


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 8, 6),
        torch.zeros(2, 2, 8, 8),
        torch.zeros(3, 8, 8),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
    ],
)
def test_wrong_images_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="augmentation needs"):
        AdaPipe()(images, 0.5, rng())


def test_wrong_probability_and_transform_are_refused() -> None:
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            AdaPipe()(noise(), p, rng())
    with pytest.raises(ValueError, match="wobble"):
        AdaPipe(transforms=("hue", "wobble"))


@pytest.mark.gpu
def test_gpu_gives_the_images_of_the_cpu() -> None:
    images = noise(16, size=32)
    cpu, gpu = AdaPipe()(images, 0.8, rng()), AdaPipe()(images.cuda(), 0.8, rng())
    assert gpu.device.type == "cuda"
    assert torch.allclose(cpu, gpu.cpu(), atol=1e-4)


COUNT = 20_000


def assert_rate(happened: torch.Tensor, expected: float) -> None:
    """Within four standard errors of a binomial share; the seed is fixed."""
    error = math.sqrt(max(expected * (1 - expected), 1e-12) / len(happened))
    assert abs(happened.double().mean().item() - expected) <= 4 * error + 1e-12


@pytest.mark.parametrize("p", [0.1, 0.5, 0.85, 1.0])
def test_each_transform_is_on_at_its_rate(p: float) -> None:
    do = parameters_at(p, draw(COUNT, rng(2)), 32, AdaStrengths())
    assert_rate(do.flip == 1, p / 2)
    for turns in (1, 2, 3):
        assert_rate(do.quarter_turns == turns, p / 4)
    assert_rate(do.luma_flip == 1, p / 2)
    p_rotate = 1 - math.sqrt(1 - p)
    assert_rate(do.angle_pre != 0, p_rotate)
    assert_rate(do.angle_post != 0, p_rotate)
    for name, neutral in {
        "scale": 1,
        "aniso": 1,
        "frac_x": 0,
        "brightness": 0,
        "contrast": 1,
        "hue": 0,
        "saturation": 1,
    }.items():
        assert_rate(getattr(do, name) != neutral, p)


@pytest.mark.parametrize("p", [0.2, 0.8])
def test_share_of_rotated_images_is_p(p: float) -> None:
    """Pre and post rotation together rotate with p, so that upright images stay the most frequent."""
    do = parameters_at(p, draw(COUNT, rng(3)), 32, AdaStrengths(), transforms=("rotate",))
    assert_rate((do.angle_pre != 0) | (do.angle_post != 0), p)


def test_quarter_turns_leave_upright_images_the_most_frequent_below_p_one() -> None:
    do = parameters_at(0.8, draw(COUNT, rng(4)), 32, AdaStrengths(), transforms=("rotate90",))
    shares = torch.bincount(do.quarter_turns.long(), minlength=4) / COUNT
    assert shares[0] > 1.8 * shares[1:].max()


def test_share_of_changed_pictures_follows_p() -> None:
    """Through the images themselves: the pictures that come out rotated are as many as expected."""
    images = noise(2_000, channels=1, size=4)
    out = AdaPipe(transforms=("rotate90",))(images, 0.6, rng(6))
    assert_rate((out != images).flatten(1).any(dim=1), 0.6 * 0.75)


def test_strengths_have_the_moments_of_the_paper() -> None:
    size = 64
    do = parameters_at(1.0, draw(COUNT, rng(7)), size, AdaStrengths())
    normal = {
        0.2: do.scale.log2(),
        0.2001: do.aniso.log2(),
        0.125: do.frac_x / size,
        0.1251: do.frac_y / size,
        0.20002: do.brightness,
        0.5: do.contrast.log2(),
        1.0: do.saturation.log2(),
    }
    for std, values in normal.items():
        assert abs(values.mean().item()) < 4 * std / math.sqrt(COUNT)
        assert values.std().item() == pytest.approx(std, rel=0.03)
    for angle in (do.angle_pre, do.angle_post, do.hue):
        assert angle.abs().max() <= math.pi
        assert angle.std().item() == pytest.approx(math.pi / math.sqrt(3), rel=0.03)
    for shift in (do.shift_x, do.shift_y):
        assert torch.equal(shift, shift.round())
        assert (shift.min().item(), shift.max().item()) == (-size // 8, size // 8)
        assert shift.std().item() == pytest.approx(size / 8 / math.sqrt(3), rel=0.03)


def test_strengths_are_independent_of_gates_and_each_other() -> None:
    draws = draw(COUNT, rng(8))
    columns = torch.stack([*draws.gate.values(), *draws.uniform.values(), *draws.normal.values()])
    correlation = torch.corrcoef(columns) - torch.eye(len(columns), dtype=torch.float64)
    assert correlation.abs().max() < 5 / math.sqrt(COUNT)


def test_every_transform_changes_pictures_when_it_is_the_only_one() -> None:
    images = noise(16, size=16)
    for name in BGC_TRANSFORMS:
        out = AdaPipe(transforms=(name,))(images, 1.0, rng(9))
        assert (out - images).abs().amax() > 0.05, name


def test_gradients_of_first_and_second_order() -> None:
    images = noise(3, size=4, dtype=torch.float64).requires_grad_()

    def augment(x: torch.Tensor) -> torch.Tensor:
        return AdaPipe()(x, 0.9, rng(11))

    assert torch.autograd.gradcheck(augment, images)
    # The pipe is linear in the image; squaring makes the second derivative something other than zero.
    assert torch.autograd.gradgradcheck(lambda x: augment(x) ** 2, images)


def test_r1_through_the_pipe_reaches_the_weights() -> None:
    """R1 of a linear critic: the penalty is the squared norm of its weight pulled back through the pipe."""
    images = noise(3, size=8, dtype=torch.float64).requires_grad_()
    weight = noise(3, size=8, seed=2, dtype=torch.float64).requires_grad_()
    score = (AdaPipe()(images, 0.9, rng(12)) * weight).sum()
    (pulled,) = torch.autograd.grad(score, images, create_graph=True)
    (slope,) = torch.autograd.grad(pulled.square().sum(), weight)
    # d/dw |A^T w|^2 = 2 A A^T w: the linear part of the pipe applied to 2 A^T w.
    base = AdaPipe()(torch.zeros_like(images), 0.9, rng(12))
    expected = AdaPipe()(2 * pulled.detach(), 0.9, rng(12)) - base
    assert torch.allclose(slope, expected.detach(), atol=1e-9)
