from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from training.nets import copies, equal, recipe

from graftgan.errors import ConfigError
from graftgan.gans.base import build
from graftgan.gans.spec import GanSpec
from graftgan.transfer.penalties.bsd import (
    FLOOR,
    SpectralDiversification,
    clipped,
    feature_width,
    slope,
    spectral_diversification,
    trailing_variance,
)
from transfer.families import OTHERS, SIZES, small
from transfer.penalties.runs import Notes, moved, networks, silent, trained

SHAPES = [(8, 20, 3), (8, 8, 8), (12, 5, 2), (6, 40, 1)]
RESNET = {"family": "resnet_gan", "resolution": 32, "variant": "resnet", "z_dim": 8, "nfilter": 4,
          "nfilter_max": 8, "stages": 4}  # fmt: skip
BIGGAN = {"family": "biggan", "resolution": 32, "z_dim": 20, "classes": 3, "g_ch": 4, "d_ch": 4,
          "shared_dim": 4}  # fmt: skip


def matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_svd(features: Tensor, k: int) -> Tensor:
    """The published form, through the singular values themselves."""
    return 1 / torch.linalg.svdvals(features)[-k:].square().mean().clamp(min=FLOOR)


def gradient(features: Tensor, k: int) -> Tensor:
    leaf = features.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(spectral_diversification(leaf, k), leaf)
    return found


def started(gan: Any, **changes: Any) -> SpectralDiversification:
    penalty = SpectralDiversification()
    penalty.start(gan, recipe(**{"bsd_k": 2, **changes}))
    return penalty


# The function


@pytest.mark.parametrize(("rows", "columns", "k"), SHAPES)
def test_the_gram_form_is_the_svd_form(rows: int, columns: int, k: int) -> None:
    features = matrix(rows, columns)
    torch.testing.assert_close(spectral_diversification(features, k), by_svd(features, k), rtol=1e-11, atol=0)


@pytest.mark.parametrize(("rows", "columns", "k"), SHAPES)
def test_the_gradient_is_the_closed_form(rows: int, columns: int, k: int) -> None:
    features = matrix(rows, columns, 1)
    u, sigma, vt = torch.linalg.svd(features, full_matrices=False)
    total = sigma[-k:].square().sum()
    closed = -(2 * k / total**2) * (u[:, -k:] * sigma[-k:]) @ vt[-k:]
    torch.testing.assert_close(gradient(features, k), closed, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("rows", "columns", "k"), SHAPES)
def test_the_gradient_is_that_of_the_svd(rows: int, columns: int, k: int) -> None:
    leaf = matrix(rows, columns, 2).requires_grad_(True)
    (expected,) = torch.autograd.grad(by_svd(leaf, k), leaf)
    torch.testing.assert_close(gradient(leaf.detach(), k), expected, rtol=1e-9, atol=1e-11)


def test_the_gradient_agrees_with_finite_differences() -> None:
    assert torch.autograd.gradcheck(
        lambda x: spectral_diversification(x, 3), matrix(6, 9).requires_grad_(True)
    )


def test_equal_singular_values_have_a_gradient_too() -> None:
    torch.testing.assert_close(gradient(2 * torch.eye(5, 7, dtype=torch.float64), 5),
                               -(2 * 5 / 20**2) * 2 * torch.eye(5, 7, dtype=torch.float64))  # fmt: skip


def test_a_diagonal_matrix_by_hand() -> None:
    features = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    assert float(spectral_diversification(features, 2)) == pytest.approx(1 / ((4 + 1) / 2))
    assert float(trailing_variance(features, 4)) == pytest.approx(30 / 4)


def test_images_may_come_in_any_order_and_features_be_rotated() -> None:
    features, value = matrix(8, 20), spectral_diversification(matrix(8, 20), 3)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    rotation = torch.linalg.qr(matrix(20, 20, 5))[0]
    torch.testing.assert_close(spectral_diversification(features[order], 3), value, rtol=1e-12, atol=0)
    torch.testing.assert_close(spectral_diversification(features @ rotation, 3), value, rtol=1e-11, atol=0)


def test_it_falls_with_the_square_of_the_features() -> None:
    features = matrix(8, 20)
    torch.testing.assert_close(
        spectral_diversification(3 * features, 3) * 9, spectral_diversification(features, 3)
    )


def test_half_a_batch_twice_is_at_the_floor_without_a_gradient() -> None:
    features = matrix(4, 20).repeat(2, 1)
    assert float(spectral_diversification(features, 3)) == 1 / FLOOR
    assert not gradient(features, 3).any()


def test_a_step_down_grows_the_trailing_values_alone() -> None:
    features, k = matrix(6, 15), 2
    u, before, vt = torch.linalg.svd(features, full_matrices=False)
    after = u.T @ (features - 0.1 * gradient(features, k)) @ vt.T
    torch.testing.assert_close(after, torch.diag(after.diag()), rtol=0, atol=1e-10)
    torch.testing.assert_close(after.diag()[:-k], before[:-k], rtol=1e-10, atol=0)
    assert (after.diag()[-k:] > before[-k:]).all()


def test_single_precision_is_widened_first() -> None:
    features = matrix(8, 20).float()
    assert spectral_diversification(features, 3).dtype is torch.float64
    torch.testing.assert_close(
        spectral_diversification(features, 3), by_svd(features.double(), 3), rtol=1e-10, atol=0
    )


@pytest.mark.parametrize("shape", [(4, 20), (20, 4)])
def test_more_values_than_there_are_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="has no 5 singular values"):
        spectral_diversification(torch.ones(shape), 5)


# Features


def test_a_residual_network_gives_its_last_block_before_the_activation() -> None:
    gan = build(GanSpec.from_dict(RESNET), 0)
    images = torch.randn(3, 3, 32, 32)
    features = gan.discriminator.spectral_features(images)
    assert (features < 0).any()
    assert torch.equal(torch.nn.functional.leaky_relu(features, 0.2), gan.discriminator.features(images))


def test_the_published_network_has_16384_features() -> None:
    with torch.device("meta"):
        gan = build(GanSpec.from_dict({"family": "resnet_gan", "resolution": 128, "z_dim": 256}))
        assert gan.discriminator.spectral_features(torch.empty(2, 3, 128, 128)).shape == (2, 16384)


@pytest.mark.parametrize("family", ["stylegan2", "biggan", "resnet_gan"])
def test_each_row_is_of_its_own_image(family: str) -> None:
    specs = {"biggan": BIGGAN, "resnet_gan": RESNET}
    gan = build(GanSpec.from_dict(specs[family]), 0) if family in specs else networks()
    gan.discriminator.eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = gan.discriminator.spectral_features(images)
    alone = torch.cat([gan.discriminator.spectral_features(image[None]) for image in images])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)
    if family == "stylegan2":
        assert not torch.allclose(gan.discriminator.features(images), whole, rtol=1e-3)


# The penalty


def test_the_terms_are_the_weighted_function_of_ds_features() -> None:
    gan = networks()
    penalty, notes = started(gan, bsd_weight=3.0), Notes()
    fakes = torch.randn(4, 3, 32, 32)
    features = gan.discriminator.spectral_features(fakes)
    expected = 3 * spectral_diversification(features, 2)
    for term in (penalty.generator_term, penalty.discriminator_term):
        torch.testing.assert_close(term(gan, fakes, torch.zeros(4, 1), notes), expected)
    assert notes == {
        "penalty_bsd_floor": 0.0,
        "penalty_bsd_norm": pytest.approx(float(features.detach().norm())),
    }
    assert started(gan, bsd_on_d=False).discriminator_term(gan, fakes, torch.zeros(4, 1), notes) is None


@pytest.mark.parametrize("limit", [1e-4, 1e6])
def test_the_clip_shortens_the_gradient_alone(limit: float) -> None:
    features, k, weight = matrix(6, 12), 3, 2.5
    leaf = features.clone().requires_grad_(True)
    variance = trailing_variance(leaf, k)
    plain, norm = weight / variance, slope(variance, k, weight)
    whole = weight * gradient(features, k)
    assert float(norm) == pytest.approx(float(whole.norm()), rel=1e-9)
    term = clipped(plain, norm, limit)
    assert float(term.detach()) == float(plain.detach())
    (found,) = torch.autograd.grad(term, leaf)
    factor = min(1.0, limit / float(whole.norm()))
    torch.testing.assert_close(found, factor * whole, rtol=1e-9, atol=0)
    assert (factor < 1) == (limit == 1e-4)


@pytest.mark.parametrize("limit", [None, 1e-3, 1e6])
@pytest.mark.parametrize("normalise", [False, True])
def test_the_clip_is_of_the_gradient_on_ds_features_normalised_or_not(
    normalise: bool, limit: float | None
) -> None:
    """Rows of other lengths than 1, from 0.01 on, divide the gradient on directions by them."""
    features = matrix(6, 12) * torch.tensor([0.01, 0.1, 1.0, 3.0, 10.0, 0.5])[:, None].double()
    penalty = started(networks(), bsd_clip=limit, bsd_normalise_rows=normalise, bsd_weight=2.5)
    leaf = features.clone().requires_grad_(True)
    rows = leaf / leaf.norm(dim=1, keepdim=True) if normalise else leaf
    plain = 2.5 * by_svd(rows, 2)
    (whole,) = torch.autograd.grad(plain, leaf)
    again = features.clone().requires_grad_(True)
    term, _ = penalty._term(again)
    (found,) = torch.autograd.grad(term, again)
    torch.testing.assert_close(term.detach(), plain.detach(), rtol=1e-9, atol=0)
    factor = 1.0 if limit is None else min(1.0, limit / float(whole.norm()))
    torch.testing.assert_close(found, factor * whole, rtol=1e-7, atol=1e-12)
    assert (factor < 1) == (limit == 1e-3)
    if limit == 1e-3:
        assert float(found.norm()) == pytest.approx(limit, rel=1e-9)


def test_without_a_gradient_there_is_nothing_to_clip() -> None:
    penalty = started(networks(), bsd_clip=1e-9, bsd_normalise_rows=True)
    directions = matrix(4, 20) / matrix(4, 20).norm(dim=1, keepdim=True)
    torch.testing.assert_close(penalty._term(matrix(4, 20))[0], spectral_diversification(directions, 2))


def test_the_clip_reaches_both_terms() -> None:
    gan, fakes = networks(), torch.randn(4, 3, 32, 32)
    weights = list(gan.discriminator.parameters())
    lengths = []
    for limit, normalise in ((None, False), (1e-9, False), (1e-9, True)):
        penalty = started(gan, bsd_clip=limit, bsd_normalise_rows=normalise)
        for term in (penalty.generator_term, penalty.discriminator_term):
            value = term(gan, fakes, torch.zeros(4, 1), silent)
            found = torch.autograd.grad(value, weights, allow_unused=True)
            lengths.append(max(float(g.norm()) for g in found if g is not None))
    assert max(lengths[2:]) < 1e-3 * min(lengths[:2])


def test_normalised_rows_tell_of_directions_alone() -> None:
    gan, fakes = networks(), torch.randn(4, 3, 32, 32)
    features = gan.discriminator.spectral_features(fakes)
    penalty = started(gan, bsd_normalise_rows=True)
    directions = features.double() / features.double().norm(dim=1, keepdim=True)
    torch.testing.assert_close(
        penalty.generator_term(gan, fakes, torch.zeros(4, 1), silent), spectral_diversification(directions, 2)
    )
    scaled = features * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None]
    torch.testing.assert_close(penalty._term(scaled)[0], penalty._term(features)[0])


def test_the_generator_is_reached_through_the_discriminator() -> None:
    gan = networks()
    penalty = started(gan)
    fakes = gan.generator(torch.randn(4, 8))
    term = penalty.generator_term(gan, fakes, torch.zeros(4, 1), silent)
    gradients = torch.autograd.grad(term, list(gan.generator.parameters()), allow_unused=True)
    assert sum(float(g.abs().sum()) for g in gradients if g is not None) > 0
    held = penalty.discriminator_term(gan, fakes.detach(), torch.zeros(4, 1), silent)
    assert held is not None
    reached = torch.autograd.grad(held, list(gan.generator.parameters()), allow_unused=True)
    assert all(g is None for g in reached)


def test_equal_images_ring_the_alarm_and_variety_does_not() -> None:
    gan = moved(networks())
    penalty, notes = started(gan), Notes()
    penalty.generator_term(gan, torch.randn(4, 3, 32, 32), torch.zeros(4, 1), notes)
    assert penalty.warnings() == []
    term = penalty.generator_term(gan, torch.ones(4, 3, 32, 32), torch.zeros(4, 1), notes)
    assert float(term.detach()) == 1 / FLOOR
    assert notes["penalty_bsd_floor"] == 1.0
    (text,) = penalty.warnings()
    assert "1 of 2 steps" in text
    assert "finetune.batch" in text
    assert "finetune.bsd_k" in text


def test_the_alarm_is_part_of_the_state() -> None:
    gan = networks()
    penalty, again = started(gan), started(gan)
    penalty.generator_term(gan, torch.ones(4, 3, 32, 32), torch.zeros(4, 1), silent)
    again.load_state_dict(penalty.state_dict())
    assert again.warnings() == penalty.warnings() != []


def test_with_and_without_d_are_different_runs_of_the_same_generator_step() -> None:
    both, alone = trained(1, ("bsd",), bsd_k=2), trained(1, ("bsd",), bsd_k=2, bsd_on_d=False)
    same = [
        torch.equal(a, b)
        for a, b in zip(both.gan.generator.parameters(), alone.gan.generator.parameters(), strict=True)
    ]
    assert all(same)
    assert "penalty_bsd_d" in both.meter.take()
    assert "penalty_bsd_d" not in alone.meter.take()


def test_more_values_than_images_is_refused_by_both_keys() -> None:
    with pytest.raises(ConfigError, match=r"finetune\.bsd_k is 5, but finetune\.batch is 4") as error:
        trained(0, ("bsd",), bsd_k=5)
    assert "finetune.bsd_k" in error.value.remedy


def test_more_values_than_features_is_refused_at_the_start() -> None:
    gan = networks(channel_max=3)
    with pytest.raises(ConfigError, match=r"finetune\.bsd_k is 4.*rank\.choose.* has 3 features"):
        started(gan, bsd_k=4)
    started(gan, bsd_k=3)


@pytest.mark.parametrize("family", [*SIZES, *OTHERS])
def test_the_width_is_that_of_the_features_and_looking_leaves_no_trace(family: str) -> None:
    gan = small(family)
    before, random = copies(gan.discriminator), torch.get_rng_state()
    gan.discriminator.train()
    width = feature_width(gan.discriminator)
    assert equal(before, copies(gan.discriminator)) and torch.equal(random, torch.get_rng_state())
    assert gan.discriminator.training
    assert gan.discriminator.spectral_features(torch.zeros(2, 3, 32, 32)).shape == (2, width)


def test_the_floor_is_a_setting_and_the_alarm_follows_it() -> None:
    gan = networks()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = {}
    for floor in (1e-6, 1e6):
        penalty, notes = started(gan, bsd_floor=floor), Notes()
        leaf = images.clone().requires_grad_(True)
        term = penalty.generator_term(gan, leaf, torch.zeros(4, 1), notes)
        (slope,) = torch.autograd.grad(term, leaf)
        found[floor] = (
            float(term.detach()),
            bool(slope.any()),
            notes["penalty_bsd_floor"],
            penalty.warnings(),
        )
    assert found[1e-6][1:] == (True, 0.0, [])
    assert found[1e6][:3] == (pytest.approx(1e-6), False, 1.0)
    assert "finetune.bsd_floor=1e+06 in 1 of 1 steps" in found[1e6][3][0]
