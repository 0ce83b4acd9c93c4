from __future__ import annotations

import pytest
import torch
from training.nets import equal, everything, recipe

from graftgan.errors import ConfigError
from graftgan.transfer import method
from transfer.families import RESOLVED, UNRESOLVED, count, moved, names, on_meta, small, train, trainer

TOP = ("layers.2", "layers.3", "layers.4")
KEPT = {
    "stylegan2": (("synthesis.b16.", "synthesis.b32."), ("b32.",)),
    "stylegan3": (
        ("synthesis.L0", "synthesis.L1", "synthesis.L2", "synthesis.L3", "synthesis.L4"),
        ("b32.",),
    ),
    "biggan_deep": (tuple(f"generator.{part}." for part in (*TOP, "bn", "conv_to_rgb")), ("blocks.0.",)),
    "biggan": (("blocks.1.", "blocks.2.", "output_layer."), ("blocks.0.",)),
    "resnet_gan": (("resnet_2_", "resnet_3_", "conv_img."), ("resnet_0_", "conv_img.")),
}


@pytest.mark.parametrize("family", RESOLVED)
def test_blocks_near_the_image_keep_their_bits_and_all_else_moves(family: str) -> None:
    run = trainer(family, method="filter_transfer", low_level_from_px=16, low_level_d_from_px=32)
    g, d = moved(run)
    of_g, of_d = KEPT[family]
    assert g == names(run.gan.generator, "") - names(run.gan.generator, *of_g)
    assert d == names(run.gan.discriminator, "") - names(run.gan.discriminator, *of_d)


def test_limits_beyond_the_image_are_full_fine_tuning_bit_for_bit() -> None:
    keys = {"low_level_from_px": 64, "low_level_d_from_px": 64}
    none = train(trainer("stylegan2", method="filter_transfer", **keys))
    assert equal(everything(none), everything(train(trainer("stylegan2"))))


@pytest.mark.parametrize(
    ("groups", "side", "of_g", "of_d"),
    [(2, 128, 194_499, 194_624), (3, 64, 965_059, 965_312), (4, 32, 4_046_275, 4_046_784),
     (5, 16, 16_369_091, 16_370_112), (6, 8, 54_121_923, 54_122_944), (7, 4, 91_874_755, 91_875_776)],
)  # fmt: skip
def test_the_groups_of_the_published_network(groups: int, side: int, of_g: int, of_d: int) -> None:
    gan = on_meta("resnet_gan", resolution=128, variant="resnet2", embed_dim=1)
    keys = {"low_level_from_px": side, "low_level_d_from_px": side}
    method("filter_transfer").apply(gan, recipe(method="filter_transfer", **keys))
    assert (count(gan.generator, False), count(gan.discriminator, False)) == (of_g, of_d)
    assert count(gan.generator) == 96_101_828 - of_g
    assert count(gan.discriminator) == 91_892_161 - of_d


def test_left_alone_the_limits_are_the_published_g4_and_d2() -> None:
    gan = on_meta("resnet_gan", resolution=128, variant="resnet2", embed_dim=1)
    method("filter_transfer").apply(gan, recipe(method="filter_transfer"))
    assert (count(gan.generator, False), count(gan.discriminator, False)) == (4_046_275, 194_624)


def test_the_averaged_network_keeps_them_too() -> None:
    run = train(trainer("stylegan2", method="filter_transfer", low_level_from_px=16))
    source = small("stylegan2").generator_ema.state_dict()
    for name, parameter in run.gan.generator_ema.named_parameters():
        if name.startswith(KEPT["stylegan2"][0]) and not name.endswith("noise_strength"):
            assert torch.equal(parameter, source[name]), name


@pytest.mark.parametrize("family", UNRESOLVED)
def test_a_family_without_sizes_is_refused(family: str) -> None:
    with pytest.raises(ConfigError, match=rf"finetune.method=filter_transfer .* family={family}"):
        method("filter_transfer").apply(small(family), recipe(method="filter_transfer"))
