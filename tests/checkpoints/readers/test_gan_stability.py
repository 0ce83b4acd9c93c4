from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from graftgan.checkpoints.imported import Content
from graftgan.checkpoints.readers import gan_stability
from graftgan.errors import CheckpointError
from graftgan.gans.base import Gan, build
from graftgan.gans.resnet_gan import LAYOUTS, ResnetGanSpec
from tests.gans.resnet_gan.sizes import tiny

Tree = dict[str, Any]
PATH = Path("celeba.pt")
OPTIMISER = {"state": {0: {"square_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}


def content(tree: object) -> Content:
    return Content(PATH, "torch", tree)


def published(gan: Gan, prefix: str = "module.") -> Tree:
    """Return a checkpoint as the public code saves it."""

    def state(network: torch.nn.Module) -> dict[str, Tensor]:
        return {prefix + name: tensor.clone() for name, tensor in network.state_dict().items()}

    return {
        "it": 300_000,
        "epoch_idx": 7,
        "loss": 0.5,
        "generator": state(gan.generator),
        "discriminator": state(gan.discriminator),
        "generator_test": state(gan.generator_ema),
        "g_optimizer": OPTIMISER,
        "d_optimizer": OPTIMISER,
    }


def distinct(spec: ResnetGanSpec) -> Gan:
    """Build a GAN whose averaged generator differs from the raw one."""
    gan = build(spec, seed=5)
    gan.generator_ema.load_state_dict(build(spec, seed=6).generator.state_dict())
    return gan


def load(imported: gan_stability.Imported) -> Gan:
    """Load what a reader gave, strictly."""
    gan = build(imported.spec, seed=9)
    for name in ("generator", "generator_ema", "discriminator"):
        if name not in imported.absent:
            part = {
                k.removeprefix(f"{name}."): t for k, t in imported.tensors.items() if k.startswith(f"{name}.")
            }
            getattr(gan, name).load_state_dict(part)
    return gan


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize("variant", LAYOUTS)
def test_reads_every_layout_exactly(variant: str, classes: int, prefix: str) -> None:
    gan = distinct(tiny(variant, classes))
    tree = published(gan, prefix)
    assert gan_stability.matches(content(tree))
    imported = gan_stability.read(content(tree))
    assert imported.spec == gan.spec
    assert (imported.made, imported.absent) == ({}, ())
    again = load(imported)
    for name in ("generator", "generator_ema", "discriminator"):
        theirs = getattr(gan, name).state_dict()
        assert all(torch.equal(theirs[k], t) for k, t in getattr(again, name).state_dict().items())
    assert len(imported.tensors) == sum(
        len(tree[n]) for n in ("generator", "generator_test", "discriminator")
    )


@pytest.mark.parametrize(
    "spec",
    [
        tiny("resnet", resolution=256, stages=7, nfilter_max=8, nfilter_max_d=32, channels=1),
        tiny("resnet2", resolution=64, nfilter_max=8, nfilter_max_d=8, z_dim=3, channels=4),
        tiny("resnet2", resolution=32, stages=3, nfilter_max=4, nfilter_max_d=16),
        tiny("resnet3", resolution=128, embed_dim=1),
        tiny("resnet3", resolution=32, stages=4, nfilter_max=4, nfilter_max_d=8),
        tiny("resnet4", resolution=32, stages=4, nfilter_max=2, nfilter_max_d=2),
    ],
)
def test_sizes_are_read_off(spec: ResnetGanSpec) -> None:
    gan = distinct(spec)
    imported = gan_stability.read(content(published(gan)))
    assert imported.spec == spec
    z = torch.randn(1, spec.z_dim)
    assert torch.equal(load(imported).generator(z), gan.generator(z))


def test_what_is_no_network_is_accounted_for() -> None:
    tree = {**published(distinct(tiny("resnet2"))), "scheduler": {"last_epoch": 3}, "extra": torch.zeros(2)}
    imported = gan_stability.read(content(tree))
    assert set(imported.skipped) == {"g_optimizer", "d_optimizer", "scheduler", "extra"}
    assert "optimiser" in imported.skipped["g_optimizer"]
    assert imported.notes == ("trained for 300000 iterations",)


def test_without_an_average_the_raw_generator_stands_in() -> None:
    tree = published(distinct(tiny("resnet4")))
    del tree["generator_test"]
    imported = gan_stability.read(content(tree))
    again = load(imported)
    for name, tensor in again.generator.state_dict().items():
        ema = imported.tensors[f"generator_ema.{name}"]
        assert torch.equal(ema, tensor)
        assert ema.data_ptr() != imported.tensors[f"generator.{name}"].data_ptr()
        assert imported.made[f"generator_ema.{name}"] == f"copy of generator.{name}"
    assert any("no averaged generator" in note for note in imported.notes)


def test_an_average_alone_is_the_generator_too() -> None:
    gan = distinct(tiny("resnet4"))
    tree = published(gan)
    del tree["generator"], tree["discriminator"]
    imported = gan_stability.read(content(tree))
    assert imported.absent == ("discriminator",)
    assert not any(name.startswith("discriminator") for name in imported.tensors)
    assert set(imported.made) == {f"generator.{name}" for name in gan.generator.state_dict()}
    z = torch.randn(1, 6)
    assert torch.equal(load(imported).generator(z), gan.generator_ema(z))


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_a_generator_cut_out_of_its_checkpoint(prefix: str) -> None:
    gan = distinct(tiny("resnet2", classes=4))
    state = published(gan, prefix)["generator"]
    assert gan_stability.matches(content(state))
    imported = gan_stability.read(content(state))
    assert imported.spec == gan.spec
    assert imported.absent == ("discriminator",)
    assert imported.skipped == {}
    z, labels = torch.randn(1, 6), torch.tensor([3])
    assert torch.equal(load(imported).generator_ema(z, labels), gan.generator(z, labels))


def test_half_precision_is_widened() -> None:
    tree = published(distinct(tiny("resnet2")))
    tree["generator"] = {name: tensor.half() for name, tensor in tree["generator"].items()}
    imported = gan_stability.read(content(tree))
    assert all(tensor.dtype is torch.float32 for tensor in imported.tensors.values())
    raw = tree["generator"]["module.fc.weight"]
    assert torch.equal(imported.tensors["generator.fc.weight"], raw.float())


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        (
            "generator",
            "resnet_1_0.conv_1.bias",
            None,
            "in part only.*missing.*generator.resnet_1_0.conv_1.bias",
        ),
        (
            "generator",
            "resnet_2_0.conv_0.weight",
            None,
            "in part only.*missing.*generator.resnet_2_0.conv_0.weight",
        ),
        ("generator", "surplus.weight", torch.zeros(1), "unexpected.*generator.surplus.weight"),
        (
            "generator_test",
            "resnet_3_0.conv_s.weight",
            torch.zeros(1, 1, 1, 1),
            "reshaped.*resnet_3_0.conv_s",
        ),
        ("discriminator", "fc.bias", None, "in part only.*missing.*discriminator.fc.bias"),
        ("discriminator", "fc.weight", None, "lacks 'fc.weight'"),
        ("discriminator", "fc.weight", torch.zeros(4, 16), "nfilter_max_d is|in part only"),
        ("generator_test", "fc.weight", torch.zeros(3), "has shapes of no layout of GAN_stability"),
        ("generator_test", "fc.weight", torch.zeros(32, 2), "z_dim is -1"),
        (
            "generator_test",
            "embedding.weight",
            torch.zeros(2, 2, 2),
            "has shapes of no layout of GAN_stability",
        ),
        (
            "generator_test",
            "resnet_0_0.conv_0.weight",
            torch.zeros(4, 0, 3, 3),
            "has shapes of no layout of GAN_stability",
        ),
        ("generator_test", "conv_img.weight", torch.zeros(5, 2, 3, 3), "channels is 5"),
        ("generator", "fc.bias", 3, "`generator` is not a state dict"),
        (
            "generator",
            "fc.bias",
            torch.zeros(4, dtype=torch.int64),
            "generator.fc.bias is of type torch.int64",
        ),
    ],
)
def test_what_would_load_in_part_is_refused(section: str, name: str, value: object, message: str) -> None:
    tree = published(distinct(tiny("resnet2")))
    if value is None:
        del tree[section][f"module.{name}"]
    else:
        tree[section][f"module.{name}"] = value
    assert gan_stability.matches(content(tree))
    with pytest.raises(CheckpointError, match=message) as caught:
        gan_stability.read(content(tree))
    assert str(PATH) in caught.value.message
    assert caught.value.exit_code == 5


def test_a_section_that_is_no_state_dict_is_refused() -> None:
    tree = {**published(distinct(tiny("resnet2"))), "discriminator": [1]}
    with pytest.raises(CheckpointError, match="`discriminator` is not a state dict"):
        gan_stability.read(content(tree))


def test_networks_of_different_class_counts_are_refused() -> None:
    tree = published(distinct(tiny("resnet2", classes=4)))
    tree["discriminator"] = published(distinct(tiny("resnet2", classes=5)))["discriminator"]
    with pytest.raises(CheckpointError, match=r"in part only.*reshaped.*discriminator"):
        gan_stability.read(content(tree))


def test_a_size_that_no_image_set_has_is_refused() -> None:
    tree = published(distinct(tiny("resnet2", resolution=32)))
    for section in ("generator", "generator_test"):
        tree[section]["module.fc.weight"] = torch.zeros(32 * 9, 9)
    with pytest.raises(CheckpointError, match="resolution is 96"):
        gan_stability.read(content(tree))


@pytest.mark.parametrize(
    "tree",
    [
        None, [], {}, {"generator": {}}, {"generator": 3}, {"g_ema": {}, "g": {}, "d": {}}, {1: 2},
        {"embedding.weight": 0, "fc.weight": 0, "conv_img.weight": 0},
        {"resnet_0_0.conv_0.weight": 0, "fc.weight": 0},
    ],
)  # fmt: skip
def test_other_content_is_left_to_other_readers(tree: object) -> None:
    assert not gan_stability.matches(content(tree))
