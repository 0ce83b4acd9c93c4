from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import graftgan
from graftgan.config import Budget
from graftgan.context import Context, NullTracker
from graftgan.errors import GraftganError, Interrupted, MissingInput
from graftgan.gans.base import Generator
from graftgan.progress import Task
from graftgan.training import loop as module
from graftgan.training.loop import (
    MAX_ROLLBACKS,
    TIMELINE_IMAGES,
    History,
    Loop,
    Measurement,
    crossed,
    total_images,
)
from graftgan.training.state import STATE, StateStore
from graftgan.training.trainer import Trainer
from training.nets import BATCH, EVERYTHING, copies, equal, everything, make

# Budgets and intervals


@pytest.mark.parametrize(
    ("given", "images"),
    [
        ({"kimg": 1}, 1000),
        ({"kimg": 1.001}, 1050),
        ({"kimg": 0.001}, 50),
        ({"epochs": 2}, 600),
        ({"epochs": 0.5}, 150),
        ({"epochs": 2, "kimg": 0.5}, 500),
        ({"epochs": 1, "kimg": 5}, 300),
        ({"minutes": 3, "kimg": 0.2}, 200),
    ],
)
def test_a_budget_is_rounded_up_to_whole_steps(given: dict[str, float], images: int) -> None:
    assert total_images(Budget(**given), training_images=300, batch=50) == images


def test_a_budget_that_is_no_binary_fraction_gets_no_extra_step() -> None:
    for hundredths in range(1, 200):
        budget = Budget(kimg=hundredths / 100)
        assert total_images(budget, training_images=1, batch=10) == hundredths * 10
    assert total_images(Budget(epochs=0.07), training_images=100, batch=7) == 7


def test_minutes_alone_do_not_limit_the_images() -> None:
    assert total_images(Budget(minutes=1), training_images=10, batch=32) >= 10**12


@pytest.mark.parametrize(
    ("before", "after", "every", "expected"),
    [
        (0, 32, 1000, False),
        (968, 1000, 1000, True),
        (1000, 1032, 1000, False),
        (992, 1024, 1000, True),
        (0, 5000, 1000, True),
        (0, 1, 0.5, True),
        (0, 1, 1.5, False),
    ],
)
def test_a_multiple_is_crossed_once(before: int, after: int, every: float, expected: bool) -> None:
    assert crossed(before, after, every) is expected


def test_every_multiple_is_crossed_exactly_once_on_the_way() -> None:
    for batch in (7, 32, 64):
        steps = [crossed(i * batch, (i + 1) * batch, 100) for i in range(40)]
        assert sum(steps) == 40 * batch // 100


# A run with a scripted judge


@dataclass
class Scripted:
    """A judge that reads its scores from a list; an improvement must exceed one unit."""

    values: list[float] = field(default_factory=lambda: [0.0])
    error: float = 1.0
    at: Callable[[int], None] = lambda count: None
    count: int = 0

    def measure(self, generator: Generator) -> Measurement:
        assert not generator.training
        value = self.values[min(self.count, len(self.values) - 1)]
        self.count += 1
        self.at(self.count)
        return Measurement(value, value - 2, value + 2, torch.full((2, 2), value))

    def improves(self, new: Measurement, best: Measurement) -> bool:
        return new.value + self.error < best.value


@dataclass
class Steps:
    """A progress display that counts, and lets a test act between steps."""

    after: Callable[[int], None] = lambda steps: None
    steps: int = 0
    images: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    closed: bool = False
    total: int = 0

    def task(self, name: str, total: int, done: int = 0) -> Task:
        self.total, self.images = total, done
        return self

    def advance(self, images: int, scores: Mapping[str, float] | None = None) -> None:
        self.steps += 1
        self.images += images
        self.scores |= scores or {}
        self.after(self.steps)

    def close(self) -> None:
        self.closed = True


@dataclass
class Metrics(NullTracker):
    told: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)

    def log_metrics(self, values: Mapping[str, float], images_seen: int = 0) -> None:
        self.told.append((images_seen, values))


@dataclass
class Room:
    """A folder for states, and loops in it."""

    root: Path

    @property
    def store(self) -> StateStore:
        return StateStore(self.root / "states")

    def loop(self, trainer: Trainer, judge: Any = None, save_every_s: float = 1e9, **ctx: Any) -> Loop:
        surroundings = Context(**{"state": self.root, "cache": self.root, "progress": Steps(), **ctx})
        return Loop("run", trainer, judge or Scripted(), self.store, surroundings, save_every_s)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def short(**changes: Any) -> Trainer:
    """Ten steps, a look after every second."""
    return make(**{"budget": {"kimg": 10 * BATCH / 1000}, "evaluate_every_kimg": 2 * BATCH / 1000, **changes})


def test_a_run_trains_its_budget_and_measures_on_time(room: Room) -> None:
    trainer, progress, tracker = short(), Steps(), Metrics()
    history = room.loop(trainer, progress=progress, tracker=tracker).run()
    assert trainer.images_seen == progress.images == progress.total == 10 * BATCH
    assert progress.closed
    looks = [2 * BATCH * i for i in range(1, 6)]
    assert history.frame_images == looks
    assert [row["images_seen"] for row in history.rows] == looks
    assert [images for images, _ in tracker.told] == looks
    row = history.rows[0]
    assert {"loss_g", "loss_d", "sign_real", "sign_fake", "ada_p", "grad_norm_g", "grad_norm_d"} < set(row)
    assert (row["kid_validation"], row["kid_low"], row["kid_high"]) == (0.0, -2.0, 2.0)
    assert tracker.told[0][1]["run/kid_validation"] == 0.0
    assert "run/images_seen" not in tracker.told[0][1]
    assert progress.scores["kid_validation"] == 0.0


def test_the_last_step_is_always_measured(room: Room) -> None:
    history = room.loop(short(evaluate_every_kimg=0.028)).run()
    assert history.frame_images == [7 * BATCH, 10 * BATCH]


def test_log_points_between_measurements_have_no_scores(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_EVERY_IMAGES", 3 * BATCH)
    history = room.loop(short(evaluate_every_kimg=1)).run()
    assert [row["images_seen"] / BATCH for row in history.rows] == [3, 6, 9, 10]
    assert [("kid_validation" in row) for row in history.rows] == [False, False, False, True]


def test_rows_hold_the_means_since_the_row_before(room: Room) -> None:
    alone = short()
    torch.manual_seed(0)
    losses = []
    for step in range(10):
        alone.set_rate(step / 10)
        alone.step()
        losses.append(alone.meter.take()["loss_g"])
    history = room.loop(short()).run()
    means = [(losses[i] + losses[i + 1]) / 2 for i in range(0, 10, 2)]
    assert [row["loss_g"] for row in history.rows] == pytest.approx(means, rel=1e-6)


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([9.0, 7.0, 5.0, 3.0, 1.0], 5),
        ([9.0, 8.5, 8.1, 9.0, 8.2], 1),
        ([9.0, 8.5, 7.9, 7.5, 7.0], 3),
        ([9.0, 5.0, 6.0, 4.5, 9.0], 2),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 1),
    ],
)
def test_the_best_must_win_by_more_than_one_standard_error(
    room: Room, values: list[float], best: int
) -> None:
    trainer, states = short(), {}
    judge = Scripted(values, at=lambda count: states.update({count: copies(trainer.gan.generator_ema)}))
    history = room.loop(trainer, judge).run()
    assert history.best_images == 2 * BATCH * best
    assert history.best is not None
    assert history.best.value == values[best - 1]
    prefix = "generator_ema."
    kept = {n.removeprefix(prefix): t for n, t in history.best_tensors.items() if n.startswith(prefix)}
    assert equal(kept, states[best])
    assert {name.split(".")[0] for name in history.best_tensors} == {
        "generator",
        "discriminator",
        "generator_ema",
    }


@pytest.mark.parametrize(("values", "best"), [([1.0, 2.0], 0), ([3.0, 2.9], 0), ([9.0, 7.0, 8.0], 2)])
def test_what_a_run_begins_with_can_be_a_checkpoint_like_the_others(
    room: Room, values: list[float], best: int
) -> None:
    trainer = short()
    start = copies(trainer.gan.generator_ema)
    history = room.loop(trainer, Scripted(values)).run(look_first=True)
    assert history.frame_images == [2 * BATCH * i for i in range(6)]
    assert (history.best_images, len(history.frames)) == (best * BATCH, 6)
    assert history.rows[0] == {"images_seen": 0.0, "kid_validation": values[0],
                               "kid_low": values[0] - 2, "kid_high": values[0] + 2}  # fmt: skip
    prefix = "generator_ema."
    kept = {n.removeprefix(prefix): t for n, t in history.best_tensors.items() if n.startswith(prefix)}
    assert equal(kept, start) == (best == 0)
    assert any("what the run began with" in text for text in history.warnings(1.0)) == (best == 0)
    plain = short()
    room_of_its_own = Room(room.root / "plain")
    assert room_of_its_own.loop(plain, Scripted(values)).run().frame_images[0] == 2 * BATCH
    assert equal(everything(plain), everything(trainer)), "the look changes no bit of the training"


def test_frames_show_the_average_at_the_same_latents(room: Room) -> None:
    # With a half-life far beyond the run the average hardly moves, and neither do its pictures.
    history = room.loop(short(ema_half_life_kimg=1e6)).run()
    assert [tuple(frame.shape) for frame in history.frames] == [(TIMELINE_IMAGES, 32, 32, 3)] * 5
    assert history.frames[0].dtype is torch.uint8
    first, last = history.frames[0].int(), history.frames[-1].int()
    assert int((first - last).abs().max()) <= 2
    moving = Room(room.root / "moving").loop(short(ema_half_life_kimg=1e-6, lr_generator=0.05)).run()
    assert int((moving.frames[0].int() - moving.frames[-1].int()).abs().max()) > 10


def test_looking_does_not_change_the_training(room: Room) -> None:
    often, seldom = short(evaluate_every_kimg=BATCH / 1000), short(evaluate_every_kimg=1)
    room.loop(often).run()
    Room(room.root / "other").loop(seldom).run()
    assert equal(everything(often), everything(seldom))


def test_classes_are_drawn_for_the_frames(room: Room) -> None:
    import numpy as np

    from training.nets import tiny

    trainer = short(spec=tiny(classes=3), labels=np.arange(10, dtype=np.int32) % 3)
    history = room.loop(trainer).run()
    assert len(history.frames) == 5


# Stopping and going on


def test_a_signal_saves_and_the_next_start_ends_with_the_same_bits(room: Room) -> None:
    whole = short(**EVERYTHING)
    expected = Room(room.root / "whole").loop(whole, Scripted([5, 3, 1, 4, 0])).run()
    for stop_after in (4, 5):
        place = Room(room.root / str(stop_after))
        stopped = place.loop(short(**EVERYTHING), Scripted([5, 3, 1, 4, 0]))
        judge = stopped.judge

        def ask(steps: int, at: int = stop_after, loop: Loop = stopped) -> None:
            loop.ctx.stop.requested = steps == at

        stopped.ctx.progress = Steps(ask)
        with pytest.raises(Interrupted, match=f"stopped at {stop_after * BATCH} images; its state is saved"):
            stopped.run()
        torch.manual_seed(999)
        second = short(seed=3, **EVERYTHING)
        history = place.loop(second, judge).run()
        assert equal(everything(whole), everything(second))
        assert history.rows == expected.rows
        assert (history.frame_images, history.best_images) == (expected.frame_images, expected.best_images)
        assert all(map(torch.equal, history.frames, expected.frames))
        assert equal(history.best_tensors, expected.best_tensors)


def test_a_finished_run_is_not_trained_again(room: Room) -> None:
    first = short()
    expected = room.loop(first).run()
    progress, second = Steps(), short(seed=9)
    history = room.loop(second, progress=progress).run()
    assert progress.steps == 0
    assert equal(everything(first), everything(second))
    assert history.rows == expected.rows


def test_the_clock_saves_between_measurements(room: Room) -> None:
    loop = room.loop(short(evaluate_every_kimg=1), save_every_s=0)
    found: list[list[str]] = []
    loop.ctx.progress = Steps(lambda steps: found.append([p.name for p in loop.interim.names()]))
    loop.run()
    assert found[0] == [f"images-{BATCH:012d}"]
    assert found[3] == [f"images-{4 * BATCH:012d}"]
    assert not loop.interim.folder.exists()
    assert [p.name for p in room.store.names()] == [f"images-{10 * BATCH:012d}", f"images-{0:012d}"]


def test_a_damaged_state_costs_the_steps_since_the_one_before(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    whole = short()
    room.loop(whole).run()
    newest = room.store.names()[0]
    (newest / STATE).write_bytes((newest / STATE).read_bytes()[:-1])
    second, progress = short(seed=4), Steps()
    logging.getLogger("graftgan").addHandler(caplog.handler)
    room.loop(second, progress=progress).run()
    logging.getLogger("graftgan").removeHandler(caplog.handler)
    assert progress.steps == 2
    assert "damaged" in caplog.text
    assert equal(everything(whole), everything(second))


def test_resume_never_starts_afresh(room: Room) -> None:
    first = short()
    room.loop(first).run()
    second, progress = short(), Steps()
    history = room.loop(second, progress=progress, resume="never").run()
    assert progress.steps == 10
    assert len(history.rows) == 5
    assert equal(everything(first), everything(second))


def test_resume_must_needs_a_state_that_is_whole(room: Room) -> None:
    room.loop(short(), resume="auto").run()
    for file in room.store.folder.rglob("state.safetensors"):
        file.write_bytes(b"")
    with pytest.raises(MissingInput, match="no whole state in"):
        room.loop(short(), resume="must").run()


def test_resume_must_needs_a_state(room: Room) -> None:
    with pytest.raises(MissingInput, match="no saved state") as error:
        room.loop(short(), resume="must").run()
    assert error.value.exit_code == 4
    room.loop(short()).run()
    room.loop(short(), resume="must").run()


def environment(folder: Path) -> dict[str, str]:
    roots = [Path(graftgan.__file__).parents[1], Path(__file__).parents[1]]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots)), "OMP_NUM_THREADS": "1"}


def test_a_real_sigterm_exits_143_and_the_next_start_ends_with_the_same_bytes(tmp_path: Path) -> None:
    from training.killable import Told, train

    cut, whole = tmp_path / "cut", tmp_path / "whole"
    cut.mkdir()
    whole.mkdir()
    command = [sys.executable, "-m", "training.killable", str(cut)]
    with subprocess.Popen(
        command, env=environment(cut), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        for _ in range(8):
            assert child.stdout.readline() == b"step\n"
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=120)
    assert child.returncode == 143, errors.decode()
    assert b"its state is saved" in errors
    assert not (cut / "last.safetensors").exists()
    again = subprocess.run(command, env=environment(cut), capture_output=True, check=False, timeout=240)
    assert again.returncode == 0, again.stderr.decode()
    assert 0 < again.stdout.count(b"step") <= 12

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    sleep, Told.advance = Told.advance, lambda *a: None  # type: ignore[method-assign,assignment]
    try:
        train(whole)
    finally:
        Told.advance = sleep  # type: ignore[method-assign]
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for name in ("last.safetensors", "best.safetensors", "frames.safetensors", "curves.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


# A budget of minutes


@dataclass
class Clock:
    """A clock that a test moves."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def minute(clock: Clock, seconds_a_step: float = 10.0) -> Steps:
    def tick(steps: int) -> None:
        clock.now += seconds_a_step

    return Steps(tick)


def test_a_budget_of_minutes_ends_with_a_measurement(room: Room, clock: Clock) -> None:
    trainer = short(budget={"minutes": 1}, evaluate_every_kimg=1)
    history = room.loop(trainer, progress=minute(clock)).run()
    # The clock passes one minute after the sixth step; that step was not measured, so one more is.
    assert trainer.images_seen == 7 * BATCH
    assert history.frame_images == [7 * BATCH]
    assert history.best_images == 7 * BATCH


def test_minutes_spent_before_an_interruption_count(room: Room, clock: Clock) -> None:
    loop = room.loop(short(budget={"minutes": 1}, evaluate_every_kimg=1))

    def tick(steps: int) -> None:
        clock.now += 10
        loop.ctx.stop.requested = steps == 3

    loop.ctx.progress = Steps(tick)
    with pytest.raises(Interrupted):
        loop.run()
    clock.now += 5000
    second, progress = short(budget={"minutes": 1}, evaluate_every_kimg=1), minute(clock)
    history = room.loop(second, progress=progress).run()
    assert progress.steps in (4, 5)
    assert history.frame_images == [second.images_seen]
    clock.now += 5000
    progress = minute(clock)
    room.loop(short(budget={"minutes": 1}, evaluate_every_kimg=1), progress=progress).run()
    assert progress.steps == 0


def test_learning_rates_cool_down_by_the_clock_too(room: Room, clock: Clock) -> None:
    trainer, rates = short(budget={"minutes": 1}, lr_cooldown=0.5, lr_generator=0.01), []
    progress = minute(clock)
    tick = progress.after

    def watch(steps: int) -> None:
        rates.append(trainer.adam_g.param_groups[0]["lr"])
        tick(steps)

    progress.after = watch
    room.loop(trainer, progress=progress).run()
    assert rates[:3] == [0.01] * 3
    assert rates[4] == pytest.approx(0.01 * (1 - 40 / 60) / 0.5)


# Divergence


def poison(trainer: Trainer, value: float = float("nan")) -> None:
    with torch.no_grad():
        trainer.gan.generator.get_parameter("synthesis.b8.conv0.weight")[0, 0, 0, 0] = value


def poisoned_once(trainer: Trainer, at: int) -> Steps:
    done: list[int] = []

    def act(steps: int) -> None:
        if trainer.images_seen == at * BATCH and not done:
            done.append(steps)
            poison(trainer)

    return Steps(act)


def test_a_run_goes_back_once_with_a_smaller_step(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    trainer = short(lr_cooldown=0.0)
    rate = trainer.adam_g.param_groups[0]["lr"]
    progress = poisoned_once(trainer, at=5)
    logging.getLogger("graftgan").addHandler(caplog.handler)
    history = room.loop(trainer, progress=progress).run()
    logging.getLogger("graftgan").removeHandler(caplog.handler)
    assert trainer.images_seen == 10 * BATCH
    assert trainer.finite()
    assert history.rollbacks == 1
    assert trainer.lr_scale == 0.5
    assert trainer.adam_g.param_groups[0]["lr"] == rate / 2
    # Steps 5 and 6 came twice: the run went back from 6 to 4.
    assert progress.steps == 12
    assert history.frame_images == [2 * BATCH * i for i in range(1, 6)]
    assert "diverged at 24 images; back to 16 with learning rates x 0.5" in caplog.text


def test_the_clock_decides_nothing_after_a_divergence(room: Room) -> None:
    ends = []
    for save_every_s in (0.0, 1e9):
        trainer = short(evaluate_every_kimg=5 * BATCH / 1000)
        place = Room(room.root / str(save_every_s))
        history = place.loop(trainer, save_every_s=save_every_s, progress=poisoned_once(trainer, at=7)).run()
        assert history.rollbacks == 1
        ends.append(everything(trainer))
    assert equal(*ends)


class Killed(BaseException):
    """The end of a process at a file operation: nothing more is done to the disk."""


class Mortal:
    """Ends a run at one of the file operations that it makes after a moment that a test chooses."""

    names = ("rename", "unlink", "rmdir", "mkdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.count, self.armed = 0, 0, False
        for name in self.names:
            monkeypatch.setattr(os, name, self.fatal(getattr(os, name)))

    def fatal(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if self.armed:
                self.count += 1
                # The dead do no more: what Python still unwinds must not reach the disk either.
                if self.at and self.count >= self.at:
                    raise Killed
            return real(*args, **more)

        return call


@pytest.mark.parametrize(
    "before",
    [pytest.param(1, id="to the start"), pytest.param(3, id="to a milestone", marks=pytest.mark.nightly)],
)
def test_a_kill_at_any_operation_of_a_return_changes_no_bit(
    room: Room, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    mortal = Mortal(monkeypatch)

    def run(place: Room) -> tuple[Trainer, History]:
        trainer = short(budget={"kimg": (before + 1) * BATCH / 1000})
        step, slow_down = trainer.step, trainer.slow_down

        def poisoned_step() -> None:
            # As a run does that diverges by itself: wherever it went on from, the same step breaks it.
            if trainer.images_seen == before * BATCH and trainer.lr_scale == 1:
                poison(trainer)
            step()

        def armed(factor: float) -> None:
            slow_down(factor)
            mortal.armed = True

        def disarmed(steps: int) -> None:
            mortal.armed = False

        monkeypatch.setattr(trainer, "step", poisoned_step)
        monkeypatch.setattr(trainer, "slow_down", armed)
        return trainer, place.loop(trainer, save_every_s=0, progress=Steps(disarmed)).run()

    whole, expected = run(room)
    operations = mortal.count
    assert operations > 10 and expected.rollbacks == 1
    for at in range(1, operations + 1):
        place = Room(room.root / str(at))
        mortal.at, mortal.count = at, 0
        with pytest.raises(Killed):
            run(place)
        mortal.at, mortal.armed = 0, False
        again, history = run(place)
        told = f"operation {at} of {operations}"
        assert (again.lr_scale, history.rollbacks) == (0.5, 1), told
        assert equal(everything(whole), everything(again)), told
        assert history.rows == expected.rows, told
        # The place is of no more use, and there are many.
        shutil.rmtree(place.root)


def test_a_poisoned_state_is_never_saved(room: Room) -> None:
    trainer = short(evaluate_every_kimg=1)
    loop = room.loop(trainer, save_every_s=0)
    states: list[list[str]] = []

    def act(steps: int) -> None:
        if steps == 3:
            poison(trainer)
        states.append([p.name for p in loop.interim.names()])
        loop.ctx.stop.requested = steps == 6

    loop.ctx.progress = Steps(act)
    with pytest.raises(Interrupted, match="are not finite and are not saved: the state before them stays"):
        loop.run()
    assert states[-1] == [f"images-{3 * BATCH:012d}"]
    second = short(evaluate_every_kimg=1)
    history = room.loop(second).run()
    assert history.rollbacks == 0
    assert second.finite()


def test_a_run_that_always_diverges_gives_up_after_three_returns(room: Room) -> None:
    trainer = short()
    progress = Steps(lambda steps: poison(trainer))
    with pytest.raises(GraftganError, match="diverged 4 times") as error:
        room.loop(trainer, progress=progress).run()
    assert error.value.exit_code == 1
    assert "learning rates" in error.value.remedy
    assert progress.closed
    # Each try is two steps, up to the first look; the fourth ends in the error before it is counted.
    assert progress.steps == 2 * (MAX_ROLLBACKS + 1) - 1


def test_a_learning_rate_out_of_this_world_gives_up(room: Room) -> None:
    trainer = short(lr_generator=1e12, lr_discriminator=1e12, budget={"kimg": 0.2})
    with pytest.raises(GraftganError, match="diverged 4 times"):
        room.loop(trainer).run()
    assert trainer.lr_scale == 1 / 8


def test_a_loss_beyond_the_limit_counts_as_divergence(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOSS_LIMIT", 1e-3)
    trainer = short()
    with pytest.raises(GraftganError, match="loss_d"):
        room.loop(trainer).run()
    assert trainer.finite()


def test_rollbacks_are_remembered_across_a_restart(room: Room) -> None:
    trainer = short()
    loop = room.loop(trainer)

    def act(steps: int) -> None:
        if trainer.images_seen == 3 * BATCH and trainer.lr_scale == 1:
            poison(trainer)
        loop.ctx.stop.requested = trainer.images_seen == 7 * BATCH

    loop.ctx.progress = Steps(act)
    with pytest.raises(Interrupted):
        loop.run()
    second = short()
    history = room.loop(second).run()
    assert history.rollbacks == 1
    assert second.lr_scale == 0.5


def test_a_history_goes_through_its_state(tmp_path: Path) -> None:
    from graftgan.training.state import read_state, write_state

    history = History(
        rows=[{"loss_g": 0.1}],
        frames=[torch.zeros(8, 2, 2, 3, dtype=torch.uint8)],
        frame_images=[32],
        best=Measurement(0.1, 0.0, 0.2, torch.ones(2, 2)),
        best_images=32,
        best_tensors={"generator.a": torch.ones(1)},
        rollbacks=2,
        elapsed_s=1.5,
    )
    write_state(tmp_path / "s", history.state_dict())
    again = History()
    again.load_state_dict(read_state(tmp_path / "s"))
    assert again.rows == history.rows
    assert (again.best_images, again.rollbacks, again.elapsed_s) == (32, 2, 1.5)
    assert again.best is not None
    assert (again.best.value, again.best.high) == (0.1, 0.2)
    assert equal(again.best_tensors, history.best_tensors)


def test_a_history_from_before_the_clock_was_kept_is_read() -> None:
    state = History().state_dict()
    del state["elapsed_s"]
    history = History()
    history.load_state_dict(state)
    assert history.elapsed_s == 0.0
