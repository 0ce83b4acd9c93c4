from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftgan.context import Context, StopSignal
from graftgan.errors import GraftganError, Interrupted
from graftgan.metrics.kid import kid
from graftgan.metrics.translation import l1_distances
from graftgan.progress import Task
from graftgan.training.state import StateStore
from graftgan.training.translation import TranslationTrainer
from graftgan.training.translation_loop import (
    PairedJudge,
    TranslationLoop,
    UnpairedJudge,
    can_judge,
    kept_tensors,
    restore_kept,
)
from graftgan.training.translators import translate
from training.translators import bits, equal, make, part

BUDGET = {"kimg": 0.024}


class Means:
    """Features are the mean colours."""

    name, dim, input_px, protocol = "means", 3, 6, "means@6/none/000000000000"

    def __call__(self, given: np.ndarray) -> np.ndarray:
        return given.mean(axis=(1, 2)).astype(np.float32)


class Killing:
    """A progress display that sends this process a signal at a step."""

    def __init__(self, at: int) -> None:
        self.at, self.steps = at, 0

    def task(self, name: str, total: int, done: int = 0) -> Task:
        return self

    def advance(self, images: int, scores: Any = None) -> None:
        self.steps += 1
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self) -> None:
        pass


def loop(trainer: TranslationTrainer, folder: Path, **values: Any) -> TranslationLoop:
    paired = type(trainer).__name__.startswith("Paired")
    judge = PairedJudge(part(6)) if paired else UnpairedJudge(part(6), Means())
    ctx = Context(folder / "state", folder / "cache", **values)
    return TranslationLoop("task", trainer, judge, StateStore(folder / "state"), ctx, 1e9)


@pytest.fixture
def stop() -> Any:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signals = StopSignal()
    signals.install()
    yield signals
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_a_run_measures_on_time_and_keeps_the_last_weights(kind: Any, tmp_path: Path) -> None:
    trainer = make(kind, budget=BUDGET, evaluate_every_kimg=0.01)
    history = loop(trainer, tmp_path).run()
    assert trainer.images_seen == 24
    assert history.frame_images == [10, 20, 24]
    key = "l1_validation" if kind == "paired" else "kid_validation"
    assert [row["images_seen"] for row in history.rows if key in row] == [10, 20, 24]
    assert trainer.adam_g.param_groups[0]["lr"] < trainer.settings.lr / 2
    assert history.best is not None and history.best_images == 24
    assert equal(history.best_tensors, kept_tensors(trainer))
    names = {"generator_ema"} if kind == "paired" else {"generator_ema", "back_ema"}
    assert {name.split(".")[0] for name in history.best_tensors} == names


@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_a_run_that_a_signal_stops_ends_with_the_same_bits(
    kind: Any, tmp_path: Path, stop: StopSignal
) -> None:
    changes: dict[str, Any] = {"budget": BUDGET, "evaluate_every_kimg": 0.01, "ema_half_life_kimg": 0.01}
    whole = make(kind, **changes)
    history = loop(whole, tmp_path / "whole").run()
    cut = make(kind, **changes)
    with pytest.raises(Interrupted, match="task stopped at 14 images"):
        loop(cut, tmp_path / "cut", stop=stop, progress=Killing(7)).run()
    stop.requested = False
    again = make(kind, **changes)
    told = loop(again, tmp_path / "cut").run()
    assert equal(bits(again), bits(whole))
    assert told.rows == history.rows
    assert all(torch.equal(a, b) for a, b in zip(told.frames, history.frames, strict=True))


class Noting(Killing):
    """A progress display that keeps the names of what it is told."""

    def __init__(self) -> None:
        super().__init__(0)
        self.names: set[str] = set()

    def advance(self, images: int, scores: Any = None) -> None:
        self.names |= set(scores or ())


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("paired", {"loss_l1", "l1_validation"}), ("unpaired", {"loss_cycle", "kid_validation"})],
)
def test_the_display_tells_what_the_task_is_about(kind: Any, wanted: set[str], tmp_path: Path) -> None:
    display = Noting()
    loop(make(kind, budget=BUDGET, evaluate_every_kimg=0.01), tmp_path, progress=display).run()
    assert display.names == {"loss_g", "loss_d", *wanted}


def test_the_best_weights_can_be_kept(tmp_path: Path) -> None:
    # A rate that does harm: the first look is the best one.
    trainer = make("paired", budget=BUDGET, evaluate_every_kimg=0.004, choose="best", lr=0.5, lr_decay=0.0)
    history = loop(trainer, tmp_path).run()
    values = [row["l1_validation"] for row in history.rows if "l1_validation" in row]
    assert history.best is not None and history.best_images < 24
    assert history.best.value <= min(values) + 0.02
    restore_kept(trainer, history.best_tensors)
    assert equal(kept_tensors(trainer), history.best_tensors)
    measured = PairedJudge(part(6)).measure(trainer.gan.generator_ema)
    assert measured.value == pytest.approx(history.best.value)


def test_a_run_that_diverges_goes_back_and_at_last_gives_up(tmp_path: Path) -> None:
    class Broken(type(make("paired"))):  # type: ignore[misc]
        def _step(self) -> None:
            super()._step()
            with torch.no_grad():
                next(self.gan.generator.parameters()).fill_(torch.nan)

    trainer = make("paired", budget=BUDGET, evaluate_every_kimg=0.004)
    trainer.__class__ = Broken
    with pytest.raises(GraftganError, match="task diverged 4 times") as caught:
        loop(trainer, tmp_path).run()
    assert caught.value.remedy.startswith("use a smaller lr")
    assert trainer.lr_scale == pytest.approx(0.125)


def test_judges_measure_distances_and_kid() -> None:
    trainer, data = make("paired"), part(6)
    generator = trainer.gan.generator_ema
    outputs = translate(generator, data.inputs)
    by_distance = PairedJudge(data).measure(generator)
    assert by_distance.value == pytest.approx(l1_distances(outputs, data.targets).mean())
    by_kid = UnpairedJudge(data, Means()).measure(generator)
    expected = kid(Means()(outputs), Means()(data.targets))
    assert (by_kid.value, by_kid.low) == pytest.approx((expected.value, expected.low))


def test_only_a_clear_gain_is_an_improvement() -> None:
    judge, generator = PairedJudge(part(6)), make("paired").gan.generator_ema
    now = judge.measure(generator)
    better = type(now)(now.value - 0.1, 0, 0, now.features - 0.1)
    noise = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.1], dtype=torch.float64)
    unclear = type(now)(now.value, 0, 0, now.features + noise)
    assert judge.improves(better, now) and not judge.improves(now, better)
    assert not judge.improves(unclear, now) and not judge.improves(now, now)


def test_five_groups_are_needed_to_judge() -> None:
    assert can_judge(part(5)) and not can_judge(part(4))
    data = part(20)
    assert not can_judge(type(data)(data.inputs, data.targets, data.names, ("same",) * 20))
