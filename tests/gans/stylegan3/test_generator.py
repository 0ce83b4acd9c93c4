from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftgan.gans.stylegan3 import StyleGAN3Generator, StyleGAN3Spec
from graftgan.gans.stylegan3.generator import FourierInput, SynthesisLayer

from . import reference
from .sizes import SHORT, TINY, TINY_R


def _lively(spec: StyleGAN3Spec, seed: int = 0) -> StyleGAN3Generator:
    """A generator in evaluation mode whose every tensor matters: biases, motion, magnitudes."""
    torch.manual_seed(seed)
    net = StyleGAN3Generator(spec).eval()
    rng = torch.Generator().manual_seed(seed + 1)
    for name, tensor in net.state_dict().items():
        noise = torch.randn(tensor.shape, generator=rng, dtype=tensor.dtype)
        if name.endswith("magnitude_ema"):
            tensor.copy_(0.3 + 0.2 * noise.square())
        elif name.endswith(".bias") or "input.affine" in name:
            tensor.add_(0.3 * noise)
    net.synthesis.input.transform.copy_(torch.tensor([[1.3, -0.9, 0.1], [0.9, 1.3, -0.2], [0, 0, 1]]))
    return net


def _double(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in net.state_dict().items()}


ODD = dataclasses.replace(
    SHORT, num_critical=1, channels=4, margin_size=4, first_cutoff=1.5, first_stopband=4.0,
    last_stopband_rel=1.4,
)  # fmt: skip


@pytest.mark.parametrize(
    "spec", [TINY, dataclasses.replace(TINY_R, num_layers=5), ODD], ids=["t", "r", "odd"]
)
def test_images_are_those_of_the_reference(spec: StyleGAN3Spec) -> None:
    net = _lively(spec)
    z = torch.randn(2, spec.z_dim)
    with torch.no_grad():
        img = net(z)
    expected = reference.generator(z.double(), _double(net), spec)
    assert img.shape == (2, spec.channels, 32, 32)
    assert expected.std() > 0.01
    assert (img - expected).abs().max() < 1e-5 * expected.abs().max()


def test_double_precision_is_as_close_as_the_filters_are() -> None:
    spec = dataclasses.replace(SHORT, num_layers=3, channel_max=4)
    net = _lively(spec).double()
    z = torch.randn(1, spec.z_dim, dtype=torch.float64)
    with torch.no_grad():
        img = net(z)
    expected = reference.generator(z, net.state_dict(), spec)
    assert (img - expected).abs().max() < 3e-7 * expected.abs().max()


def test_every_layer_takes_its_own_w() -> None:
    net = _lively(SHORT)
    ws = torch.randn(2, SHORT.num_ws, SHORT.w_dim)
    with torch.no_grad():
        img = net.synthesis(ws)
    expected = reference.synthesis(ws.double(), _double(net), SHORT)
    assert (img - expected).abs().max() < 1e-5 * expected.abs().max()
    with pytest.raises(ValueError, match=r"expected \[N, 6, 12\]"):
        net.synthesis(ws[:, 1:])


def test_frequencies_fill_the_disc_evenly() -> None:
    torch.manual_seed(0)
    signal = dataclasses.replace(TINY.signals[0], channels=4000)
    with torch.device("cpu"):
        layer = FourierInput(signal, w_dim=2)
    radius = layer.freqs.norm(dim=1)
    assert radius.max() <= signal.cutoff
    assert (radius < signal.cutoff / 2).float().mean() == pytest.approx(0.25, abs=0.03)
    assert layer.freqs.mean(0).norm() < 0.05
    assert layer.phases.abs().max() <= 0.5


def test_a_new_input_ignores_w_and_does_not_move() -> None:
    torch.manual_seed(0)
    layer = FourierInput(TINY.signals[0], w_dim=4)
    out = layer(torch.randn(2, 4))
    assert torch.equal(out[0], out[1])
    x = (np.arange(36) + 0.5 - 18) / 16
    freqs, phases = layer.freqs.numpy(), layer.phases.numpy()
    turns = x[None, None, :] * freqs[:, :1, None] + x[None, :, None] * freqs[:, 1:, None]
    waves = np.sin(2 * np.pi * (turns + phases[:, None, None]))
    weight = layer.weight.detach().numpy() / math.sqrt(8)
    np.testing.assert_allclose(out[0].detach().numpy(), np.einsum("oc,chw->ohw", weight, waves), atol=1e-5)


def test_magnitude_follows_the_input_in_training_only() -> None:
    layer = SynthesisLayer(SHORT.layers[0], w_dim=4)
    x, w = torch.randn(2, 8, 36, 36) * 3, torch.randn(2, 4)
    layer.eval()(x, w)
    assert layer.magnitude_ema == 1
    layer.train()(x, w)
    layer(x, w)
    mean = x.square().mean()
    assert layer.magnitude_ema.item() == pytest.approx((mean - 0.999**2 * (mean - 1)).item(), rel=1e-6)


def test_scales_of_weight_style_and_input_cancel() -> None:
    layer = SynthesisLayer(SHORT.layers[1], w_dim=4).eval()
    x, w = torch.randn(2, 8, 36, 36), torch.randn(2, 4)
    with torch.no_grad():
        before = layer(x, w)
        layer.weight *= 7
        layer.affine.weight *= 5
        layer.affine.bias *= 5
        layer.magnitude_ema *= 9
        after = layer(x * 3, w)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def _measure(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    cast(Tensor, layer.magnitude_ema).copy_(inputs[0].square().mean())


def _calibrated(spec: StyleGAN3Spec, seed: int) -> StyleGAN3Generator:
    """A generator whose magnitudes are those of its signals, as after training."""
    torch.manual_seed(seed)
    net = StyleGAN3Generator(spec).eval().requires_grad_(False)
    hooks = []
    for layer in list(net.synthesis.children())[1:]:
        assert isinstance(layer, SynthesisLayer)
        layer.bias.normal_(0, 0.5)
        hooks.append(layer.register_forward_pre_hook(_measure))
    net(torch.randn(2, spec.z_dim))
    for hook in hooks:
        hook.remove()
    return net


def _moved(net: StyleGAN3Generator, z: Tensor, pixels: float = 0.0, angle: float = 0.0) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    shift = pixels / net.spec.resolution
    net.synthesis.input.transform.copy_(torch.tensor([[cos, -sin, shift], [sin, cos, 0], [0, 0, 1]]))
    img: Tensor = net(z)
    return img


def _spatial_rms(img: Tensor) -> float:
    return float((img - img.mean((2, 3), keepdim=True)).square().mean().sqrt())


def _resampled(img: Tensor, shift: float) -> Tensor:
    """Lower half of the band, read ``shift`` pixels to the right; 8 pixels go on both sides."""
    places = np.arange(-8, 9) - shift
    window = np.interp(places, np.linspace(-9, 9, 2001), np.kaiser(2001, 6.0))
    kernel = torch.tensor(0.5 * np.sinc(0.5 * places) * window, dtype=img.dtype)
    n, channels, height, width = img.shape
    return F.conv2d(img.reshape(-1, 1, height, width), kernel.view(1, 1, 1, -1)).view(n, channels, height, -1)


def _box_filters(net: StyleGAN3Generator) -> None:
    """Replace the low-pass filters by those of nearest-neighbour resizing."""
    for layer in list(net.synthesis.children())[1:-1]:
        assert isinstance(layer, SynthesisLayer)
        for taps, width in ((layer.up_filter, layer.shape.up), (layer.down_filter, layer.shape.down)):
            taps.zero_()[len(taps) // 2 - width // 2 : len(taps) // 2 + width // 2] = 1 / width


def _half_pixel_error(net: StyleGAN3Generator, z: Tensor) -> float:
    still, moved = _moved(net, z), _moved(net, z, pixels=2.5)
    assert _spatial_rms(moved - still) > 0.2 * _spatial_rms(still)
    difference = _resampled(moved[..., :-2], 0.0) - _resampled(still[..., 2:], 0.5)
    return _spatial_rms(difference) / _spatial_rms(still)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_picture_moves_by_fractions_of_a_pixel(seed: int) -> None:
    """Moved by 2.5 px, the picture is the shifted one to 0.2 % of its contrast; 9 % with box filters."""
    net = _calibrated(TINY, seed)
    z = torch.randn(2, TINY.z_dim)
    assert _half_pixel_error(net, z) < 0.005
    _box_filters(net)
    assert _half_pixel_error(net, z) > 0.03


def test_the_picture_moves_by_whole_pixels() -> None:
    net = _calibrated(TINY_R, seed=0)
    z = torch.randn(2, TINY.z_dim)
    still, moved = _moved(net, z), _moved(net, z, pixels=3)
    assert _spatial_rms(moved[..., :-3] - still[..., 3:]) < 0.005 * _spatial_rms(still)


@pytest.mark.parametrize(("spec", "turns"), [(TINY_R, True), (TINY, False)], ids=["r", "t"])
def test_variant_r_turns_with_its_input(spec: StyleGAN3Spec, turns: bool) -> None:
    net = _calibrated(spec, seed=0)
    z = torch.randn(2, spec.z_dim)
    still, turned = _moved(net, z), _moved(net, z, angle=math.pi / 2)
    error = _spatial_rms(turned - still.rot90(1, (2, 3))) / _spatial_rms(still)
    assert error < 1e-3 if turns else error > 0.05


def test_gradients_reach_every_parameter_twice() -> None:
    net = StyleGAN3Generator(SHORT)
    torch.nn.init.normal_(net.synthesis.input.affine.weight)
    ws = net.mapping(torch.randn(2, SHORT.z_dim))
    img = net.synthesis(ws)
    (slope,) = torch.autograd.grad((img * torch.randn_like(img)).sum(), ws, create_graph=True)
    (img.square().sum() + slope.square().sum()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, name


def test_noise_mode_and_batch_have_no_influence() -> None:
    net = _lively(SHORT)
    z = torch.randn(4, SHORT.z_dim)
    with torch.no_grad():
        whole = net(z)
        assert torch.equal(net(z, noise_mode="none"), whole)
        torch.testing.assert_close(torch.cat([net(z[:1]), net(z[1:])]), whole, rtol=1e-4, atol=1e-5)


def test_truncation_ends_at_the_mean_image() -> None:
    net = _lively(SHORT)
    net.mapping.w_avg.normal_()
    z = torch.randn(2, SHORT.z_dim)
    with torch.no_grad():
        mean = net.synthesis(net.mapping.w_avg.expand(1, SHORT.num_ws, -1))
        none = net(z, truncation_psi=0.0)
        torch.testing.assert_close(none, mean.expand(2, -1, -1, -1), rtol=1e-4, atol=1e-5)


def test_mixing_changes_later_layers() -> None:
    net = _lively(SHORT)
    z = torch.randn(2, SHORT.z_dim)
    torch.manual_seed(0)
    ws, mixed = net.mapping(z), net.mixed_styles(z, mixing_prob=1.0)
    same = [torch.equal(a, b) for a, b in zip(ws.unbind(1), mixed.unbind(1), strict=True)]
    assert same[0] and not same[-1] and same == sorted(same, reverse=True)
    assert torch.equal(net.mixed_styles(z, mixing_prob=0.0), ws)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(dtype: torch.dtype) -> None:
    net = _lively(SHORT)
    z = torch.randn(2, SHORT.z_dim)
    with torch.no_grad():
        exact = net(z)
        with torch.autocast("cpu", dtype):
            half = net(z)
    assert half.dtype is torch.float32
    assert (half - exact).abs().mean() < 0.03 * exact.abs().mean()


def _identity(module: nn.Module) -> nn.Module:
    return module


@pytest.mark.parametrize("prepare", [_identity, lambda net: net.to(memory_format=torch.channels_last)])
def test_conditional_generator_separates_classes(prepare: Callable[[nn.Module], nn.Module]) -> None:
    net = prepare(_lively(dataclasses.replace(SHORT, classes=3)))
    z = torch.randn(1, SHORT.z_dim).expand(2, -1)
    with torch.no_grad():
        img = net(z, torch.tensor([0, 2]))
    assert not torch.allclose(img[0], img[1])
