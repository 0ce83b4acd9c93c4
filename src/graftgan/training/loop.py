"""The run around the steps: measuring, choosing the best, saving, stopping, going back after a divergence."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from graftgan.checkpoints.store import adapter_tensors, gan_tensors
from graftgan.config import Budget
from graftgan.context import Context
from graftgan.errors import GraftganError, Interrupted, MissingInput
from graftgan.gans.base import Generator, draw_latents, to_uint8
from graftgan.gans.prior import Mixture
from graftgan.training import profile
from graftgan.training.state import StateStore
from graftgan.training.stepper import Stepper
from graftgan.world import agreed, from_first, is_first, meet, world

LOG_EVERY_IMAGES = 1000
TIMELINE_IMAGES = 8
TIMELINE_SEED = 1
MAX_ROLLBACKS = 3
SLOWER = 0.5
LOSS_LIMIT = 1e6


@dataclass(frozen=True)
class Measurement:
    """One look at the averaged generator.

    Attributes:
        value: Validation KID.
        low: Lower end of its interval.
        high: Upper end.
        features: Features of the samples, kept so that a later look can be compared in pairs.
    """

    value: float
    low: float
    high: float
    features: Tensor


class Judge(Protocol):
    """Measures generators and compares two measurements."""

    def measure(self, generator: Generator) -> Measurement:
        """Sample from fixed latents and score the samples."""

    def improves(self, new: Measurement, best: Measurement) -> bool:
        """Tell whether `new` beats `best` by more than one standard error of their paired difference."""


@dataclass
class History:
    """What a run has to tell.

    Attributes:
        rows: Curves; one mapping a log point.
        frames: Images of the averaged generator at fixed latents, uint8 [8, R, R, C], for each measurement.
        frame_images: Images seen at each of `frames`.
        best: Measurement of the best checkpoint.
        best_images: Images seen at it.
        best_tensors: Its networks.
        best_adapters: What parametrisations had brought to its averaged generator, before it was folded.
        rollbacks: How often the run went back.
        elapsed_s: Seconds spent so far, over all starts.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    frames: list[Tensor] = field(default_factory=list)
    frame_images: list[int] = field(default_factory=list)
    best: Measurement | None = None
    best_images: int = 0
    best_tensors: dict[str, Tensor] = field(default_factory=dict)
    best_adapters: dict[str, Tensor] = field(default_factory=dict)
    rollbacks: int = 0
    elapsed_s: float = 0.0

    def warnings(self, lr_scale: float) -> tuple[str, ...]:
        """Tell whether the run went back, and by what for its learning rates, or never got better."""
        found = []
        if self.rollbacks:
            found.append(f"training diverged {self.rollbacks} times; learning rates ended x {lr_scale:g}")
        if self.best is not None and not self.best_images:
            found.append("no look was better than what the run began with, which is kept")
        return tuple(found)

    def state_dict(self) -> dict[str, Any]:
        """Return the history as nested plain values and tensors."""
        state = dict(vars(self))
        state["best"] = None if self.best is None else dict(vars(self.best))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved history."""
        for name, value in state.items():
            setattr(self, name, value)
        self.best = None if state["best"] is None else Measurement(**state["best"])


def total_images(budget: Budget, training_images: int, batch: int) -> int:
    """Return the images that a budget of kimg or epochs allows, rounded up to whole steps.

    A budget of minutes alone gives a very large number; the loop watches the clock.
    """
    limits = []
    if budget.kimg is not None:
        limits.append(budget.kimg * 1000)
    if budget.epochs is not None:
        limits.append(budget.epochs * training_images)
    images = min(limits) if limits else 1e12
    # 0.07 kimg are 70.00000000000001 images; that is no reason for one more step.
    return max(math.ceil(round(images, 6) / batch), 1) * batch


def crossed(before: int, after: int, every: float) -> bool:
    """Tell whether a multiple of `every` lies in (before, after]."""
    return math.floor(after / every) > math.floor(before / every)


class Loop:
    """Runs a trainer to the end of its budget.

    After every measurement the state is saved as a milestone. Between them it is saved by the clock and on a
    signal, for going on after an interruption only: a run that diverges goes back to a milestone, so that the
    clock does not decide what it ends with.

    Of several workers the first keeps the clock, reads and writes states; all stop at the same step. States
    do not depend on the number of workers, so that another number may go on from them.

    Args:
        name: Name of the run, shown in the progress display.
        trainer: What to run.
        judge: How checkpoints are measured.
        store: Where the milestones lie; the state saved in between lies below it.
        ctx: Surroundings of the stage.
        save_every_s: Seconds between saved states.

    Attributes:
        shown: What the progress display tells of a row.
    """

    shown: tuple[str, ...] = ("loss_g", "loss_d", "ada_p", "kid_validation")

    def __init__(
        self, name: str, trainer: Stepper, judge: Judge, store: StateStore, ctx: Context, save_every_s: float
    ) -> None:
        self.name, self.trainer, self.judge = name, trainer, judge
        self.store, self.ctx, self.save_every_s = store, ctx, save_every_s
        self.interim = StateStore(store.folder / "interim", keep=1)
        self.history = History()
        self.saved_at = time.monotonic()
        self.started_at = self.saved_at
        self.pace_from = (0, self.saved_at)

    def run(self, look_first: bool = False) -> History:
        """Train until the budget is spent, going on from a saved state if there is one.

        Args:
            look_first: What the run begins with is measured too, and kept if no later look is better.

        Raises:
            Interrupted: A signal came; the state is saved, or the one before it where this one diverged.
            MissingInput: `--resume must` was asked for and there is no state.
            GraftganError: Training diverged more than three times.
        """
        trainer, settings = self.trainer, self.trainer.settings
        total = total_images(settings.budget, len(trainer.images), settings.batch)
        self._resume(look_first)
        self.started_at = time.monotonic() - self.history.elapsed_s
        self.pace_from = (trainer.images_seen, time.monotonic())
        task = self.ctx.progress.task(self.name, total, trainer.images_seen)
        try:
            with self.ctx.stop.deferred() as stop:
                while not self._finished(total):
                    before = trainer.images_seen
                    trainer.set_rate(self._share_done(total))
                    with profile.step(before // settings.batch):
                        trainer.step()
                    # Again, so that what is measured and saved stands where the run does.
                    trainer.set_rate(self._share_done(total))
                    scores = self._after_step(before, self._share_done(total) >= 1)
                    task.advance(max(trainer.images_seen - before, 0), scores)
                    if self._told_to_stop(stop.requested):
                        self._save_interim()
                        meet()
                        raise Interrupted(self._stopped(), "run the same command to go on")
        finally:
            task.close()
        return self.history

    def _share_done(self, total: int) -> float:
        """Return how much of the budget is spent, by images or by time, whichever is more."""
        minutes = self.trainer.settings.budget.minutes
        if world().size == 1:
            self.history.elapsed_s = time.monotonic() - self.started_at
        by_time = self.history.elapsed_s / (60 * minutes) if minutes else 0.0
        return max(self.trainer.images_seen / total, by_time)

    def _told_to_stop(self, requested: bool) -> bool:
        """Tell whether a signal reached any worker; the others take over the first one's time."""
        if world().size == 1:
            return requested
        stop, self.history.elapsed_s = agreed(requested, time.monotonic() - self.started_at)
        return stop

    def _stopped(self) -> str:
        """Return what became of the run when it was told to stop; weights that diverged are never saved."""
        saved = (
            "its state is saved"
            if self.trainer.finite()
            else "its weights are not finite and are not saved: the state before them stays"
        )
        return f"{self.name} stopped at {self.trainer.images_seen} images; {saved}"

    def _finished(self, total: int) -> bool:
        """Tell whether the budget is spent and the last step was measured, as the clock may have missed."""
        measured = self.history.frame_images[-1:] == [self.trainer.images_seen]
        return measured and self._share_done(total) >= 1

    def _saved(self) -> dict[str, Any] | None:
        def newest() -> dict[str, Any] | None:
            found = [state for store in (self.store, self.interim) if (state := store.latest()) is not None]
            return max(found, key=lambda state: int(state["trainer"]["images_seen"]), default=None)

        return from_first(newest)

    def _saved_something(self) -> bool:
        return any(store.names() for store in (self.store, self.interim))

    def _resume(self, look_first: bool) -> None:
        state = None if self.ctx.resume == "never" else self._saved()
        if state is not None:
            self.trainer.load_state_dict(state["trainer"])
            self.history.load_state_dict(state["history"])
            self.ctx.log.info("%s goes on from %d images", self.name, self.trainer.images_seen)
        elif self.ctx.resume == "must":
            kind = "whole" if self._saved_something() else "saved"
            raise MissingInput(f"{self.name}: no {kind} state in {self.store.folder}", "use --resume auto")
        else:
            if self.ctx.resume == "auto" and self._saved_something():
                self.ctx.log.warning(
                    "%s starts again from the beginning: no state in %s is whole",
                    self.name,
                    self.store.folder,
                )
            if look_first:
                self.history.rows.append({"images_seen": 0.0, **self._measure()})
            # Again, since whatever was built after the trainer may have drawn from the same generators.
            self.trainer.seed_noise()
            if is_first():
                self.store.clear()
            self._save()

    def _state(self) -> dict[str, Any]:
        return {"trainer": self.trainer.state_dict(), "history": self.history.state_dict()}

    def _save(self) -> None:
        if is_first():
            with profile.phase(profile.SAVING):
                self.store.save(self.trainer.images_seen, self._state())
                self.interim.clear()
        self.saved_at = time.monotonic()

    def _save_interim(self) -> None:
        if is_first() and self.trainer.finite():
            with profile.phase(profile.SAVING):
                self.interim.save(self.trainer.images_seen, self._state())
            self.saved_at = time.monotonic()

    def _after_step(self, before: int, last: bool) -> dict[str, float]:
        """Log, measure and save where it is due; return the latest scores."""
        now = self.trainer.images_seen
        due = crossed(before, now, self.trainer.settings.evaluate_every_kimg * 1000)
        measuring = last or due or self.trainer.part_done()
        if not (measuring or crossed(before, now, LOG_EVERY_IMAGES)):
            if time.monotonic() - self.saved_at > self.save_every_s:
                self._save_interim()
            return {}
        row = {"images_seen": float(now), **self.trainer.meter.take(), **self._strengths()}
        if not self._healthy(row):
            self._go_back(row)
            return {}
        if measuring:
            with profile.phase(profile.EVALUATION):
                row |= self._measure()
        self.history.rows.append(row)
        metrics = {f"{self.name}/{key}": value for key, value in row.items() if key != "images_seen"}
        # Of the tracker alone: the curves are results, and results do not depend on the machine's speed.
        metrics[f"{self.name}/images_per_second"] = self._pace(now)
        self.ctx.tracker.log_metrics(metrics, now)
        if measuring:
            self._save()
        return {name: row[name] for name in self.shown if name in row}

    def _strengths(self) -> dict[str, float]:
        """Return what moves beside the weights: ADA's p and, if there is one, the place of a mixed prior."""
        found = {"ada_p": self.trainer.augment.p}
        if isinstance(prior := self.trainer.gan.prior, Mixture):
            found["prior_lambda"] = prior.position
        return found

    def _pace(self, images: int) -> float:
        """Return images per second since this was last asked for."""
        before, self.pace_from = self.pace_from, (images, time.monotonic())
        return max(images - before[0], 0) / max(self.pace_from[1] - before[1], 1e-9)

    def _healthy(self, row: Mapping[str, float]) -> bool:
        values = [value for name, value in row.items() if name.startswith("loss")]
        return all(math.isfinite(v) and abs(v) < LOSS_LIMIT for v in values) and self.trainer.finite()

    def _go_back(self, row: Mapping[str, float]) -> None:
        count = self.history.rollbacks + 1
        state = from_first(self.store.latest)
        if count > MAX_ROLLBACKS or state is None:
            losses = ", ".join(f"{name} {value:g}" for name, value in row.items() if name.startswith("loss"))
            raise GraftganError(
                f"{self.name} diverged {count} times; at {self.trainer.images_seen} images {losses}",
                "use smaller learning rates or a larger finetune.r1_gamma",
            )
        seen = self.trainer.images_seen
        self.trainer.load_state_dict(state["trainer"])
        self.history.load_state_dict(state["history"])
        self.history.rollbacks = count
        self.trainer.slow_down(SLOWER)
        if is_first():
            # First, or who died behind the save would go on from before the return and be slowed down again.
            self.interim.clear()
        self._save()
        self.ctx.log.warning(
            "%s diverged at %d images; back to %d with learning rates x %g",
            self.name, seen, self.trainer.images_seen, self.trainer.lr_scale,
        )  # fmt: skip

    def _measure(self) -> dict[str, float]:
        history, trainer = self.history, self.trainer
        history.frames.append(self._frame())
        history.frame_images.append(trainer.images_seen)
        new = self.judge.measure(trainer.gan.generator_ema)
        if history.best is None or self.judge.improves(new, history.best):
            history.best, history.best_images = new, trainer.images_seen
            history.best_tensors = gan_tensors(trainer.gan)
            history.best_adapters = adapter_tensors(trainer.gan.generator_ema)
        return {"kid_validation": new.value, "kid_low": new.low, "kid_high": new.high}

    @torch.no_grad()
    def _frame(self) -> Tensor:
        spec, generator = self.trainer.gan.spec, self.trainer.gan.generator_ema
        rng = torch.Generator().manual_seed(TIMELINE_SEED)
        z, labels = draw_latents(spec, TIMELINE_IMAGES, rng, generator.prior)
        device = self.trainer.device
        images = generator(z.to(device), None if labels is None else labels.to(device), 1.0, "const")
        return torch.from_numpy(to_uint8(images))
