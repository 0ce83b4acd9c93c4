"""An inversion that is stopped goes on exactly where it was."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftgan.context import StopSignal
from graftgan.errors import Interrupted, MissingInput
from graftgan.gans.base import Generator, build
from graftgan.gans.spec import GanSpec
from graftgan.training.state import STATE, StateStore
from graftgan.transfer.inversion import Inverted, Saving, invert
from transfer.test_inversion import RESNET, own_images, settings

CLASS = ("embedding.weight",)
RECIPE = settings(epochs=4, batch=4, ridge=0.1)
IMAGES = 6
# Two batches an epoch: images stepped after each.
STEPS = [4, 6, 10, 12, 16, 18, 22, 24]


@pytest.fixture(scope="module")
def task() -> tuple[Generator, np.ndarray, np.ndarray]:
    generator = build(GanSpec.from_dict(RESNET), 0).generator
    images, _, labels = own_images(generator, IMAGES)
    return generator, images, labels.numpy().astype(np.int32)


def saving(folder: Path, resume: str = "auto", every_s: float = 0.0) -> Saving:
    store = StateStore(folder, keep=2)
    return Saving("inv", store, StopSignal(), every_s, resume, logging.getLogger("graftgan"))


def run(task: tuple[Any, ...], keep: Saving | None, stop_at: int | None = None) -> tuple[Inverted, list[int]]:
    """Invert; after `stop_at` images a signal is there. Return the result and the steps that were told."""
    told: list[int] = []

    def advance(images: int) -> None:
        told.append(images)
        if keep is not None and sum(told) == stop_at:
            keep.stop.requested = True

    generator, images, labels = task
    return invert(generator, images, labels, RECIPE, 5, CLASS, advance, keep), told


def same(one: Inverted, other: Inverted) -> bool:
    mine, theirs = one.tensors(), other.tensors()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture(scope="module")
def whole(task: tuple[Any, ...]) -> Inverted:
    return run(task, None)[0]


def test_saving_changes_nothing_and_keeps_the_last_states(
    task: tuple[Any, ...], whole: Inverted, tmp_path: Path
) -> None:
    found, told = run(task, saving(tmp_path))
    assert same(found, whole)
    assert told == [0, 4, 2, 4, 2, 4, 2, 4, 2]
    assert [path.name for path in StateStore(tmp_path).names()] == [
        "images-000000000024",
        "images-000000000022",
    ]


@pytest.mark.parametrize("at", STEPS)
def test_stopped_after_any_batch_it_goes_on_to_the_same_bits(
    task: tuple[Any, ...], whole: Inverted, at: int, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted, match=f"inv stopped at {at} images; its state is saved"):
        run(task, saving(tmp_path, every_s=1e9), stop_at=at)
    assert task[0].get_parameter(*CLASS).equal(build(GanSpec.from_dict(RESNET), 0).generator.embedding.weight)
    found, told = run(task, saving(tmp_path, "must"))
    assert told[0] == at and sum(told) == STEPS[-1]
    assert same(found, whole)


def test_every_stop_goes_on_from_the_one_before(
    task: tuple[Any, ...], whole: Inverted, tmp_path: Path
) -> None:
    for at in STEPS:
        with pytest.raises(Interrupted):
            run(task, saving(tmp_path), stop_at=at)
    assert same(run(task, saving(tmp_path))[0], whole)


def test_a_damaged_state_is_named_and_the_one_before_used(
    task: tuple[Any, ...], whole: Inverted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(task, saving(tmp_path))
    newest, before = StateStore(tmp_path).names()
    (newest / STATE).write_bytes((newest / STATE).read_bytes()[:-1])
    with caplog.at_level(logging.INFO, "graftgan"):
        found, told = run(task, saving(tmp_path, every_s=1e9))
    assert f"{newest} is damaged" in caplog.text and "inv goes on from 22 images" in caplog.text
    assert told[0] == 22 and same(found, whole)
    (newest / STATE).unlink()
    (before / STATE).unlink()
    with pytest.raises(MissingInput, match="no whole state"):
        run(task, saving(tmp_path, "must"))
    caplog.clear()
    found, told = run(task, saving(tmp_path))
    assert "starts again from the beginning" in caplog.text
    assert told[0] == 0 and same(found, whole)


def test_never_begins_anew_and_removes_what_was_saved(
    task: tuple[Any, ...], whole: Inverted, tmp_path: Path
) -> None:
    run(task, saving(tmp_path))
    found, told = run(task, saving(tmp_path, "never", every_s=1e9))
    assert told[0] == 0 and same(found, whole)
    assert not tmp_path.exists()
