"""Filters as rows, lambdas, and the counts of the paper's networks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from graftgan.bank.layers import LayerShape, free_filters, free_widths, layer_shapes, shape_of
from graftgan.errors import ConfigError
from graftgan.gans.translation import TranslatorSpec, build_translator
from tests.bank.banks import TWO_LAYERS


def test_filters_of_a_convolution_are_the_columns_of_the_papers_matrix() -> None:
    conv = nn.Conv2d(3, 5, 4)
    filters = shape_of("x", conv).to_filters(conv.weight)
    for o in range(5):
        assert torch.equal(filters[o], conv.weight[o].flatten())


def test_filters_of_a_transposed_convolution_are_along_its_second_axis() -> None:
    conv = nn.ConvTranspose2d(3, 5, 4)
    filters = shape_of("x", conv).to_filters(conv.weight)
    for o in range(5):
        assert torch.equal(filters[o], conv.weight[:, o].flatten())


@given(
    kind=st.sampled_from(["conv", "deconv"]), ci=st.integers(1, 5), co=st.integers(1, 5), k=st.integers(1, 4)
)
def test_weight_and_filters_are_inverse(kind: str, ci: int, co: int, k: int) -> None:
    shape = LayerShape("x", kind, ci, co, k, 1, 0, 0)
    weight = torch.arange(ci * co * k * k, dtype=torch.float32).reshape(shape.weight_shape)
    again = shape.to_weight(shape.to_filters(weight))
    assert torch.equal(again, weight) and again.is_contiguous()
    assert shape.to_filters(weight).shape == (co, shape.d)


@given(co=st.integers(1, 2048), eighths=st.integers(0, 8))
def test_free_filters_are_the_rounded_up_share(co: int, eighths: int) -> None:
    count = free_filters(co, eighths / 8)
    assert count == -(-eighths * co // 8)
    assert 0 <= count <= co


def test_a_decimal_lambda_is_not_rounded_up_by_its_binary_fraction() -> None:
    assert math.ceil(0.55 * 100) == 56
    assert free_filters(100, 0.55) == 55
    assert free_filters(10, 0.7) == 7


def test_the_last_layer_is_free_and_a_list_or_mapping_is_taken_as_given() -> None:
    assert free_widths(TWO_LAYERS, 0.25) == {"model.1": 1, "model.2": 3}
    assert free_widths(TWO_LAYERS, 0.25, lambda_last=0.5) == {"model.1": 1, "model.2": 2}
    assert free_widths(TWO_LAYERS, [0.5, 0.0]) == {"model.1": 2, "model.2": 0}
    assert free_widths(TWO_LAYERS, {"model.1": 0.75}) == {"model.1": 3, "model.2": 3}
    assert free_widths(TWO_LAYERS, {"default": 0.5, "model.2": 0.3}) == {"model.1": 2, "model.2": 1}


@pytest.mark.parametrize(
    ("share", "word"),
    [
        (1.5, "lambda of model.1 is 1.5"),
        (-0.1, "-0.1"),
        (math.nan, "nan"),
        ("0.5", "'0.5'"),
        (True, "True"),
        ([0.5], "1 numbers for 2 layers"),
        ({"model.9": 0.5}, "no layer: model.9"),
        ({"model.2": 0.5}, "lacks model.1"),
    ],
)
def test_wrong_lambdas_are_refused(share: object, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        free_widths(TWO_LAYERS, share)  # type: ignore[arg-type]
    assert caught.value.remedy


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, (3, 1)),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same"),
    ],
)
def test_convolutions_of_other_kinds_are_refused(conv: nn.Conv2d) -> None:
    with pytest.raises(ConfigError, match="x is a convolution"):
        shape_of("x", conv)


@pytest.mark.parametrize("kind", ["resnet_6", "resnet_9", "unet_128", "unet_256"])
def test_the_last_layer_of_every_generator_gives_the_image(kind: str) -> None:
    with torch.device("meta"):
        network = build_translator(TranslatorSpec(kind=kind, ngf=4))
    shapes = layer_shapes(network)
    assert shapes[-1].co == 3
    assert all(shape.co > 3 for shape in shapes[:-1])
    for shape in shapes:
        assert network.get_submodule(shape.name).weight.shape == shape.weight_shape
