from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from graftgan.errors import ConfigError
from graftgan.gans.biggan import BigGANGenerator, BigGANSpec
from graftgan.gans.biggan.truncation import truncate

from .filling import fill
from .reference import as_arrays, generate
from .sizes import FLAT, PLAIN, TABLES, TINY, VARIANTS


def _generator(spec: BigGANSpec) -> BigGANGenerator:
    torch.manual_seed(0)
    generator = BigGANGenerator(spec).eval()
    fill(generator)
    return generator


def _inputs(spec: BigGANSpec, n: int = 2) -> tuple[torch.Tensor, torch.Tensor | None]:
    z = torch.randn(n, spec.z_dim, generator=torch.Generator().manual_seed(7))
    return z, torch.arange(n) % spec.classes if spec.classes else None


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_images_are_those_of_the_formulas(spec: BigGANSpec) -> None:
    spec = dataclasses.replace(spec, bn_eps=0.03)
    generator = _generator(spec)
    state = as_arrays(generator.state_dict())
    z, labels = _inputs(spec)
    images = generator(z, labels).detach().numpy()
    for i in range(2):
        c = np.zeros(0)
        if labels is not None:
            table = state["shared.weight"] if spec.shared_dim else np.eye(spec.classes)
            c = table[int(labels[i])]
        expected = generate(state, z[i].double().numpy(), c, spec.hier, spec.bn_eps)
        assert expected.std() > 0.1
        np.testing.assert_allclose(images[i], expected, rtol=1e-5, atol=1e-5)


def test_float64_agrees_to_rounding() -> None:
    generator = _generator(TINY).double()
    z, labels = _inputs(TINY)
    state = as_arrays(generator.state_dict())
    c = state["shared.weight"][0]
    expected = generate(state, z[0].double().numpy(), c, True, TINY.bn_eps)
    np.testing.assert_allclose(generator(z.double(), labels)[0].detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("spec", [TINY, TABLES, FLAT], ids=["tiny", "tables", "flat"])
def test_class_weights_of_one_class_equal_its_id(spec: BigGANSpec) -> None:
    generator = _generator(spec)
    z, labels = _inputs(spec)
    weights = torch.eye(spec.classes)[labels]
    torch.testing.assert_close(generator(z, weights), generator(z, labels))
    torch.testing.assert_close(generator.forward_embedded(z, generator.embed(labels)), generator(z, labels))


def test_mixed_classes_embed_to_the_mixture() -> None:
    generator = _generator(TINY)
    table = generator.state_dict()["shared.weight"]
    mixed = generator.embed(torch.tensor([[0.25, 0.0, 0.75]]))
    torch.testing.assert_close(mixed[0], 0.25 * table[0] + 0.75 * table[2])


def test_gradient_reaches_a_class_vector_alone() -> None:
    generator = _generator(TINY).requires_grad_(False)
    vector = generator.embed(torch.tensor([1])).clone().requires_grad_()
    generator.forward_embedded(_inputs(TINY)[0], vector.expand(2, -1)).square().sum().backward()
    assert vector.grad is not None
    assert bool((vector.grad != 0).all())


def test_each_part_of_z_matters() -> None:
    generator = _generator(TINY)
    z, labels = _inputs(TINY, 1)
    base = generator(z, labels)
    for i in range(TINY.z_dim):
        moved = z.clone()
        moved[0, i] += 1
        assert not torch.allclose(generator(moved, labels), base, atol=1e-4)


def test_evaluation_leaves_buffers_alone_and_training_moves_them() -> None:
    generator = _generator(TINY)
    before = {name: t.clone() for name, t in generator.state_dict().items()}
    generator(*_inputs(TINY))
    assert all(torch.equal(before[name], t) for name, t in generator.state_dict().items())
    generator.train()
    generator(*_inputs(TINY))
    moved = {name for name, t in generator.state_dict().items() if not torch.equal(before[name], t)}
    buffers = {name for name, _ in generator.named_buffers()}
    # Vectors of length 1 point one way only, so their iteration stands still up to sign.
    assert {name for name in buffers if not name.endswith("u0")} <= moved <= buffers


def test_frozen_statistics_stay_in_training() -> None:
    generator = _generator(TINY)
    generator.freeze_statistics()
    generator.train()
    before = {name: t.clone() for name, t in generator.state_dict().items() if "stored" in name}
    z, labels = _inputs(TINY)
    both = generator(z, labels)
    assert labels is not None
    alone = generator(z[:1], labels[:1])
    assert all(torch.equal(before[name], t) for name, t in generator.state_dict().items() if name in before)
    assert both[0].sub(alone[0]).abs().max() < 0.5
    generator.freeze_statistics(False)
    generator(z, labels)
    assert not torch.equal(before["blocks.0.0.bn1.stored_mean"], generator.blocks[0][0].bn1.stored_mean)  # type: ignore


def test_noise_mode_has_no_effect() -> None:
    generator = _generator(PLAIN)
    z, _ = _inputs(PLAIN)
    assert torch.equal(generator(z, noise_mode="random"), generator(z, noise_mode="const"))


def test_truncation_one_is_the_identity_and_zero_one_image_a_class() -> None:
    generator = _generator(TINY)
    z, _ = _inputs(TINY)
    labels = torch.tensor([1, 1])
    assert torch.equal(generator(z, labels, 1.0), generator(z, labels))
    images = generator(z, labels, 0.0)
    torch.testing.assert_close(images[0], images[1])


def test_wrong_inputs_are_named() -> None:
    generator, plain = _generator(TINY), _generator(PLAIN)
    with pytest.raises(ValueError, match=r"z of shape \(2, 3\)"):
        generator(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="3 classes"):
        generator(torch.zeros(2, 8))
    with pytest.raises(ValueError, match="labels of shape"):
        generator(torch.zeros(2, 8), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="class vectors"):
        generator.forward_embedded(torch.zeros(2, 8), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="no classes"):
        plain.embed(torch.tensor([0]))


def test_truncated_normal_has_its_moments_and_limits() -> None:
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    inside = truncate(z, 0.5)
    assert float(inside.abs().max()) <= 1.0
    # The standard normal within 2 deviations has variance 1 - 4 phi(2) / (2 Phi(2) - 1) = 0.7737.
    assert float(inside.var()) == pytest.approx(0.25 * 0.7737, rel=0.01)
    assert float(inside.mean()) == pytest.approx(0, abs=0.005)


def test_truncation_keeps_order_and_sign() -> None:
    z = torch.linspace(-8, 8, 101)
    inside = truncate(z, 0.8)
    assert bool((inside.diff() >= 0).all())
    torch.testing.assert_close(inside, -inside.flip(0), atol=1e-5, rtol=0)
    assert float(inside[-1]) == pytest.approx(1.6)
    assert truncate(z, 1.0) is z
    assert not truncate(z, 0.0).any()


@pytest.mark.parametrize("psi", [-0.1, 1.1, float("nan")])
def test_truncation_out_of_range_is_refused(psi: float) -> None:
    with pytest.raises(ConfigError, match="truncation_psi"):
        truncate(torch.zeros(1), psi)
