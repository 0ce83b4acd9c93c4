from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from graftgan.gans.stylegan2.layers import (
    Blur,
    BlurDown,
    FullyConnected,
    activate,
    at_least_float32,
    compute_dtype,
    full_precision,
    normalise_second_moment,
    upsample_image,
)

from . import reference


def _image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("padding", "gain"), [(1, 4.0), (2, 1.0)])
def test_blur_is_the_separable_filter(padding: int, gain: float) -> None:
    x = _image(2, 3, 9, 7)
    expected = reference.upfirdn(x.numpy(), 1, 1, (padding, padding), gain)
    actual = Blur(3, padding, gain).double()(x)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_blur_down_is_filter_and_decimation() -> None:
    x = _image(2, 3, 8, 8)
    expected = reference.upfirdn(x.numpy(), 1, 2, (1, 1))
    np.testing.assert_allclose(BlurDown(3).double()(x).numpy(), expected, rtol=1e-6, atol=1e-7)


def test_blur_down_in_bfloat16_is_the_same_filter() -> None:
    # Small multiples of 64 keep every intermediate value exact in bfloat16.
    x = (_image(2, 3, 8, 8).round() * 64).float()
    down = BlurDown(3)
    with torch.autocast("cpu", torch.bfloat16):
        half = down(x.bfloat16())
    assert half.dtype is torch.bfloat16
    assert torch.equal(half.float(), down(x).bfloat16().float())


def test_blur_down_in_bfloat16_has_the_same_gradient() -> None:
    x = _image(2, 3, 8, 8).float()
    weight = _image(2, 3, 4, 4, seed=1).float()
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        leaf = x.to(dtype).detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            out = BlurDown(3)(leaf)
        (out.float() * weight).sum().backward()
        assert leaf.grad is not None
        grads.append(leaf.grad.float())
    torch.testing.assert_close(grads[1], grads[0], rtol=0.02, atol=0.01)


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (2, 3, 5, 7), (3, 4, 16, 16)])
def test_upsample_image_is_exact_to_the_border(shape: tuple[int, ...]) -> None:
    x = _image(*shape)
    expected = reference.upfirdn(x.numpy(), 2, 1, (2, 1), gain=4.0)
    np.testing.assert_allclose(upsample_image(x).numpy(), expected, rtol=1e-12, atol=1e-12)


def test_fully_connected_scales_at_run_time() -> None:
    layer = FullyConnected(6, 4, lr_multiplier=0.01, bias_init=2.0).double()
    x = _image(3, 6)
    expected = x @ (layer.weight * 0.01 / 6**0.5).T + layer.bias * 0.01
    torch.testing.assert_close(layer(x), expected)
    assert float(layer.bias[0].detach()) == 2.0


def test_fully_connected_starts_with_weights_one_over_the_multiplier() -> None:
    layer = FullyConnected(100, 200, lr_multiplier=0.01)
    assert abs(float(layer.weight.detach().std()) - 100) < 3


def test_activation_keeps_the_second_moment() -> None:
    x = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    y = FullyConnected(64, 64, activation=True)(x)
    # E[lrelu(t)^2] * 2 = 1 + 0.2^2 for t ~ N(0, 1).
    assert float(y.detach().square().mean()) == pytest.approx(1.04, rel=0.08)


def test_activate_clamps_float16_only() -> None:
    values = [-2000.0, -10.0, 10.0, 2000.0]
    assert activate(torch.tensor(values)).tolist() == [-400.0, -2.0, 10.0, 2000.0]
    assert activate(torch.tensor(values, dtype=torch.float16)).tolist() == [-256.0, -2.0, 10.0, 256.0]


def test_normalise_second_moment() -> None:
    y = normalise_second_moment(_image(5, 7) * 30)
    torch.testing.assert_close(y.square().mean(1), torch.ones(5, dtype=torch.float64))


def test_precision_helpers_follow_autocast() -> None:
    x = torch.zeros(1)
    assert compute_dtype(x) is torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert compute_dtype(x) is torch.bfloat16
        with full_precision(x):
            assert compute_dtype(x) is torch.float32
    assert at_least_float32(x.bfloat16()).dtype is torch.float32
    assert at_least_float32(x.half()).dtype is torch.float32
    assert at_least_float32(x.double()).dtype is torch.float64
