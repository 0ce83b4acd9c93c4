"""A convolution and its ReLU in one pass, against the two one after the other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graftgan.metrics.features import Extractor, clipped
from graftgan.metrics.features.clipped import clipped_conv2d
from graftgan.metrics.features.efficientnet_lite import _SameConv

from .helpers import pictures

DTYPES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    values = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return values.to(dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("most", [6.0, math.inf])
@pytest.mark.parametrize(("groups", "stride", "padding"), [(1, [1, 1], [0, 1]), (8, [2, 2], [1, 1])])
def test_values_are_those_of_two_passes(
    dtype: torch.dtype, most: float, groups: int, stride: list[int], padding: list[int]
) -> None:
    x, weight = images(2, 8, 9, 9, dtype=dtype), images(8, 8 // groups, 3, 3, dtype=dtype)
    bias = images(1, 8, 1, 1, dtype=dtype).flatten()
    with torch.inference_mode():
        assert clipped.in_one_pass(x)
        found = clipped_conv2d(x, weight, bias, stride, padding, groups, most)
    wanted = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding, 1, groups).clamp(0, most)
    assert found.dtype is dtype
    assert 0 < float((wanted == 0).double().mean()) < 1
    torch.testing.assert_close(found.double(), wanted, rtol=DTYPES[dtype], atol=DTYPES[dtype] * 10)


@pytest.mark.parametrize("most", [6.0, math.inf])
def test_gradients_go_through_it(most: float) -> None:
    x = images(1, 2, 5, 5).double().requires_grad_()
    weight = images(3, 2, 3, 3).double()
    assert not clipped.in_one_pass(x)
    assert torch.autograd.gradcheck(
        lambda value: clipped_conv2d(value, weight, None, [1, 1], [1, 1], most=most), x
    )


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("px", [8, 9])
@pytest.mark.parametrize("groups", [1, 4])
def test_wide_filters_pad_as_tensorflow_does(kernel: int, px: int, groups: int) -> None:
    convolution = _SameConv(4, 4, kernel, stride=2, groups=groups)
    x = images(2, 4, px, px)
    wanted = convolution(x)
    convolution.widen()
    assert convolution.wide is not None
    assert "wide" not in convolution.state_dict()
    with torch.inference_mode():
        found = convolution(x)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_features_do_not_depend_on_whether_the_operator_is_there(
    efflite: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = efflite(pictures(3))
    monkeypatch.setattr(clipped, "_ONE_PASS", None)
    torch.testing.assert_close(quick, efflite(pictures(3)), rtol=1e-5, atol=1e-6)
