from __future__ import annotations

import math

import pytest
import torch

from graftgan.training.losses import discriminator_loss, generator_loss, path_lengths, r1_penalty


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_logistic_losses_are_means_of_softplus() -> None:
    real, fake = torch.tensor([[1.5], [-0.25]]), torch.tensor([[0.5], [-2.0]])
    assert float(generator_loss(fake)) == pytest.approx((softplus(-0.5) + softplus(2.0)) / 2, rel=1e-6)
    expected = (softplus(-1.5) + softplus(0.25)) / 2 + (softplus(0.5) + softplus(-2.0)) / 2
    assert float(discriminator_loss(real, fake)) == pytest.approx(expected, rel=1e-6)


def test_an_undecided_discriminator_costs_two_log_two() -> None:
    zero = torch.zeros(3, 1)
    assert float(generator_loss(zero)) == pytest.approx(math.log(2))
    assert float(discriminator_loss(zero, zero)) == pytest.approx(2 * math.log(2))


def test_the_generator_loss_does_not_saturate() -> None:
    logits = torch.tensor([[-30.0], [30.0]], requires_grad=True)
    generator_loss(logits).backward()
    assert logits.grad is not None
    # d softplus(-x) / dx = -sigmoid(-x): full pull on a fake that D rejects, none on one it accepts.
    assert torch.allclose(logits.grad, torch.tensor([[-0.5], [0.0]]), atol=1e-6)


def test_losses_stay_finite_for_extreme_logits() -> None:
    extreme = torch.tensor([[-1e5], [1e5]])
    assert float(generator_loss(extreme)) == pytest.approx(5e4)
    assert float(discriminator_loss(extreme, extreme)) == pytest.approx(1e5)


def test_r1_of_a_linear_discriminator_is_its_squared_norm() -> None:
    a = torch.randn(2, 5, 5, requires_grad=True)
    images = torch.randn(7, 2, 5, 5, requires_grad=True)
    logits = (images * a).sum(dim=(1, 2, 3))[:, None] + 3
    penalty = r1_penalty(logits, images)
    assert float(penalty.detach()) == pytest.approx(float(a.detach().square().sum()), rel=1e-5)
    # In the gamma / 2 convention the gradient on a is gamma * a.
    (gradient,) = torch.autograd.grad(penalty * 0.8 / 2, a)
    assert torch.allclose(gradient, 0.8 * a, atol=1e-6)


def test_r1_averages_over_the_batch() -> None:
    images = torch.randn(6, 3, 4, 4, requires_grad=True)
    logits = images.square().sum(dim=(1, 2, 3))[:, None] / 2
    penalty = r1_penalty(logits, images).detach()
    assert float(penalty) == pytest.approx(
        float(images.detach().square().sum(dim=(1, 2, 3)).mean()), rel=1e-5
    )


def test_lazy_r1_equals_r1_at_every_step_in_sum() -> None:
    interval, gamma, rate = 4, 0.3, 1e-3
    start = torch.randn(1, 3, 3)
    ends = []
    for every in (1, interval):
        a = start.clone().requires_grad_(True)
        for step in range(2 * interval):
            if step % every == 0:
                images = torch.randn(2, 1, 3, 3, requires_grad=True)
                penalty = r1_penalty((images * a).sum(dim=(1, 2, 3))[:, None], images)
                (gradient,) = torch.autograd.grad(penalty * gamma / 2 * every, a)
                a = (a - rate * gradient).detach().requires_grad_(True)
        ends.append(a.detach())
    eager, lazy = ends
    assert torch.allclose(eager, start * (1 - rate * gamma) ** 8, atol=1e-6)
    assert torch.allclose(lazy, start * (1 - rate * gamma * interval) ** 2, atol=1e-6)
    assert torch.allclose(eager, lazy, atol=1e-5)


def test_path_lengths_of_a_linear_generator() -> None:
    n, layers, w_dim, channels, side = 3, 4, 5, 2, 6
    maps = torch.randn(layers, w_dim, channels * side * side, requires_grad=True)
    ws = torch.randn(n, layers, w_dim, requires_grad=True)
    images = torch.einsum("nlw,lwp->np", ws, maps).reshape(n, channels, side, side)
    noise = torch.randn(n, channels, side, side)
    lengths = path_lengths(images, ws, noise)
    pulled = torch.einsum("lwp,np->nlw", maps, noise.flatten(1) / side)
    assert lengths.shape == (n,)
    assert torch.allclose(lengths, pulled.square().sum(2).mean(1).sqrt(), rtol=1e-5)
    # The penalty must reach the weights: d length / d maps is not zero.
    assert float(torch.autograd.grad(lengths.sum(), maps)[0].abs().sum()) > 0


def test_path_lengths_do_not_depend_on_the_resolution_of_a_flat_generator() -> None:
    # G(w) = w_0 / sqrt(HW) everywhere has a Jacobian of norm 1; E|J^T y|^2 is 1 / HW by the scaling of y.
    torch.manual_seed(0)
    for side in (4, 16):
        ws = torch.zeros(4000, 1, 1, requires_grad=True)
        images = ws.reshape(-1, 1, 1, 1).expand(-1, 1, side, side) / side
        lengths = path_lengths(images, ws, torch.randn(4000, 1, side, side))
        assert float(lengths.detach().square().mean()) == pytest.approx(1 / side**2, rel=0.1)
