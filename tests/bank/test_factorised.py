"""Factorised layers: T-A1 to T-A3 and T-A6 to T-A8 of the method sheet, section 5.12."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graftgan.bank.factorised import (
    Factorised,
    FactorisedConv2d,
    FactorisedConvTranspose2d,
    Reference,
    compose,
    factorise,
    full_precision,
    materialise,
    mixtures,
    own_filters,
    warm_start,
)
from graftgan.bank.layers import LayerShape, free_widths, layer_shapes
from graftgan.errors import ConfigError
from graftgan.gans.translation import TranslatorSpec, build_translator
from tests.bank.banks import TINY, shake

CONV = LayerShape("x", "conv", 3, 8, 3, 2, 1, 0)
DECONV = LayerShape("x", "deconv", 3, 8, 3, 2, 1, 1)
UNET = TranslatorSpec(kind="unet_128", ngf=2, norm="batch")
BOTH = pytest.mark.parametrize("shape", [CONV, DECONV], ids=["conv", "deconv"])


def layer_of(shape: LayerShape, free: int = 2, rows: int = 10, seed: int = 0) -> Factorised:
    torch.manual_seed(seed)
    kind = FactorisedConv2d if shape.kind == "conv" else FactorisedConvTranspose2d
    layer = kind(shape, torch.randn(free, shape.d), torch.randn(rows, shape.d), torch.randn(shape.co))
    layer.draw()
    return layer


def plain(shape: LayerShape, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    if shape.kind == "conv":
        return F.conv2d(x, weight, bias, stride=shape.stride, padding=shape.pad)
    return F.conv_transpose2d(x, weight, bias, shape.stride, shape.pad, shape.out_pad)


@BOTH
def test_one_hot_mixtures_reproduce_filters_of_the_bank_exactly(shape: LayerShape) -> None:
    """T-A1 of the method sheet."""
    layer = layer_of(shape)
    picks = [7, 0, 9, 3, 3, 5]
    with torch.no_grad():
        layer.mix.zero_()
        for column, row in enumerate(picks):
            layer.mix[row, column] = 1.0
    weight = layer.weight_now()
    for column, row in enumerate(picks):
        o = 2 + column
        made = weight[o] if shape.kind == "conv" else weight[:, o]
        assert torch.equal(made.flatten(), layer.bank[row])
    assert torch.equal(layer.filters()[:2], layer.free)


@BOTH
def test_materialised_convolution_computes_what_the_factorised_one_does(shape: LayerShape) -> None:
    """T-A2 of the method sheet."""
    layer, x = layer_of(shape), torch.randn(2, 3, 9, 9)
    network = nn.Sequential(layer)
    dense = materialise(network)
    assert type(dense[0]) in (nn.Conv2d, nn.ConvTranspose2d)
    assert isinstance(network[0], Factorised)
    assert (dense(x) - network(x)).abs().max() <= 1e-6
    by_hand = torch.cat([layer.free, torch.einsum("md,mp->pd", layer.bank, layer.mix)])
    assert torch.allclose(network(x), plain(shape, shape.to_weight(by_hand), layer.bias, x), atol=1e-4)


@BOTH
def test_gradients_are_those_of_the_paper_and_none_reaches_the_bank(shape: LayerShape) -> None:
    """T-A6 of the method sheet."""
    layer, x = layer_of(shape), torch.randn(2, 3, 9, 9)
    weight = layer.weight_now().detach().requires_grad_()
    plain(shape, weight, layer.bias, x).square().sum().backward()
    layer(x).square().sum().backward()
    filters = shape.to_filters(weight.grad)
    assert torch.allclose(layer.free.grad, filters[:2], rtol=1e-4, atol=1e-2)
    assert torch.allclose(layer.mix.grad, layer.bank @ filters[2:].t(), rtol=1e-4, atol=1e-1)
    assert layer.bank.grad is None and not layer.bank.requires_grad


def test_the_bank_is_in_no_state_and_copies_share_it() -> None:
    layer = layer_of(CONV)
    twin = copy.deepcopy(layer)
    assert set(layer.state_dict()) == {"free", "mix", "bias"}
    assert twin.bank.data_ptr() == layer.bank.data_ptr()
    assert twin.free.data_ptr() != layer.free.data_ptr()
    for name, value in layer.state_dict().items():
        assert torch.equal(twin.state_dict()[name], value)
    layer.requires_grad_(False)
    assert not any(p.requires_grad for p in copy.deepcopy(layer).eval().parameters())


def test_drawn_mixtures_vary_as_much_as_the_bank() -> None:
    shape = LayerShape("x", "conv", 64, 256, 3, 1, 1, 0)
    torch.manual_seed(0)
    layer = FactorisedConv2d(shape, torch.empty(64, shape.d), 0.02 * torch.randn(256, shape.d), None)
    layer.draw()
    assert float(layer.mix.detach().std()) == pytest.approx(1 / math.sqrt(256), rel=0.02)
    assert float(layer.filters()[64:].detach().std()) == pytest.approx(0.02, rel=0.05)


def test_mixing_stays_in_float32_under_autocast() -> None:
    layer = layer_of(CONV)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.filters(), compose(layer.free, layer.mix, layer.bank))
        assert layer.filters().dtype == torch.float32


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_mixing_takes_no_part_in_reduced_precision_and_leaves_the_setting(precision: str) -> None:
    matmul = torch.backends.mkldnn.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this torch has no such setting for the CPU")
    layer = layer_of(CONV)
    wanted = layer.filters()
    torch.set_float32_matmul_precision(precision)
    try:
        with full_precision(torch.device("cpu")):
            assert (matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision) == ("ieee", "ieee")
        assert torch.equal(layer.filters(), wanted)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")


def dense(spec: TranslatorSpec, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return shake(build_translator(spec), seed).eval()


def second(spec: TranslatorSpec, first: nn.Module, share: float, seed: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    network = build_translator(spec)
    factorise(network, own_filters(first), free_widths(layer_shapes(network), share))
    return network.eval()


def extras(network: nn.Module) -> dict[str, Tensor]:
    convs = (nn.Conv2d, nn.ConvTranspose2d, Factorised)
    names = {n for n, m in network.named_modules() if isinstance(m, convs)}
    state = network.state_dict().items()
    return {k: v for k, v in state if k.rpartition(".")[0] not in names or k.endswith(".bias")}


@pytest.mark.parametrize(("spec", "side"), [(TINY, 16), (UNET, 128)], ids=["resnet", "unet"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_warm_start_equals_the_first_task_bit_for_bit(spec: TranslatorSpec, side: int, share: float) -> None:
    """T-A3 of the method sheet, of the network."""
    first = dense(spec, 1)
    network = second(spec, first, share)
    x = torch.rand(2, 3, side, side) * 2 - 1
    with torch.no_grad():
        assert not torch.equal(network(x), first(x))
        warm_start(network, Reference(own_filters(first), {}, extras(first)))
        assert torch.equal(network(x), first(x))
        assert torch.equal(materialise(network)(x), first(x))


def test_warm_start_from_a_later_task_is_equal_to_rounding() -> None:
    first = dense(TINY, 1)
    older = shake(second(TINY, first, 0.25), 2)
    rows = {k: torch.cat([v, own_filters(older)[k]]) for k, v in own_filters(first).items()}
    network = build_translator(TINY).eval()
    factorise(network, rows, free_widths(layer_shapes(network), 0.25))
    warm_start(network, Reference(own_filters(older), mixtures(older), extras(older)))
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(network(x), older(x), atol=1e-5)


def test_the_module_tree_keeps_its_names_and_the_last_layer_stays_ordinary() -> None:
    first = dense(UNET, 1)
    network = second(UNET, first, 0.25)
    assert [n for n, _ in network.named_modules()] == [n for n, _ in first.named_modules()]
    kinds = [type(network.get_submodule(s.name)) for s in layer_shapes(first)]
    assert kinds[-1] is nn.ConvTranspose2d
    assert set(kinds[:-1]) == {FactorisedConv2d, FactorisedConvTranspose2d}
    assert set(materialise(network).state_dict()) == set(first.state_dict())


def test_a_bank_of_another_architecture_is_refused() -> None:
    network = build_translator(TINY)
    wrong = own_filters(build_translator(TranslatorSpec(kind="resnet_6", ngf=3)))
    with pytest.raises(ConfigError, match=r"model\.4: filters of the bank"):
        factorise(network, wrong, free_widths(layer_shapes(network), 0.25))


def projected_residual(target: Tensor, bank: Tensor) -> float:
    """Return the relative squared distance of target rows from the span of the bank's rows."""
    solution = torch.linalg.lstsq(bank.t(), target.t()).solution
    return float(((target.t() - bank.t() @ solution) ** 2).sum() / (target**2).sum())


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_adam_reaches_the_least_squares_residual(share: float) -> None:
    """T-A7 of the method sheet.

    A random filter keeps 1 - 8/36 of itself outside the span of 8 others; free ones keep nothing.
    """
    shape, free = LayerShape("x", "conv", 4, 64, 3, 1, 1, 0), int(64 * share)
    torch.manual_seed(3)
    target, bank = torch.randn(64, 36), torch.randn(8, 36)
    layer = FactorisedConv2d(shape, torch.zeros(free, 36), bank, None)
    adam = torch.optim.Adam(layer.parameters(), lr=0.1)
    fade = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 500)
    for _ in range(500):
        adam.zero_grad()
        (layer.filters() - target).square().sum().backward()
        adam.step()
        fade.step()
    whole = float(target.square().sum())
    reached = float((layer.filters().detach() - target).square().sum()) / whole
    rest = target[free:]
    wanted = projected_residual(rest, bank) * float(rest.square().sum()) / whole if free < 64 else 0.0
    assert reached == pytest.approx(wanted, rel=1e-5, abs=1e-7)
    assert reached == pytest.approx((1 - share) * (1 - 8 / 36), abs=0.03)


def test_adam_finds_targets_in_the_span() -> None:
    """T-A7 of the method sheet, where targets can be mixed exactly."""
    shape = LayerShape("x", "conv", 4, 8, 3, 1, 1, 0)
    torch.manual_seed(3)
    bank = torch.randn(8, 36)
    target = torch.randn(8, 8) @ bank
    layer = FactorisedConv2d(shape, torch.zeros(0, 36), bank, None)
    adam = torch.optim.Adam(layer.parameters(), lr=0.1)
    fade = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 800)
    for _ in range(800):
        adam.zero_grad()
        (layer.filters() - target).square().sum().backward()
        adam.step()
        fade.step()
    assert float((layer.filters().detach() - target).square().sum() / target.square().sum()) < 1e-9


@pytest.mark.parametrize(("rows", "wanted"), [(8, 0.774), (10, 0.717), (12, 0.658), (20, 0.443), (36, 0.0)])
def test_residual_falls_as_the_bank_grows(rows: int, wanted: float) -> None:
    """T-A8 of the method sheet."""
    torch.manual_seed(0)
    bank, target = torch.randn(rows, 36, dtype=torch.float64), torch.randn(400, 36, dtype=torch.float64)
    residual = projected_residual(target, bank)
    assert residual == pytest.approx(1 - rows / 36, abs=0.02)
    assert residual == pytest.approx(wanted, abs=0.03)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 12), free=st.integers(0, 8), seed=st.integers(0, 99))
def test_mixtures_lie_in_the_span_of_the_bank(rows: int, free: int, seed: int) -> None:
    layer = layer_of(CONV, free, rows, seed)
    filters = layer.filters().detach()
    assert filters.shape == (8, 27)
    assert torch.equal(filters[:free], layer.free)
    if free < 8:
        assert projected_residual(filters[free:].double(), layer.bank.double()) < 1e-9
