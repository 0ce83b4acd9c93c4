from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from graftgan.gans.stylegan2 import StyleGAN2Spec
from graftgan.gans.stylegan2.generator import StyleGAN2Generator, Synthesis, SynthesisLayer, ToRGB

from . import reference
from .sizes import DEMO, TINY


def _generator(spec: StyleGAN2Spec = TINY, seed: int = 0) -> StyleGAN2Generator:
    """A generator with every parameter away from its start: noise on, biases not zero."""
    torch.manual_seed(seed)
    net = StyleGAN2Generator(spec)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(("noise_strength", "bias")):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return net


@pytest.mark.parametrize("up", [False, True])
def test_layer_matches_per_image_weights(up: bool) -> None:
    layer = SynthesisLayer(5, 7, 6, 16 if up else 8, up=up)
    with torch.no_grad():
        layer.bias.normal_()
        layer.noise_strength.fill_(0.4)
    x, w = torch.randn(3, 5, 8, 8), torch.randn(3, 6)
    state = {f"l.{k}": v.detach().double() for k, v in layer.state_dict().items()}
    expected = torch.stack(
        [
            reference.layer(a.double(), b.double(), state, "l", up, noise=True)
            for a, b in zip(x, w, strict=True)
        ]
    )
    actual = layer(x.contiguous(memory_format=torch.channels_last), w, "const").double()
    assert float(((actual - expected).norm() / expected.norm()).detach()) < 1e-5


def test_layer_output_has_unit_scale_whatever_the_style() -> None:
    torch.manual_seed(0)
    layer = SynthesisLayer(32, 32, 8, 16)
    x, w = torch.randn(8, 32, 16, 16), torch.randn(8, 8)
    for scale in (0.01, 1.0, 100.0):
        with torch.no_grad():
            layer.affine.bias.fill_(scale)
            layer.affine.weight.normal_().mul_(scale)
        # E[lrelu(t)^2] * 2 = 1.04 for t ~ N(0, 1); the border sees padding.
        assert float(layer(x, w, "none").detach()[..., 1:-1, 1:-1].square().mean()) == pytest.approx(
            1.04, rel=0.1
        )


def test_to_rgb_matches_per_image_weights() -> None:
    layer = ToRGB(5, 6, 3)
    with torch.no_grad():
        layer.bias.normal_()
    x, w = torch.randn(3, 5, 4, 6), torch.randn(3, 6)
    state = {f"l.{k}": v.detach().double() for k, v in layer.state_dict().items()}
    expected = torch.stack(
        [reference.to_rgb(a.double(), b.double(), state, "l") for a, b in zip(x, w, strict=True)]
    )
    torch.testing.assert_close(layer(x, w).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("noise", [True, False])
def test_whole_generator_matches_the_reference(noise: bool) -> None:
    net = _generator().double().eval()
    state = {k: v.detach() for k, v in net.state_dict().items()}
    z = torch.randn(2, TINY.z_dim, dtype=torch.float64)
    ws = net.mapping(z)
    ws = ws + torch.randn_like(ws) * 0.5
    expected = torch.stack([reference.synthesis(one, state, 32, noise) for one in ws.detach()])
    actual = net.synthesis(ws, "const" if noise else "none")
    assert float(((actual - expected).norm() / expected.norm()).detach()) < 1e-6


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_and_layout(channels: int) -> None:
    net = _generator(dataclasses.replace(TINY, channels=channels))
    img = net(torch.randn(2, TINY.z_dim))
    assert img.shape == (2, channels, 32, 32)
    assert img.dtype is torch.float32


@pytest.mark.parametrize("resolution", StyleGAN2Spec.RESOLUTIONS)
def test_every_resolution_runs_on_meta(resolution: int) -> None:
    spec = StyleGAN2Spec(resolution=resolution, channel_base=16384, classes=10)
    with torch.device("meta"):
        net = StyleGAN2Generator(spec)
        img = net(torch.randn(2, 512), torch.zeros(2, dtype=torch.long).float()[:, None].expand(2, 10))
    assert img.shape == (2, 3, resolution, resolution)


def test_forward_is_synthesis_of_mapping() -> None:
    net = _generator().eval()
    z = torch.randn(3, TINY.z_dim)
    assert torch.equal(net(z, None, 0.7, "const"), net.synthesis(net.mapping(z, None, 0.7), "const"))


def test_noise_modes() -> None:
    net = _generator().eval()
    ws = net.mapping(torch.randn(2, TINY.z_dim))
    assert torch.equal(net.synthesis(ws, "const"), net.synthesis(ws, "const"))
    assert not torch.equal(net.synthesis(ws, "random"), net.synthesis(ws, "random"))
    silent = net.synthesis(ws, "none")
    assert not torch.equal(silent, net.synthesis(ws, "const"))
    for name, buffer in net.named_buffers():
        if name.endswith("noise_const"):
            buffer.zero_()
    torch.testing.assert_close(net.synthesis(ws, "const"), silent)


def test_random_noise_differs_between_images() -> None:
    net = _generator().eval()
    img = net.synthesis(net.mapping(torch.ones(2, TINY.z_dim)), "random")
    assert not torch.allclose(img[0], img[1])


def test_truncation_zero_is_the_same_image_for_all() -> None:
    net = _generator().eval()
    img = net(torch.randn(4, TINY.z_dim), None, 0.0, "const")
    torch.testing.assert_close(img, img[:1].expand_as(img))


def test_wrong_shape_of_ws_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \[N, 8, 12\]"):
        Synthesis(TINY)(torch.zeros(2, 7, 12))


def test_every_w_reaches_the_image() -> None:
    net = _generator().eval()
    ws = net.mapping(torch.randn(1, TINY.z_dim)).detach().requires_grad_()
    net.synthesis(ws, "const").square().sum().backward()
    assert ws.grad is not None
    assert (ws.grad.abs().amax((0, 2)) > 0).all()


def test_style_mixing() -> None:
    net = _generator()
    z = torch.randn(5, TINY.z_dim)
    same = net.mixed_styles(z, mixing_prob=0.0)
    torch.testing.assert_close(same, net.mapping(z))
    cutoffs = set()
    for _ in range(60):
        before = net.mapping.w_avg.clone()
        ws = net.mixed_styles(z, mixing_prob=1.0)
        torch.testing.assert_close(net.mapping.w_avg, before.lerp(same[:, 0].detach().mean(0), 0.002))
        kept = (ws == same).all(2)
        assert (kept == kept[:1]).all()
        cutoff = int(kept[0].sum())
        assert kept[0, :cutoff].all()
        cutoffs.add(cutoff)
    assert cutoffs == set(range(1, TINY.num_ws))


def test_style_mixing_keeps_its_probability() -> None:
    net = _generator().eval()
    z = torch.randn(1, TINY.z_dim)
    torch.manual_seed(0)
    mixed = sum(not torch.equal(ws[:, 0], ws[:, -1]) for ws in (net.mixed_styles(z) for _ in range(300)))
    assert 0.84 < mixed / 300 < 0.96


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite_and_close(dtype: torch.dtype) -> None:
    net = _generator(DEMO).eval()
    ws = net.mapping(torch.randn(8, 128)).detach().requires_grad_()
    full = net.synthesis(ws, "const")
    with torch.autocast("cpu", dtype):
        half = net.synthesis(ws, "const")
    assert half.dtype is torch.float32
    assert torch.isfinite(half).all()
    assert not torch.equal(half, full)
    assert float(((half - full).norm() / full.norm()).detach()) < 0.02
    grads = [torch.autograd.grad(img.square().sum(), ws)[0] for img in (full, half)]
    cosine = torch.nn.functional.cosine_similarity(grads[0].flatten(), grads[1].flatten(), dim=0)
    assert float(cosine) > 0.995


def test_float16_survives_huge_styles() -> None:
    layer = SynthesisLayer(64, 64, 8, 8)
    x = torch.randn(2, 64, 8, 8) * 50
    w = torch.randn(2, 8)
    with torch.no_grad():
        layer.affine.bias.fill_(3000.0)
    expected = layer(x, w, "none").clamp(-256, 256)
    with torch.autocast("cpu", torch.float16):
        actual = layer(x.half(), w, "none")
    assert actual.dtype is torch.float16
    torch.testing.assert_close(actual.float(), expected, rtol=0.02, atol=1.0)


def test_path_length_gradient_matches_finite_differences() -> None:
    net = _generator().double().eval()
    ws = net.mapping(torch.randn(2, TINY.z_dim, dtype=torch.float64)).detach()
    direction = torch.randn(2, 3, 32, 32, dtype=torch.float64)

    def path_length() -> Tensor:
        leaf = ws.clone().requires_grad_()
        img = net.synthesis(leaf, "const")
        (grad,) = torch.autograd.grad((img * direction).sum(), leaf, create_graph=True)
        return grad.square().sum(2).mean(1).sqrt().mean()

    names = ["synthesis.b8.conv0.weight", "synthesis.b16.conv1.affine.weight", "synthesis.b32.torgb.weight"]
    parameters = dict(net.named_parameters())
    grads = torch.autograd.grad(path_length(), [parameters[n] for n in names])
    for name, grad in zip(names, grads, strict=True):
        step = torch.randn_like(grad)
        values = []
        for sign in (1e-6, -1e-6):
            with torch.no_grad():
                parameters[name].add_(step, alpha=sign)
            values.append(float(path_length().detach()))
            with torch.no_grad():
                parameters[name].sub_(step, alpha=sign)
        assert float((grad * step).sum()) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)


def test_activations_stay_channels_last() -> None:
    net = _generator(DEMO)
    seen: list[bool] = []

    def look(module: torch.nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        seen.append(out.is_contiguous(memory_format=torch.channels_last))

    for module in net.modules():
        if isinstance(module, SynthesisLayer):
            module.register_forward_hook(look)
    net(torch.randn(2, 128))
    assert len(seen) == 7
    assert all(seen)


def test_starts_with_images_of_moderate_contrast() -> None:
    torch.manual_seed(0)
    img = StyleGAN2Generator(DEMO)(torch.randn(8, 128))
    # Four blocks add images of roughly unit variance, each later smoothed.
    assert 0.3 < float(img.detach().std()) < math.sqrt(5)


def test_without_noise_the_layout_stays_and_nothing_is_drawn() -> None:
    torch.manual_seed(0)
    noisy = SynthesisLayer(5, 7, 6, 8)
    torch.manual_seed(0)
    silent = SynthesisLayer(5, 7, 6, 8, noise=False)
    assert noisy.state_dict().keys() == silent.state_dict().keys()
    x, w = torch.randn(2, 5, 8, 8), torch.randn(2, 6)
    with torch.no_grad():
        noisy.noise_strength.fill_(1.0)
        silent.noise_strength.fill_(1.0)
    before = torch.get_rng_state()
    out = silent(x, w)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(out, noisy(x, w, "none"))
    assert not torch.equal(out, noisy(x, w))
    out.sum().backward()
    assert silent.noise_strength.grad is None
