from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import scipy.special
import torch
from torch.autograd import gradcheck

from graftgan.gans.stylegan3 import StyleGAN3Spec, filters

from . import reference
from .sizes import TINY, TINY_R


@pytest.mark.parametrize(("taps", "width"), [(12, 0.05), (12, 0.4), (24, 0.4), (24, 0.9), (3, 0.01)])
def test_kaiser_shape_is_scipys(taps: int, width: float) -> None:
    expected = scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(taps, width))
    assert filters.kaiser_beta(taps, width) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_bessel_function_is_scipys() -> None:
    x = np.linspace(-60, 60, 4001)
    np.testing.assert_allclose(filters.bessel_j1(x), scipy.special.j1(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("taps", "cutoff", "width", "rate"),
    [(12, 2.0, 12.0, 32), (24, 8.2, 10.0, 128), (12, 128.0, 59.2, 512), (12, 3.0, 0.4, 64)],
)
def test_filters_are_scipys(taps: int, cutoff: float, width: float, rate: int) -> None:
    expected = scipy.signal.firwin(taps, cutoff, width=width, fs=rate)
    np.testing.assert_allclose(filters.low_pass(taps, cutoff, width, rate), expected, rtol=1e-9, atol=1e-14)
    radial = filters.radial_low_pass(taps, cutoff, width, rate)
    np.testing.assert_allclose(
        radial, reference.jinc_filter(taps, cutoff, width, rate), rtol=1e-9, atol=1e-14
    )


@pytest.mark.parametrize("spec", [StyleGAN3Spec(resolution=256), StyleGAN3Spec(resolution=256, variant="r")])
def test_filters_pass_the_band_and_stop_what_would_fold_back(spec: StyleGAN3Spec) -> None:
    for shape in spec.layers[:12]:
        taps = filters.low_pass(
            shape.down_taps, shape.target.cutoff, 2 * shape.target.half_width, shape.inner_rate
        )
        passed = shape.target.cutoff - shape.target.half_width
        stopped = shape.target.cutoff + shape.target.half_width
        _, gain = scipy.signal.freqz(taps, worN=[max(passed, 0), stopped], fs=shape.inner_rate)
        assert abs(gain[0]) == pytest.approx(1, abs=0.09)
        assert abs(gain[1]) < 0.09


def test_radial_filter_is_the_same_at_every_angle() -> None:
    taps, cutoff, width, rate = 24, 4.0, 8.0, 64
    places = (np.arange(taps) - (taps - 1) / 2) / rate
    line = filters.low_pass(taps, cutoff, width, rate)
    spread = []
    for kernel in (filters.radial_low_pass(taps, cutoff, width, rate), np.outer(line, line)):
        angles = np.linspace(0, np.pi / 4, 7)
        turns = [places[:, None] * np.sin(angle) + places * np.cos(angle) for angle in angles]
        spread.append(np.ptp([(kernel * np.cos(2 * np.pi * 6.0 * turn)).sum() for turn in turns]))
    assert spread[0] < 0.01
    assert spread[1] > 0.05


@pytest.mark.parametrize("border", [-3, -7, 0, 2])
@pytest.mark.parametrize("factor", [2, 4])
def test_upsampling_is_zero_insertion_and_filter(border: int, factor: int) -> None:
    rng = np.random.default_rng(0)
    x, taps = rng.normal(size=(3, 6, 9)), rng.normal(size=6 * factor)
    up = filters.upsample(torch.from_numpy(x)[None], torch.from_numpy(taps), factor, border)[0].numpy()
    lines = scipy.signal.upfirdn(taps, scipy.signal.upfirdn(taps, x, factor, axis=1), factor, axis=2)
    lines = lines * factor**2
    grown = np.pad(lines, [(0, 0), *[(max(border, 0), max(border, 0))] * 2])
    crop = max(-border, 0)
    expected = grown[:, crop : grown.shape[1] - crop, crop : grown.shape[2] - crop]
    np.testing.assert_allclose(up, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("factor", [2, 4])
def test_downsampling_is_filter_and_decimation(factor: int) -> None:
    rng = np.random.default_rng(1)
    x, taps, square = rng.normal(size=(3, 20, 25)), rng.normal(size=8), rng.normal(size=(8, 8))
    for kernel, given in ((np.outer(taps, taps), taps), (square, square)):
        # Correlation, not convolution: the package's filters are symmetric.
        full = [scipy.signal.correlate2d(plane, kernel, mode="valid") for plane in x]
        expected = 3 * np.stack(full)[:, ::factor, ::factor]
        down = filters.downsample(torch.from_numpy(x)[None], torch.from_numpy(given), factor, gain=3.0)
        np.testing.assert_allclose(down[0].numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("spec", [TINY, TINY_R])
@pytest.mark.parametrize("index", [0, 5, 13])
def test_filtered_lrelu_is_the_dense_reference(spec: StyleGAN3Spec, index: int) -> None:
    shape = spec.layers[index]
    design = filters.radial_low_pass if shape.radial else filters.low_pass
    up = filters.low_pass(shape.up_taps, shape.source.cutoff, 2 * shape.source.half_width, shape.inner_rate)
    down = design(shape.down_taps, shape.target.cutoff, 2 * shape.target.half_width, shape.inner_rate)
    side = shape.source.size + shape.kernel - 1
    # Large enough that some samples reach the limit of 256.
    x = np.random.default_rng(2).normal(size=(2, side, side)) * 200
    out = filters.filtered_lrelu(
        torch.from_numpy(x)[None].clone(), torch.from_numpy(up), torch.from_numpy(down),
        shape.up, shape.down, shape.border,
    )[0].numpy()  # fmt: skip
    expected = reference.nonlinearity(x, spec, index, shape.kernel)
    assert out.shape == (2, shape.target.size, shape.target.size)
    np.testing.assert_allclose(out, expected, rtol=1e-9, atol=1e-9)


def test_values_beyond_the_limit_are_cut() -> None:
    taps = torch.ones(2, dtype=torch.float64) / 2
    x = torch.full((1, 1, 8, 8), 1e6, dtype=torch.float64)
    assert filters.filtered_lrelu(x, taps, taps, 2, 2, -2).max().item() == pytest.approx(256)
    assert filters.filtered_lrelu(-x, taps, taps, 2, 2, -2).min().item() == pytest.approx(-256)


def test_gradients_are_right() -> None:
    shape = TINY.layers[5]
    up = torch.from_numpy(filters.low_pass(shape.up_taps, 5.0, 8.0, 64))
    down = torch.from_numpy(filters.low_pass(shape.down_taps, 5.0, 8.0, 64))
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda v: filters.filtered_lrelu(v * 1, up, down, 4, 2, -2), x)
