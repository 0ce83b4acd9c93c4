from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from graftgan.errors import ConfigError
from graftgan.gans.base import build, parameter_count, sample
from graftgan.gans.resnet_gan import ResnetGanSpec, ResnetGenerator
from graftgan.gans.resnet_gan.head import AdaIN, HeadNorm, Noise, SmallHead, StyleBlock, scale_capped
from graftgan.gans.spec import GanSpec

SMALL = {"resolution": 32, "z_dim": 8, "embed_dim": 2, "nfilter": 4, "nfilter_max": 8, "nfilter_max_d": 8}


def spec(**changes: object) -> ResnetGanSpec:
    return ResnetGanSpec.from_sizes({**SMALL, "stages": 4, "head_px": 16, **changes})


def test_parts_of_the_published_head_count_as_published() -> None:
    with torch.device("meta"):
        head = SmallHead(256, 512, 4, 16, 0.01)
    parts = {name: parameter_count(child) for name, child in head.named_children()}
    assert parts == {
        "mapping": 526_336, "fc": 2_105_344, "net_2": 11_276_288, "net_3": 11_276_288, "norm": 1_536,
    }  # fmt: skip
    # The published count has the unused embedding of one label, too.
    assert parameter_count(head) + 1 == 25_185_793


def test_styles_do_not_see_the_length_of_z_and_the_first_layer_does() -> None:
    head, z = SmallHead(8, 4, 4, 8, 0.01), torch.randn(3, 8)
    torch.testing.assert_close(head.mapping(5 * z), head.mapping(z), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(head.fc(5 * z), head.fc(z))
    w = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for layer in head.mapping.layers:
        w = F.leaky_relu(w @ layer.weight.t() + layer.bias, 0.2)
    torch.testing.assert_close(head.mapping(z), w)


def test_the_scale_is_whole_forward_and_capped_backward() -> None:
    x, gamma = (
        torch.tensor([1.0, 2.0, 3.0], requires_grad=True),
        torch.tensor([0.5, 4.0, -7.0], requires_grad=True),
    )
    y = scale_capped(x, gamma)
    assert torch.equal(y, x * gamma)
    y.sum().backward()
    assert x.grad is not None and gamma.grad is not None
    assert x.grad.tolist() == [0.5, 1.0, -1.0]
    assert gamma.grad.tolist() == x.detach().tolist()


def test_adain_is_instance_norm_with_the_styles_scale_and_shift() -> None:
    layer, x, w = AdaIN(4), torch.randn(2, 4, 5, 5), torch.randn(2, 256)
    assert layer.linear.bias.tolist() == [1.0] * 4 + [0.0] * 4
    assert float(layer.linear.weight.detach().std()) == pytest.approx(0.1, rel=0.1)
    gamma, beta = layer.linear(w).chunk(2, 1)
    normal = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(layer(x, w), normal * gamma[..., None, None] + beta[..., None, None])


def test_the_head_norm_is_the_formula_and_lets_its_gain_of_the_gradient_through() -> None:
    layer, x = HeadNorm(3, 4, 0.01), torch.randn(2, 3, 4, 4, requires_grad=True)
    assert float(layer.scale.detach().mean()) == pytest.approx(1000, abs=5)
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    n = F.layer_norm(x, (4, 4), layer.weight, layer.bias)
    expected = 0.01 * n + n * layer.scale[:, None, None] + layer.shift[:, None, None]
    upstream = torch.randn_like(x)
    torch.testing.assert_close(layer(x), expected)
    (gradient,) = torch.autograd.grad(layer(x), x, upstream)
    (plain,) = torch.autograd.grad(n, x, upstream)
    torch.testing.assert_close(gradient, 0.01 * plain)


def test_a_calibrated_norm_has_the_means_and_deviations_it_was_given() -> None:
    layer = HeadNorm(3, 16, 0.01)
    mean, deviation = torch.tensor([5.0, -3.0, 0.0]), torch.tensor([2.0, 30.0, 700.0])
    layer.calibrate(mean, deviation)
    out = layer(torch.randn(8, 3, 16, 16) * 4 + 1).detach()
    torch.testing.assert_close(out.mean((0, 2, 3)), mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(out.std((0, 2, 3)), deviation, rtol=0.01, atol=0.0)


def test_a_block_doubles_the_size_and_its_noise_follows_the_mode() -> None:
    block, x, w = StyleBlock(4, 8), torch.randn(2, 4, 4, 4), torch.randn(2, 256)
    assert block.conv_s.bias is None and not block.conv_1.bias.detach().any()
    assert block(x, w, "none").shape == (2, 4, 8, 8)
    assert torch.equal(block(x, w, "const"), block(x, w, "const"))
    assert not torch.equal(block(x, w, "random"), block(x, w, "random"))
    noise, zeros = Noise(4, 8), torch.zeros(2, 4, 8, 8)
    torch.testing.assert_close(noise(zeros, "const")[1, 2], noise.const * noise.strength[2])


def test_the_network_ends_in_the_plain_ones_blocks() -> None:
    gan, plain = build(spec(), 0), build(spec(head_px=0), 0)
    generator, whole = gan.generator, plain.generator
    assert isinstance(generator, ResnetGenerator) and isinstance(whole, ResnetGenerator)
    rest = {n for n in generator.state_dict() if not n.startswith("small.")}
    assert rest == {n for n in whole.state_dict() if not n.startswith(("fc.", "resnet_0_", "resnet_1_"))}
    whole.load_state_dict({n: t for n, t in generator.state_dict().items() if n in rest}, strict=False)
    z = torch.randn(2, 8)
    x = generator.small(z, "const")
    assert x.shape == (2, 8, 8, 8)
    for stage in (2, 3):
        x = F.interpolate(x, scale_factor=2.0)
        for block in (0, 1):
            x = whole.get_submodule(f"resnet_{stage}_{block}")(x)
    image = torch.tanh(whole.conv_img(F.leaky_relu(x, 0.2)))
    torch.testing.assert_close(generator(z, noise_mode="const"), image)
    assert sample(generator, 2, 0).shape == (2, 32, 32, 3)


def test_before_stage_is_what_the_stage_takes() -> None:
    generator = build(spec(head_px=0), 0).generator
    seen: list[torch.Tensor] = []
    generator.resnet_2_0.register_forward_hook(lambda *call: seen.append(call[1][0]))
    z = torch.randn(2, 8)
    generator(z)
    assert torch.equal(F.interpolate(generator.before_stage(2, z), scale_factor=2.0), seen[0])


def test_specs_without_a_head_are_written_as_before_and_those_with_one_come_back() -> None:
    plain = spec(head_px=0)
    assert not {key for key in plain.to_dict() if key.startswith("head_")}
    assert GanSpec.from_dict(plain.to_dict()) == plain
    assert GanSpec.from_dict(spec(head_grad_gain=0.5).to_dict()) == spec(head_grad_gain=0.5)


@pytest.mark.parametrize(
    "changes", [{"head_px": 4}, {"head_px": 12}, {"head_px": 64}, {"classes": 3}, {"head_grad_gain": 0.0}]
)
def test_heads_that_cannot_be_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="head_"):
        spec(**changes)
