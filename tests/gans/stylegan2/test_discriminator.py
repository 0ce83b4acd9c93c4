from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graftgan.gans.stylegan2 import StyleGAN2Spec
from graftgan.gans.stylegan2.discriminator import Conv, StyleGAN2Discriminator, minibatch_stddev

from . import reference
from .sizes import DEMO, TINY


def _discriminator(spec: StyleGAN2Spec = TINY, seed: int = 0) -> StyleGAN2Discriminator:
    torch.manual_seed(seed)
    net = StyleGAN2Discriminator(spec)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return net


@pytest.mark.parametrize("classes", [0, 3])
def test_matches_the_reference(classes: int) -> None:
    spec = dataclasses.replace(TINY, classes=classes)
    net = _discriminator(spec).double()
    state = {k: v.detach() for k, v in net.state_dict().items()}
    img = torch.randn(8, 3, 32, 32, dtype=torch.float64)
    labels = torch.arange(8) % 3 if classes else None
    expected = reference.discriminator(img, state, spec, labels)
    actual = net(img, labels)
    assert actual.shape == (8, 1)
    assert float(((actual - expected).norm() / expected.norm()).detach()) < 1e-6


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("down", [False, True])
def test_a_gain_may_be_left_to_what_follows(kernel: int, down: bool) -> None:
    torch.manual_seed(0)
    conv = Conv(5, 6, kernel, down=down, gain=0.7).double()
    assert conv.bias is not None
    torch.nn.init.normal_(conv.bias)
    x = torch.randn(2, 5, 8, 8, dtype=torch.float64, requires_grad=True)
    before = 1.7  # what earlier layers left over
    found = conv.ungained(x, before * conv.weight_gain) * before * conv.weight_gain
    expected = conv(before * x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = [x, *conv.parameters()]
    ours, theirs = (torch.autograd.grad(y.square().sum(), weights) for y in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_a_small_range_gets_its_gains_at_once() -> None:
    """Two wide layers without gains exceed what float16 can hold, or what it is limited to."""
    net = _discriminator(DEMO)
    img = torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = net.features(img)
        with torch.autocast("cpu", dtype=torch.float16):
            found = net.features(img)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("n", "group"), [(8, 4), (8, 8), (4, 4), (6, 3), (5, 1)])
def test_minibatch_stddev_matches_the_formula(n: int, group: int) -> None:
    x = torch.randn(n, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(minibatch_stddev(x, group), reference.minibatch_stddev(x, group))


def test_minibatch_stddev_groups_are_strided() -> None:
    x = torch.zeros(8, 2, 4, 4)
    x[0] = 1.0
    y = minibatch_stddev(x, 4)
    touched = [i for i in range(8) if float(y[i, -1, 0, 0]) > 1e-3]
    assert touched == [0, 2, 4, 6]
    # One of four images at 1, the rest at 0: standard deviation sqrt(3) / 4.
    assert float(y[0, -1, 0, 0]) == pytest.approx(3**0.5 / 4)


@pytest.mark.parametrize(("n", "group", "used"), [(6, 4, 3), (7, 4, 1), (2, 4, 2), (1, 4, 1), (10, 4, 2)])
def test_minibatch_stddev_falls_back_to_a_divisor(n: int, group: int, used: int) -> None:
    x = torch.randn(n, 2, 4, 4)
    assert torch.equal(minibatch_stddev(x, group), minibatch_stddev(x, used))


def test_minibatch_stddev_gradient_is_finite_for_equal_images() -> None:
    x = torch.ones(4, 2, 4, 4, requires_grad=True)
    minibatch_stddev(x, 4).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_split_keeps_the_parts_apart() -> None:
    net = _discriminator().double()
    fake, real = torch.randn(2, 8, 3, 32, 32, dtype=torch.float64)
    together = net(torch.cat([fake, real * 2]), mbstd_split=2)
    torch.testing.assert_close(together, torch.cat([net(fake), net(real * 2)]))
    assert not torch.allclose(together, net(torch.cat([fake, real * 2])))


def test_split_must_divide_the_batch() -> None:
    with pytest.raises(ValueError, match="does not divide"):
        _discriminator()(torch.zeros(3, 3, 32, 32), mbstd_split=2)


def test_features_feed_the_last_linear_layer() -> None:
    net = _discriminator()
    img = torch.randn(4, 3, 32, 32)
    features = net.features(img)
    assert features.shape == (4, TINY.width(4))
    torch.testing.assert_close(net(img), net.b4.out(features))
    torch.testing.assert_close(net(img), net.logits(features))


def test_labels_matter_and_are_required() -> None:
    net = _discriminator(dataclasses.replace(TINY, classes=3))
    img = torch.randn(4, 3, 32, 32)
    zero, one = (net(img, torch.full((4,), c)) for c in (0, 1))
    assert not torch.allclose(zero, one)
    with pytest.raises(ValueError, match="3 classes"):
        net(img)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels(channels: int) -> None:
    net = _discriminator(dataclasses.replace(TINY, channels=channels))
    assert net(torch.randn(4, channels, 32, 32)).shape == (4, 1)
    with pytest.raises(ValueError, match="images of shape"):
        net(torch.randn(4, 3, 32, 32))


@pytest.mark.parametrize("resolution", StyleGAN2Spec.RESOLUTIONS)
def test_every_resolution_runs_on_meta(resolution: int) -> None:
    with torch.device("meta"):
        net = StyleGAN2Discriminator(StyleGAN2Spec(resolution=resolution, channel_base=16384))
        logits = net(torch.randn(4, 3, resolution, resolution), mbstd_split=2)
    assert logits.shape == (4, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_activations_stay_channels_last(channels: int) -> None:
    net = _discriminator(dataclasses.replace(DEMO, channels=channels))
    seen: list[bool] = []

    def look(module: torch.nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        seen.append(out.is_contiguous(memory_format=torch.channels_last))

    for resolution in (32, 16, 8):
        net.get_submodule(f"b{resolution}").register_forward_hook(look)
    net(torch.randn(2, channels, 32, 32))
    assert seen == [True] * 3


def _r1(net: StyleGAN2Discriminator, img: Tensor) -> Tensor:
    leaf = img.clone().requires_grad_()
    (grad,) = torch.autograd.grad(net(leaf).sum(), leaf, create_graph=True)
    return grad.square().sum((1, 2, 3)).mean()


def test_image_gradient_matches_finite_differences() -> None:
    net = _discriminator().double()
    img = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    leaf = img.clone().requires_grad_()
    (grad,) = torch.autograd.grad(net(leaf).sum(), leaf)
    for seed in range(3):
        step = torch.randn(img.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        slope = (net(img + 1e-6 * step) - net(img - 1e-6 * step)).sum() / 2e-6
        assert float((grad * step).sum()) == pytest.approx(float(slope.detach()), rel=1e-5)


def test_r1_gradient_matches_finite_differences_for_every_parameter() -> None:
    net = _discriminator().double()
    img = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    named = [(n, p) for n, p in net.named_parameters() if n != "b4.out.bias"]
    grads = torch.autograd.grad(
        _r1(net, img), [p for _, p in named], materialize_grads=True, allow_unused=True
    )
    for (name, parameter), grad in zip(named, grads, strict=True):
        step = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        values = []
        for sign in (1e-7, -1e-7):
            with torch.no_grad():
                parameter.add_(step, alpha=sign)
            values.append(float(_r1(net, img).detach()))
            with torch.no_grad():
                parameter.sub_(step, alpha=sign)
        slope = (values[0] - values[1]) / 2e-7
        assert float((grad * step).sum()) == pytest.approx(slope, rel=2e-3, abs=1e-5), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_and_r1_agrees(dtype: torch.dtype) -> None:
    net = _discriminator(DEMO)
    img = torch.randn(8, 3, 32, 32)
    full = net(img)
    penalty = _r1(net, img)
    with torch.autocast("cpu", dtype):
        half = net(img)
        half_penalty = _r1(net, img)
    assert half.dtype is torch.float32
    assert float(((half - full).norm() / full.norm()).detach()) < 0.05
    assert float(half_penalty.detach()) == pytest.approx(float(penalty.detach()), rel=0.02)
    half_penalty.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_learns_to_tell_bright_from_dark() -> None:
    net = _discriminator(seed=3)
    optimiser = torch.optim.Adam(net.parameters(), 0.01, betas=(0.0, 0.99))
    bright, dark = torch.rand(8, 3, 32, 32), -torch.rand(8, 3, 32, 32)
    for _ in range(25):
        with torch.autocast("cpu", torch.bfloat16):
            first, second = net(torch.cat([bright, dark]), mbstd_split=2).chunk(2)
        loss = F.softplus(-first).mean() + F.softplus(second).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.1
