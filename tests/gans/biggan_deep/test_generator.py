from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn.utils import spectral_norm

from graftgan.errors import ConfigError
from graftgan.gans.biggan.truncation import truncate
from graftgan.gans.biggan_deep import BigGANDeepGenerator, BigGANDeepSpec
from graftgan.gans.biggan_deep.layers import Conv, Linear, Rows, statistics_rows
from tests.gans.biggan.filling import fill
from tests.gans.biggan.reference import as_arrays

from .reference import generate
from .sizes import LAYERS, PLAIN, TINY


def _generator(spec: BigGANDeepSpec) -> BigGANDeepGenerator:
    torch.manual_seed(0)
    generator = BigGANDeepGenerator(spec).eval()
    fill(generator)
    return generator


def _inputs(spec: BigGANDeepSpec, n: int = 2) -> tuple[torch.Tensor, torch.Tensor | None]:
    z = torch.randn(n, spec.z_dim, generator=torch.Generator().manual_seed(7))
    return z, torch.arange(n) % spec.classes if spec.classes else None


CASES = [
    (1.0, "exact", {50: 1.0}),
    (0.5, "exact", {25: 1.0}),
    (0.14, "exact", {7: 1.0}),
    (0.43, "exact", {21: 0.5, 22: 0.5}),
    (0.005, "exact", {0: 0.75, 1: 0.25}),
    (1.0, "published", {50: 1.0}),
    (0.5, "published", {25: 1.0}),
    (0.14, "published", {8: 1.0}),
    (0.58, "published", {28: 1.0}),
    (0.005, "published", {0: 0.25, 1: 0.75}),
]


@pytest.mark.parametrize(("psi", "lookup", "rows"), CASES)
def test_images_are_those_of_the_formulas(psi: float, lookup: str, rows: dict[int, float]) -> None:
    spec = dataclasses.replace(TINY, lookup=lookup, bn_eps=0.03)
    generator = _generator(spec).double()
    z, labels = _inputs(spec)
    assert labels is not None
    images = generator(z.double(), labels, psi).detach().numpy()
    state = as_arrays(generator.state_dict())
    inside = truncate(z.double(), psi).numpy()
    expected = generate(state, LAYERS, inside[1], int(labels[1]), rows, spec.bn_eps)
    assert expected.std() > 0.1
    np.testing.assert_allclose(images[1], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", [TINY, PLAIN], ids=["tiny", "plain"])
def test_float32_agrees(spec: BigGANDeepSpec) -> None:
    generator = _generator(spec)
    z, labels = _inputs(spec)
    images = generator(z, labels).detach().numpy()
    for i in range(2):
        label = None if labels is None else int(labels[i])
        state = as_arrays(generator.state_dict())
        expected = generate(state, LAYERS, z[i].double().numpy(), label, {50: 1.0}, spec.bn_eps)
        np.testing.assert_allclose(images[i], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("i", range(51))
def test_exact_rows_of_grid_values(i: int) -> None:
    assert statistics_rows(i * 0.02, 51, "exact") == Rows(i, i, 0.0)
    assert statistics_rows(i / 50, 51, "exact") == Rows(i, i, 0.0)


def test_published_rows_leave_the_grid_at_five_values() -> None:
    wrong = {}
    for i in range(51):
        rows = statistics_rows(round(i * 0.02, 2), 51, "published")
        read = rows.lower if rows.share < 0.5 else rows.upper
        if read != i:
            wrong[i / 50] = read - i
    assert wrong == {0.14: 1, 0.28: 1, 0.56: 1, 0.58: -1, 0.94: -1}


def test_published_rows_swap_the_weights() -> None:
    exact, published = (statistics_rows(0.005, 51, lookup) for lookup in ("exact", "published"))
    assert exact.share == pytest.approx(0.25)
    assert published.share == pytest.approx(0.75)
    table = torch.tensor([[0.0], [8.0]])
    assert float(exact.blend(table)) == pytest.approx(2)
    assert float(published.blend(table)) == pytest.approx(6)


@pytest.mark.parametrize("lookup", ["exact", "published"])
def test_no_truncation_reads_past_the_last_row(lookup: str) -> None:
    for psi in (0.0, 0.999999, math.nextafter(1.0, 0.0), 1.0):
        rows = statistics_rows(psi, 51, lookup)
        assert 0 <= rows.lower <= rows.upper <= 50


@pytest.mark.parametrize("training", [False, True])
def test_spectral_norm_is_the_librarys(training: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = Conv(3, 5, 3, 1e-4), spectral_norm(torch.nn.Conv2d(3, 5, 3, padding=1), eps=1e-4)
    theirs.load_state_dict(ours.state_dict())
    flat, reference = (
        Linear(4, 6, 1e-4, bias=False),
        spectral_norm(torch.nn.Linear(4, 6, bias=False), eps=1e-4),
    )
    reference.load_state_dict(flat.state_dict())
    for a, b, x in ((ours, theirs, torch.randn(2, 3, 8, 8)), (flat, reference, torch.randn(2, 4))):
        a.train(training)
        b.train(training)
        for _ in range(3):
            left, right = a(x), b(x)
        torch.testing.assert_close(left, right)
        for name, tensor in a.state_dict().items():
            torch.testing.assert_close(tensor, b.state_dict()[name])
        (left_grad,) = torch.autograd.grad(left.square().sum(), a.weight_orig)
        (right_grad,) = torch.autograd.grad(right.square().sum(), b.weight_orig)
        torch.testing.assert_close(left_grad, right_grad)


def test_batch_norms_ignore_the_batch_in_training() -> None:
    generator = _generator(TINY)
    z, labels = _inputs(TINY)
    assert labels is not None
    generator.train()
    generator(z, labels)
    statistics = {n: t.clone() for n, t in generator.state_dict().items() if "running" in n}
    generator(z, labels)
    assert all(torch.equal(t, generator.state_dict()[n]) for n, t in statistics.items())
    generator.eval()
    torch.testing.assert_close(generator(z, labels)[:1], generator(z[:1], labels[:1]))


def test_class_is_a_column_and_weights_mix() -> None:
    generator = _generator(TINY)
    table = generator.embeddings.weight
    torch.testing.assert_close(generator.embed(torch.tensor([2]))[0], table[:, 2])
    mixed = generator.embed(torch.tensor([[0.5, 0.5, 0.0]]))
    torch.testing.assert_close(mixed[0], (table[:, 0] + table[:, 1]) / 2)


def test_embedded_forward_takes_z_as_it_is() -> None:
    generator = _generator(TINY)
    z, labels = _inputs(TINY)
    vectors = generator.embed(labels)
    direct = generator.forward_embedded(truncate(z, 0.4), vectors, 0.4)
    torch.testing.assert_close(direct, generator(z, labels, 0.4))
    assert not torch.allclose(direct, generator.forward_embedded(truncate(z, 0.4), vectors))


def test_gradient_reaches_a_class_vector_alone() -> None:
    generator = _generator(TINY).requires_grad_(False)
    vector = generator.embed(torch.tensor([1])).clone().requires_grad_()
    generator.forward_embedded(_inputs(TINY)[0], vector.expand(2, -1)).square().sum().backward()
    assert vector.grad is not None
    assert bool((vector.grad != 0).all())


def test_only_the_first_maps_are_the_image() -> None:
    generator = _generator(TINY)
    z, labels = _inputs(TINY)
    before = generator(z, labels)
    with torch.no_grad():
        generator.generator.conv_to_rgb.bias[3:] += 100
    assert torch.equal(before, generator(z, labels))


def test_wrong_inputs_are_named() -> None:
    generator, plain = _generator(TINY), _generator(PLAIN)
    with pytest.raises(ValueError, match="z of shape"):
        generator(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="3 classes"):
        generator(torch.zeros(2, 6))
    with pytest.raises(ValueError, match="class vectors"):
        generator.forward_embedded(torch.zeros(2, 6), torch.zeros(1, 5))
    with pytest.raises(ValueError, match="no classes"):
        plain.embed(torch.tensor([0]))
    with pytest.raises(ConfigError, match=r"truncation_psi is 1\.5"):
        plain(torch.zeros(2, 6), None, 1.5)
