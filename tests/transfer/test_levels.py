from __future__ import annotations

import pytest
from training.nets import recipe

from graftgan.errors import ConfigError
from graftgan.transfer.levels import is_convolution, levels
from transfer.families import RESOLVED, UNRESOLVED, names, on_meta, small


def sides(family: str, network: int) -> dict[int, set[str]]:
    found = levels(small(family), recipe())[network]
    return {side: {name for name in found if found[name] == side} for side in set(found.values())}


def test_stylegan2_names_its_blocks_by_what_they_make_and_read() -> None:
    gan = small("stylegan2")
    assert sides("stylegan2", 0) == {r: names(gan.generator, f"synthesis.b{r}.") for r in (4, 8, 16, 32)}
    assert sides("stylegan2", 1) == {r: names(gan.discriminator, f"b{r}.") for r in (8, 16, 32)}


def test_biggan_doubles_from_the_stem_and_halves_as_its_table_says() -> None:
    gan = small("biggan")
    of_g = {r: names(gan.generator, f"blocks.{i}.") for i, r in enumerate((8, 16, 32))}
    of_g[32] |= names(gan.generator, "output_layer.")
    assert sides("biggan", 0) == of_g
    of_d = {32: ("blocks.0.",), 16: ("blocks.1.",), 8: ("blocks.2.", "blocks.3.")}
    assert sides("biggan", 1) == {r: names(gan.discriminator, *prefixes) for r, prefixes in of_d.items()}


def test_resnet_gan_counts_stages_from_the_latent_in_g_and_from_the_image_in_d() -> None:
    gan = small("resnet_gan")
    for network, order, index in ((gan.generator, (4, 8, 16, 32), 0), (gan.discriminator, (32, 16, 8, 4), 1)):
        expected = {r: names(network, f"resnet_{stage}_") for stage, r in enumerate(order)}
        expected[32] |= names(network, "conv_img.")
        assert sides("resnet_gan", index) == expected


def test_stylegan3_goes_by_samples_a_picture_width_whatever_the_margins() -> None:
    gan = small("stylegan3")
    layers = [f"synthesis.{layer.name}." for layer in gan.spec.layers]
    assert sides("stylegan3", 0) == {
        16: names(gan.generator, layers[0]), 32: names(gan.generator, *layers[1:])
    }  # fmt: skip
    published = on_meta("stylegan3", resolution=256, channel_base=16384)
    of_g = levels(published, recipe())[0]
    rates = [of_g[f"synthesis.{layer.name}.weight"] for layer in published.spec.layers]
    assert rates == sorted(rates) and set(rates) == {16, 32, 64, 128, 256}
    assert sides("stylegan3", 1) == sides("stylegan2", 1)


def test_biggan_deep_counts_its_attention_with_the_block_before_it() -> None:
    gan = small("biggan_deep")
    of_g = {8: ("generator.layers.0.", "generator.layers.1."), 16: ("generator.layers.2.",)}
    expected = {r: names(gan.generator, *prefixes) for r, prefixes in of_g.items()}
    top = ("generator.layers.3.", "generator.layers.4.", "generator.bn.", "generator.conv_to_rgb.")
    assert sides("biggan_deep", 0) == {**expected, 32: names(gan.generator, *top)}
    assert sides("biggan_deep", 1) == sides("biggan", 1)


def test_a_published_biggan_deep_has_all_sizes_from_4_px_on() -> None:
    gan = on_meta("biggan_deep", resolution=128, classes=1000)
    of_g = levels(gan, recipe())[0]
    assert set(of_g.values()) == {4, 8, 16, 32, 64, 128}
    assert of_g["generator.layers.8.gamma"] == 64
    assert {n.split(".")[1] for n in names(gan.generator, "generator") - set(of_g)} == {"gen_z"}


@pytest.mark.parametrize("family", RESOLVED)
def test_what_comes_before_the_blocks_and_the_head_have_no_size(family: str) -> None:
    gan = small(family)
    of_g, of_d = levels(gan, recipe())
    rest = {name.split(".")[0] for name in names(gan.generator, "") - set(of_g)}
    head = {name.split(".")[0] for name in names(gan.discriminator, "") - set(of_d)}
    expected = {
        "stylegan2": ({"mapping"}, {"b4"}),
        "stylegan3": ({"mapping", "synthesis"}, {"b4"}),
        "biggan": ({"shared", "linear"}, {"linear", "embed"}),
        "biggan_deep": ({"embeddings", "generator"}, {"linear", "embed"}),
        "resnet_gan": ({"embedding", "fc"}, {"fc"}),
    }
    assert (rest, head) == expected[family]


@pytest.mark.parametrize("family", RESOLVED)
def test_convolutions_are_those_of_3x3_between_feature_maps(family: str) -> None:
    generator = small(family).generator
    found = {
        name.rsplit(".", 1)[1] for name, module in generator.named_modules() if is_convolution(name, module)
    }
    expected = {
        "stylegan2": {"conv0", "conv1"},
        "stylegan3": {"L0_36_8", "L1_52_8", "L2_52_4", "L3_32_4"},
        "biggan": {"conv1", "conv2"},
        "biggan_deep": {"conv_1", "conv_2"},
        "resnet_gan": {"conv_0", "conv_1"},
    }
    assert found == expected[family]


@pytest.mark.parametrize("family", UNRESOLVED)
def test_other_families_are_refused_by_name(family: str) -> None:
    with pytest.raises(ConfigError, match=rf"finetune.method=freeze_g .* family={family}") as error:
        levels(small(family), recipe(method="freeze_g"))
    assert "rank.sources" in error.value.remedy
