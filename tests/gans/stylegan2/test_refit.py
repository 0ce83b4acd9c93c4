from __future__ import annotations

import pytest
import torch

from graftgan.gans.base import build
from graftgan.gans.stylegan2 import StyleGAN2Spec
from graftgan.gans.stylegan2.refit import refit

SPEC = StyleGAN2Spec(
    resolution=64, z_dim=8, w_dim=8, mapping_layers=1, channel_base=256, channel_max=8, label_layers=1
)


def test_a_gan_of_the_right_size_is_left_alone() -> None:
    gan = build(SPEC, seed=0)
    assert refit(gan, 64, 3, seed=1) == (gan, ())


def test_cut_networks_give_the_skip_image_of_the_smaller_size() -> None:
    gan = build(SPEC, seed=0)
    small, new = refit(gan, 32, 3, seed=1)
    assert set(new) == {"discriminator.b32.fromrgb.weight", "discriminator.b32.fromrgb.bias"}
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    ws = gan.generator.mapping(z)
    x = img = None
    for index, resolution in ((0, 4), (1, 8), (3, 16), (5, 32)):
        styles = [ws[:, i] for i in range(index, index + 3)]
        x, img = getattr(gan.generator.synthesis, f"b{resolution}")(x, img, styles, "const")
    assert torch.equal(small.generator(z, noise_mode="const"), img)


def test_grown_networks_keep_every_lower_block_and_agree_on_the_new_one() -> None:
    gan = build(SPEC, seed=0)
    large, new = refit(gan, 128, 3, seed=1)
    assert all(".b128." in name for name in new)
    assert {name.split(".")[0] for name in new} == {"generator", "generator_ema", "discriminator"}
    old = gan.generator.state_dict()
    grown, averaged = large.generator.state_dict(), large.generator_ema.state_dict()
    assert all(torch.equal(grown[name], tensor) for name, tensor in old.items())
    assert all(torch.equal(grown[name], averaged[name]) for name in grown)
    assert large.discriminator(large.generator(torch.randn(2, 8))).shape == (2, 1)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_renew_only_the_layers_that_touch_the_image(channels: int) -> None:
    gan, new = refit(build(SPEC, seed=0), 64, channels, seed=1)
    assert all("torgb" in name or "fromrgb" in name for name in new)
    assert gan.generator(torch.randn(2, 8)).shape == (2, channels, 64, 64)


def test_a_fresh_discriminator_stays_marked_and_seeds_decide() -> None:
    source = build(SPEC, seed=0)
    source.fresh = ("discriminator",)
    first, new = refit(source, 128, 3, seed=1)
    again, _ = refit(source, 128, 3, seed=1)
    other, _ = refit(source, 128, 3, seed=2)
    name = "b128.conv0.weight"
    assert first.fresh == ("discriminator", *(tensor for tensor in new if "generator_ema" not in tensor))
    assert f"generator.synthesis.{name}" in first.fresh
    assert torch.equal(first.discriminator.state_dict()[name], again.discriminator.state_dict()[name])
    assert not torch.equal(first.discriminator.state_dict()[name], other.discriminator.state_dict()[name])
