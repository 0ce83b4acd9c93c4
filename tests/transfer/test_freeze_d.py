from __future__ import annotations

import hashlib

import pytest
import torch
from training.nets import EVERYTHING, copies, equal, everything, make, recipe, tiny

from graftgan.errors import ConfigError
from graftgan.gans.base import build
from graftgan.gans.spec import GanSpec
from graftgan.training.trainer import Trainer
from graftgan.transfer import method
from graftgan.transfer.freeze_d import blocks, layers
from transfer.families import count, moved, names, on_meta, small, train
from transfer.families import trainer as family_trainer


def frozen_run(count: int, steps: int = 3, **changes: object) -> tuple[Trainer, dict[str, torch.Tensor]]:
    trainer = make(method="freeze_d", freeze_d_layers=count, **changes)
    before = copies(trainer.gan.discriminator)
    torch.manual_seed(0)
    for _ in range(steps):
        trainer.step()
    return trainer, before


def test_layers_are_counted_from_the_image_four_then_three_a_block() -> None:
    assert layers(build(tiny(), 0).discriminator) == [
        "b32.fromrgb.", "b32.conv0.", "b32.conv1.", "b32.skip.",
        "b16.conv0.", "b16.conv1.", "b16.skip.",
        "b8.conv0.", "b8.conv1.", "b8.skip.",
    ]  # fmt: skip


def test_blocks_are_ordered_by_size_not_by_spelling() -> None:
    order = layers(build(tiny(resolution=128), 0).discriminator)
    assert [order[i].split(".")[0] for i in (0, 4, 7, 10, 13)] == ["b128", "b64", "b32", "b16", "b8"]
    assert len(order) == 16


@pytest.mark.parametrize(("count", "blocks"), [(4, {"b32"}), (7, {"b32", "b16"}), (10, {"b32", "b16", "b8"})])
def test_the_published_counts_freeze_whole_blocks(count: int, blocks: set[str]) -> None:
    gan = build(tiny(), 0)
    method("freeze_d").apply(gan, recipe(method="freeze_d", freeze_d_layers=count))
    frozen = {name for name, p in gan.discriminator.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in gan.discriminator.named_parameters() if n.split(".")[0] in blocks}


@pytest.mark.parametrize("count", [1, 4, 7])
def test_frozen_tensors_keep_their_bits_and_the_others_move(count: int) -> None:
    trainer, before = frozen_run(count, **EVERYTHING)
    after = copies(trainer.gan.discriminator)
    frozen = tuple(layers(trainer.gan.discriminator)[:count])
    for name in after:
        assert torch.equal(after[name], before[name]) is name.startswith(frozen), name


def test_frozen_tensors_are_in_no_optimiser() -> None:
    trainer, _ = frozen_run(4, steps=1)
    held = {id(p) for group in trainer.adam_d.param_groups for p in group["params"]}
    assert held == {id(p) for p in trainer.gan.discriminator.parameters() if p.requires_grad}
    assert len(held) < len(list(trainer.gan.discriminator.parameters()))


def test_the_generator_still_learns_through_frozen_layers() -> None:
    trainer = make(method="freeze_d", freeze_d_layers=10)
    trainer._phase_g(None)
    gradients = [p.grad for p in trainer.gan.generator.parameters()]
    assert sum(float(g.abs().sum()) for g in gradients if g is not None) > 0


def test_freezing_nothing_is_full_fine_tuning_bit_for_bit() -> None:
    none, _ = frozen_run(0)
    full = make(method="full")
    torch.manual_seed(0)
    for _ in range(3):
        full.step()
    assert equal(everything(none), everything(full))


def test_freezing_all_layers_leaves_the_head() -> None:
    trainer, before = frozen_run(10)
    after = copies(trainer.gan.discriminator)
    moved = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert moved == {"b4"}


def test_the_class_head_always_trains() -> None:
    gan = build(tiny(classes=3), 0)
    method("freeze_d").apply(gan, recipe(method="freeze_d", freeze_d_layers=10))
    on = {name.split(".")[0] for name, p in gan.discriminator.named_parameters() if p.requires_grad}
    assert on == {"b4", "mapping"}


def test_freezing_more_than_there_is_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rank\.choose brought has 10 layers below its head") as error:
        make(method="freeze_d", freeze_d_layers=11)
    assert "finetune.freeze_d_layers=11" in error.value.message
    assert error.value.remedy


FAMILIES = ("stylegan2", "stylegan3", "biggan", "biggan_deep", "resnet_gan")
FIRST = {
    "stylegan2": ["b32.fromrgb.", "b32.conv0.", "b32.conv1.", "b32.skip."],
    "stylegan3": ["b32.fromrgb.", "b32.conv0.", "b32.conv1.", "b32.skip."],
    "biggan": ["blocks.0.0.conv1.", "blocks.0.0.conv2.", "blocks.0.0.conv_sc."],
    "biggan_deep": ["blocks.0.0.conv1.", "blocks.0.0.conv2.", "blocks.0.0.conv_sc."],
    "resnet_gan": ["conv_img.", "resnet_0_0.conv_0.", "resnet_0_0.conv_1."],
}


def digests(network: torch.nn.Module) -> dict[str, str]:
    """The sha256 of each tensor's bytes, buffers and vectors of spectral norms included."""
    return {
        n: hashlib.sha256(t.contiguous().numpy().tobytes()).hexdigest() for n, t in copies(network).items()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_hold_every_layer_below_the_head_once(family: str) -> None:
    discriminator = small(family).discriminator
    assert blocks(discriminator)[0] == FIRST[family]
    listed = layers(discriminator)
    assert len(set(listed)) == len(listed)
    below = names(discriminator, *listed)
    head = {name for name, _ in discriminator.named_parameters()} - below
    tops = {"b4"} if family.startswith("style") else {"linear", "embed"} if "big" in family else {"fc"}
    assert {name.split(".")[0] for name in head} == tops
    assert all(names(discriminator, layer) for layer in listed)


def test_attention_belongs_to_the_block_before_it() -> None:
    sizes = {"family": "biggan", "resolution": 32, "z_dim": 20, "g_ch": 8, "d_ch": 8, "d_attn": [16]}
    discriminator = build(GanSpec.from_dict(sizes), 0).discriminator
    place = next(i for i, sizes in enumerate(discriminator.spec.d_blocks) if sizes.attention)
    assert blocks(discriminator)[place][-1] == f"blocks.{place}.1."
    assert names(discriminator, f"blocks.{place}.1.")


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_blocks_have_the_same_hashes_after_training_and_all_else_moves(family: str) -> None:
    run = family_trainer(family, method="freeze_d", freeze_d_blocks=2)
    train(run, 0)
    before = digests(run.gan.discriminator)
    frozen = tuple(layer for block in blocks(run.gan.discriminator)[:2] for layer in block)
    train(run, 3)
    after = digests(run.gan.discriminator)
    for name in after:
        if name.startswith(frozen):
            assert after[name] == before[name], name
    moving = {n for n, _ in run.gan.discriminator.named_parameters() if not n.startswith(frozen)}
    assert moving and not [name for name in moving if after[name] == before[name]]


@pytest.mark.parametrize("family", ["biggan", "biggan_deep", "resnet_gan"])
def test_layers_can_be_counted_too(family: str) -> None:
    g, d = moved(family_trainer(family, method="freeze_d", freeze_d_layers=2), 2)
    run = family_trainer(family, method="full")
    assert d == {
        n for n, _ in run.gan.discriminator.named_parameters() if not n.startswith(tuple(FIRST[family][:2]))
    }
    assert g == {n for n, _ in run.gan.generator.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_blocks_is_full_fine_tuning_bit_for_bit_in_every_family(family: str) -> None:
    none = train(family_trainer(family, method="freeze_d", freeze_d_blocks=0), 2)
    assert equal(everything(none), everything(train(family_trainer(family, method="full"), 2)))


def test_counts_at_full_size_are_the_sheets() -> None:
    """Groups 1 and 2 of the residual GAN's D at 128 px are `conv_img` and the first two blocks."""
    gan = on_meta("resnet_gan", resolution=128, embed_dim=1)
    method("freeze_d").apply(gan, recipe(method="freeze_d", freeze_d_blocks=2))
    assert (count(gan.discriminator, False), count(gan.discriminator)) == (194_624, 91_697_537)


def test_more_blocks_than_there_are_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"finetune\.freeze_d_blocks=4, .* rank\.choose brought has 3 blocks"
    ):
        make(method="freeze_d", freeze_d_blocks=4)
