from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from graftgan.metrics.kid import kid
from graftgan.transfer.class_objectives import (
    ClassDiscriminator,
    Classifier,
    KernelMatch,
    Probe,
    Realism,
    Reconstruction,
    diversity,
    random_pairs,
)
from transfer.families import small


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def flat(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1)


def test_diversity_is_the_mean_ratio_over_pairs() -> None:
    x, z = normal(4, 3, 2), normal(4, 5, seed=1)
    pairs = torch.tensor([[0, 2], [1, 3]])
    expected = [float((x[i] - x[j]).norm() / (z[i] - z[j]).norm()) for i, j in pairs.tolist()]
    assert float(diversity(x, z, pairs)) == pytest.approx(sum(expected) / 2)


def test_diversity_of_a_generator_that_ignores_z_is_0_with_a_finite_gradient() -> None:
    x = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    found = diversity(x, normal(4, 5), torch.tensor([[0, 1], [2, 3]]))
    found.backward()
    assert float(found.detach()) == pytest.approx(0.0, abs=1e-5)
    assert x.grad is not None and torch.isfinite(x.grad).all()


def test_pairs_are_different_and_disjoint() -> None:
    pairs = random_pairs(9, rng())
    assert pairs.shape == (4, 2) and len(set(pairs.flatten().tolist())) == 8


def test_classifier_is_the_negative_log_probability() -> None:
    x = normal(5, 4)
    expected = -F.log_softmax(x, dim=1)[:, 2].mean()
    assert float(Classifier(flat, 2)(x)) == pytest.approx(float(expected))


def test_kernel_match_is_kid_less_the_part_of_the_real_images() -> None:
    fake, real = normal(6, 4), normal(7, 4, seed=1)
    gram = (real @ real.t() / 4 + 1) ** 3
    within_real = (gram.sum() - gram.diagonal().sum()) / (7 * 6)
    expected = kid(fake.numpy(), real.numpy()).value - float(within_real)
    assert float(KernelMatch(flat, real)(fake)) == pytest.approx(expected)


def test_kernel_match_has_the_gradient_of_its_closed_form() -> None:
    fake, real = normal(3, 2).requires_grad_(True), normal(4, 2, seed=1)
    KernelMatch(flat, real)(fake).backward()
    d, n, m = 2, 3, 4
    expected = torch.zeros(3, 2, dtype=torch.float64)
    x = fake.detach()
    for i in range(n):
        for j in range(n):
            if i != j:
                expected[i] += 2 * 3 * (x[i] @ x[j] / d + 1) ** 2 * x[j] / d / (n * (n - 1))
        for r in real:
            expected[i] -= 2 * 3 * (x[i] @ r / d + 1) ** 2 * r / d / (n * m)
    assert fake.grad is not None
    assert fake.grad.numpy() == pytest.approx(expected.numpy(), rel=1e-9)


def test_a_probe_separates_and_prefers_the_wanted_side() -> None:
    wanted, others = normal(20, 3).float() + 2, normal(50, 3, seed=1).float() - 2
    probe = Probe.train(flat, wanted, others)
    assert (probe.logits(wanted) > 0).all() and (probe.logits(others) < 0).all()
    assert probe(wanted) < probe(others)


def test_a_probe_of_equal_sides_is_undecided() -> None:
    rows = normal(20, 3).float()
    assert Probe.train(flat, rows, rows).logits(rows).abs().max() < 0.05


def test_the_discriminator_is_asked_for_the_class() -> None:
    gan = small("biggan")
    gan.discriminator.eval()
    images = torch.randn(3, 3, 32, 32, generator=rng())
    judge = ClassDiscriminator(gan.discriminator, 2)
    logits = gan.discriminator(images, torch.tensor([2, 2, 2]))
    assert float(judge.realism(images)) == pytest.approx(float(logits.mean()))
    assert float(judge(images)) == pytest.approx(float(F.softplus(-logits).mean()))


def test_realism_asks_nothing_above_its_floor() -> None:
    gan = small("biggan")
    gan.discriminator.eval()
    images = torch.randn(3, 3, 32, 32, generator=rng())
    judge = ClassDiscriminator(gan.discriminator, 1)
    level = float(judge.realism(images).detach())
    assert float(Realism(judge, level - 1)(images)) == 0.0
    assert float(Realism(judge, level + 2)(images)) == pytest.approx(2.0, abs=1e-4)


def test_reconstruction_of_the_images_themselves_is_perfect() -> None:
    real = normal(4, 1, 2, 2)
    goal = Reconstruction(flat, real, flat(real))
    assert float(goal.of(real[[1, 3]], torch.tensor([1, 3]))) == 0.0
    assert float(goal(real[:2])) == pytest.approx(0.0, abs=1e-6)
    off = goal.of(real[[1]] + 1, torch.tensor([1]))
    assert float(off) == pytest.approx(1 / float(flat(real).square().mean()) + 1)


NEW = (2.0, 0.5)


def tuned(
    alpha: float,
    seed: int = 0,
    init: str = "target",
    phi: str = "pixelwise",
    lr: float = 0.02,
    new: bool = False,
) -> tuple[float, float]:
    """Deviation and probability of a class of the sheet's toy: R^4 -> means and deviations of a Gaussian.

    Of six classes the last has collapsed; with `new` it is one that the generator never had.
    """
    centres = [(4 * math.cos(k), 4 * math.sin(k)) for k in np.linspace(0, 2 * math.pi, 6, endpoint=False)]
    deviations = [0.6] * 5 + [0.02]
    rows = torch.tensor([[*c, math.log(s), math.log(s)] for c, s in zip(centres, deviations, strict=True)])
    means, wanted = torch.tensor([*centres, NEW]) if new else torch.tensor(centres), 6 if new else 5

    def logits(x: torch.Tensor) -> torch.Tensor:
        return -torch.cdist(x, means).square() / (2 * 0.6**2)

    mixing = torch.randn(2, 8, generator=rng(5))
    looks = {
        "pixelwise": lambda x: x,
        "features": lambda x: torch.tanh(x @ mixing / 4),
        "softmax": lambda x: logits(x).softmax(dim=1),
    }
    starts = {"target": rows[5], "mean": rows.mean(dim=0), "random": rows[4]}
    vector = starts[init].clone().requires_grad_(True)
    low, high = float(rows.min()), float(rows.max())
    adam, draws = torch.optim.Adam([vector], lr=lr), rng(seed)

    def draw(z: torch.Tensor) -> torch.Tensor:
        c = vector.clamp(low, high)
        return c[:2] + z * c[2:].exp()

    for _ in range(5):
        z = torch.randn(10, 2, generator=draws)
        for _ in range(20):
            x = draw(z)
            term = alpha * diversity(looks[phi](x), z, random_pairs(10, draws))
            adam.zero_grad()
            torch.autograd.backward(Classifier(logits, wanted)(x) - term)
            adam.step()
    with torch.no_grad():
        x = draw(torch.randn(500, 2, generator=draws))
        return float(x.std(dim=0).mean()), float(logits(x).softmax(dim=1)[:, wanted].mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_diversity_recovers_a_collapsed_class(seed: int) -> None:
    plain, (varied, probability) = tuned(0.0, seed)[0], tuned(1.0, seed)
    assert varied > 2 * plain
    assert probability >= 0.9


def test_classes_begun_elsewhere_vary_more_than_the_collapsed_one() -> None:
    stuck = tuned(0.0, lr=0.05)[0]
    for init in ("mean", "random"):
        free, probability = tuned(0.0, init=init, lr=0.05)
        assert free > 2 * stuck, init
        assert probability >= 0.9, init
        assert tuned(1.0, init=init, lr=0.05)[0] > free, init


@pytest.mark.parametrize("seed", [0, 1])
def test_a_class_that_the_generator_never_had_is_found_from_the_mean(seed: int) -> None:
    # Classes lie two deviations and more apart, so that some of a healthy class is taken for a neighbour's.
    assert tuned(0.0, seed, init="mean", lr=0.05, new=True)[1] >= 0.9


def test_comparing_images_helps_more_than_comparing_sure_answers() -> None:
    """Where the classifier is sure already, its answers hardly differ and have next to no slope."""
    sure = tuned(1.0, phi="softmax")[0]
    assert tuned(1.0, phi="pixelwise")[0] > 2 * sure
    assert tuned(1.0, phi="features")[0] > 1.2 * sure


def test_the_gradient_of_the_whole_objective_is_that_of_central_differences() -> None:
    """Classifier less diversity, through a generator of three layers."""
    layers = [normal(8, 16, seed=1) / 3, normal(16, 16, seed=2) / 4, normal(16, 6, seed=3) / 4]
    judge, z, pairs = normal(6, 5, seed=4), normal(8, 4, seed=5), random_pairs(8, rng(6))

    def value(c: torch.Tensor) -> torch.Tensor:
        x = torch.cat([z, c.expand(8, -1)], dim=1)
        for layer in layers:
            x = torch.tanh(x @ layer)
        return Classifier(lambda images: images @ judge, 2)(x) - 0.5 * diversity(x, z, pairs)

    c = normal(4, seed=7).requires_grad_(True)
    (slope,) = torch.autograd.grad(value(c), c)
    for i in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[i] = 1e-6
        expected = float((value(c.detach() + step) - value(c.detach() - step)) / 2e-6)
        assert float(slope[i]) == pytest.approx(expected, rel=1e-3)
