from __future__ import annotations

import pytest
import torch
from training.nets import copies
from transfer.families import on_meta, small

from graftgan.errors import ConfigError
from graftgan.gans.base import build, sample
from graftgan.gans.biggan import BigGANSpec
from graftgan.gans.class_table import PLACES, class_table, generate, take_classes, write_row
from graftgan.gans.spec import GanSpec


def conditional(family: str):
    if family != "resnet_gan":
        return small(family)
    sizes = {"variant": "resnet2", "z_dim": 8, "embed_dim": 2, "nfilter": 4, "nfilter_max": 8, "stages": 4}
    return build(GanSpec.from_dict({"family": family, "resolution": 32, "classes": 3, **sizes}), seed=1)


@pytest.mark.parametrize("family", PLACES)
def test_images_of_a_row_are_those_of_its_class(family: str) -> None:
    generator = conditional(family).generator_ema
    z = torch.randn(4, generator.spec.z_dim, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([2, 0, 1, 2])
    given = generate(generator, z, class_table(generator)[labels])
    assert torch.equal(given, generator(z, labels, 1.0, "const"))


@pytest.mark.parametrize("family", PLACES)
def test_a_row_has_a_gradient_and_the_generator_none(family: str) -> None:
    generator = conditional(family).generator_ema
    before = copies(generator)
    vector = class_table(generator)[1].clone().requires_grad_(True)
    z = torch.randn(2, generator.spec.z_dim, generator=torch.Generator().manual_seed(0))
    generate(generator, z, vector.expand(2, -1)).square().sum().backward()
    assert vector.grad is not None and vector.grad.abs().sum() > 0
    assert all(p.grad is None for p in generator.parameters())
    assert all(torch.equal(p, before[name]) for name, p in generator.named_parameters())


@pytest.mark.parametrize("family", PLACES)
def test_writing_a_row_leaves_all_else(family: str) -> None:
    generator = conditional(family).generator_ema
    before, table = copies(generator), class_table(generator)
    vector = torch.full((table.shape[1],), 0.5)
    write_row(generator, 1, vector)
    after = class_table(generator)
    assert torch.equal(after[1], vector)
    assert torch.equal(after[[0, 2]], table[[0, 2]])
    changed = {name for name, p in generator.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {PLACES[family].name}


@pytest.mark.parametrize("family", PLACES)
def test_taken_classes_draw_the_same_images(family: str) -> None:
    gan = conditional(family)
    fewer = take_classes(gan, [2, 0, 2])
    assert fewer.spec.classes == 3
    for place, old in enumerate([2, 0, 2]):
        assert (
            sample(fewer.generator_ema, 2, 0, labels=place) == sample(gan.generator_ema, 2, 0, labels=old)
        ).all()


def test_one_class_can_be_taken() -> None:
    gan = conditional("biggan")
    alone = take_classes(gan, [1])
    assert (sample(alone.generator_ema, 2, 0, labels=0) == sample(gan.generator_ema, 2, 0, labels=1)).all()


def test_a_class_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="class 7"):
        take_classes(conditional("biggan"), [0, 7])


@pytest.mark.parametrize("family", ["stylegan2", "resnet_gan"])
def test_a_source_without_classes_is_refused(family: str) -> None:
    with pytest.raises(ConfigError, match="has no classes"):
        class_table(small(family).generator)


def test_a_biggan_without_a_shared_table_is_refused() -> None:
    spec = BigGANSpec(
        resolution=32, z_dim=8, classes=3, g_ch=4, d_ch=4, shared_dim=0, hier=False, g_attn=(), d_attn=()
    )
    with pytest.raises(ConfigError, match="shared_dim"):
        class_table(build(spec, 0).generator)


def test_the_published_sizes() -> None:
    gan = on_meta("biggan", classes=1000)
    assert gan.generator.get_parameter(PLACES["biggan"].name).shape == (1000, 128)
    # 128 px, sheet 6.1: 70,433,988 parameters, of which a method that moves one row moves 128.
    assert sum(p.numel() for p in gan.generator.parameters()) == 70_433_988
