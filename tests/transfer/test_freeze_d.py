from __future__ import annotations

import pytest
import torch
from training.nets import EVERYTHING, copies, equal, everything, make, recipe, tiny

from graftgan.errors import ConfigError
from graftgan.gans.base import build
from graftgan.training.trainer import Trainer
from graftgan.transfer import method
from graftgan.transfer.freeze_d import layers


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
    with pytest.raises(ConfigError, match="D has 10 layers below its head, not 11") as error:
        make(method="freeze_d", freeze_d_layers=11)
    assert "finetune.freeze_d_layers" in error.value.message
    assert error.value.remedy
