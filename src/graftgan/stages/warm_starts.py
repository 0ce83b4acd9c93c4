"""Which task of a bank a new one should start from: how near each is now, and what a few steps make of it.

The lifelong counterpart of choosing a checkpoint by recall (Grigoryev et al. 2022). Nothing here writes to a
bank.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graftgan.bank.store import Bank
from graftgan.bank.tasks import RANDOM, WARM, begin
from graftgan.bank.tasks import load_task as stored_generator
from graftgan.contract import digest_text
from graftgan.data.pairs import Part, TaskImages
from graftgan.errors import DataError
from graftgan.lifelong_config import Kind, Translate
from graftgan.metrics.features import Extractor
from graftgan.metrics.intervals import Estimate
from graftgan.metrics.kid import kid, paired_kid_difference
from graftgan.metrics.precision_recall import recall
from graftgan.metrics.translation import grouped_mean, paired_scores
from graftgan.progress import Progress
from graftgan.training.loop import Measurement
from graftgan.training.state import read_state, write_state
from graftgan.training.translation import TranslationTrainer, make_trainer
from graftgan.training.translation_loop import PairedJudge, TranslationJudge, UnpairedJudge, can_judge
from graftgan.training.translators import make_translators, translate

AUTO = "auto"
HELD_OUT = 0.25
"""Share of the training images that a probe is measured on where there are no validation images."""
LEAST_IMAGES = 10
TIE_STANDARD_ERRORS = 2.0
log = logging.getLogger("graftgan")


@dataclass(frozen=True)
class Looking:
    """How closely the starts are looked at.

    Attributes:
        images: Most images that the outputs are compared with, and most that a probe is measured on.
        probe_steps: Training steps from each start; 0 looks at the tasks as they are.
        recall_neighbours: Neighbour whose distance is a radius of recall.
        kept: Folder where finished probes are kept and found again, for the same bank, task, recipe and code;
            None keeps none.
    """

    images: int = 256
    probe_steps: int = 40
    recall_neighbours: int = 3
    kept: Path | None = None


@dataclass(frozen=True)
class NewTask:
    """A task that is to be added.

    Attributes:
        name: Its name.
        images: Its images.
        train: Its recipe, which probes follow at its first learning rate.
    """

    name: str
    images: TaskImages
    train: Translate


@dataclass(frozen=True)
class Probe:
    """Scores of one start on held-out images before and after a few steps; less is better.

    Attributes:
        before: Of the start itself.
        after: After the steps.
        behind: How much more the start has after the steps than the best one has, image by image.
    """

    before: Estimate
    after: Estimate
    behind: Estimate


@dataclass(frozen=True)
class Start:
    """One way to start a task.

    Attributes:
        init: `random` or `warm:TASK`, as `tasks add` takes it.
        scores: Of the task's outputs for the new inputs against the new targets: `recall` and `kid`, and for
            paired tasks those of `paired_scores`; none of a random start, whose outputs mean nothing.
        probe: What a few steps made of it, or None without a probe.
    """

    init: str
    scores: dict[str, Estimate]
    probe: Probe | None = None


@dataclass(frozen=True)
class StartRanking:
    """All starts of a new task.

    Attributes:
        starts: Best first.
        tied: Inits that are not clearly worse than the best, itself among them.
        measure: What decided: `l1` or `kid` after the probe, else `recall`.
        images: Images that outputs were compared with.
        held_out: Images that the probe was measured on.
        steps: Steps of the probe.
        why: A sentence on the choice.
    """

    starts: tuple[Start, ...]
    tied: tuple[str, ...]
    measure: str
    images: int
    held_out: int
    steps: int
    why: str

    @property
    def chosen(self) -> str:
        """The init that is best."""
        return self.starts[0].init

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def rank_starts(
    bank: Bank,
    new: NewTask,
    extractor: Extractor,
    device: torch.device,
    back: Bank | None = None,
    looking: Looking | None = None,
    progress: Progress | None = None,
) -> StartRanking:
    """Order a random start and a warm start from every task of a bank, best first.

    Only training and validation images are looked at. Every probe draws the same images and the same random
    numbers, so two calls give the same ranking.

    Args:
        bank: The bank; it is only read.
        new: The new task.
        extractor: What features are.
        device: Where to compute.
        back: Bank of the ways back, for unpaired tasks.
        looking: How closely to look.
        progress: Where the probes show how far they are; None shows nothing.

    Raises:
        ConfigError: The name is taken, or an unpaired task has no bank for its way back.
        DataError: There are too few images.
        CheckpointError: A file of the bank is damaged.
    """
    looking = looking or Looking()
    bank.check_new(new.name)
    if not bank.tasks:
        why = f"{RANDOM}: the bank has no task to start from."
        return StartRanking((Start(RANDOM, {}),), (RANDOM,), "none", 0, 0, 0, why)
    kind = new.images.data.kind
    shown, held_out = _parts(new.images, looking)
    starts = [
        Start(f"{WARM}{task.name}", _nearness(bank, task.name, shown, kind, extractor, looking))
        for task in bank.tasks
    ]
    if looking.probe_steps:
        judge = _judge(kind, held_out, extractor)
        prober = _Prober(bank, back, new, shown, device, judge, progress, looking.kept)
        starts = prober.probe([*starts, Start(RANDOM, {})], looking.probe_steps)
    return _ranked(starts, kind, len(shown.inputs), len(held_out.inputs), looking.probe_steps)


def _parts(images: TaskImages, looking: Looking) -> tuple[Part, Part]:
    """Return what outputs are compared with and probes train on, and what probes are measured on."""
    train, held_out = images.part("train"), images.parts.get("validation")
    count = len(train.targets)
    if held_out is None or not can_judge(held_out):
        train, held_out = _divided(train)
    if min(len(train.inputs), len(train.targets)) < LEAST_IMAGES or not can_judge(held_out):
        raise DataError(
            f"{images.data.target}: {count} training images are too few to rank starts",
            f"give {2 * LEAST_IMAGES} or more of different names, or name the start",
        )
    return _drawn(train, looking.images), _drawn(held_out, looking.images)


def _divided(part: Part) -> tuple[Part, Part]:
    """Divide a part by whole groups, so that what nearly equals a training image is not held out."""
    groups = sorted(set(part.groups))
    order = np.random.default_rng(0).permutation(len(groups))
    apart = {groups[i] for i in order[: round(HELD_OUT * len(groups))]}
    inside = np.array([group in apart for group in part.groups])
    if len(part.inputs) == len(part.targets):
        return _rows(part, ~inside, ~inside), _rows(part, inside, inside)
    cut = round(HELD_OUT * len(part.targets))
    targets = np.random.default_rng(1).permutation(len(part.targets)) < cut
    return _rows(part, ~inside, ~targets), _rows(part, inside, targets)


def _drawn(part: Part, count: int) -> Part:
    """Return at most `count` images of each side; of pairs both images, in the order of the set."""
    first = np.sort(np.random.default_rng(2).permutation(len(part.inputs))[:count])
    if len(part.inputs) == len(part.targets):
        return _rows(part, first, first)
    return _rows(part, first, np.sort(np.random.default_rng(3).permutation(len(part.targets))[:count]))


def _rows(part: Part, first: Any, second: Any) -> Part:
    chosen = np.arange(len(part.inputs))[first]
    return Part(
        part.inputs[first], part.targets[second],
        tuple(part.names[i] for i in chosen), tuple(part.groups[i] for i in chosen),
    )  # fmt: skip


def _nearness(
    bank: Bank, name: str, part: Part, kind: Kind, extractor: Extractor, looking: Looking
) -> dict[str, Estimate]:
    """Return how near a task's outputs for the new inputs are to the new targets."""
    outputs = translate(stored_generator(bank, name), part.inputs)
    made, wanted = extractor(outputs), extractor(part.targets)
    found = {"recall": recall(wanted, made, k=looking.recall_neighbours), "kid": kid(made, wanted)}
    if kind == "paired":
        found |= paired_scores(outputs, part.targets, part.groups, extractor)
    return found


def _judge(kind: Kind, part: Part, extractor: Extractor) -> TranslationJudge:
    return PairedJudge(part) if kind == "paired" else UnpairedJudge(part, extractor)


def _kept_probe(place: Path, init: str) -> tuple[Measurement, Measurement] | None:
    if not place.is_dir():
        return None
    try:
        state = read_state(place)
        return Measurement(**state["before"]), Measurement(**state["after"])
    except (ValueError, KeyError, TypeError) as error:
        log.warning("the probe of %s in %s is damaged (%s) and is done again", init, place, error)
        return None


@dataclass(frozen=True)
class _Prober:
    """Trains a little from each start, always alike."""

    bank: Bank
    back: Bank | None
    new: NewTask
    part: Part
    device: torch.device
    judge: TranslationJudge
    progress: Progress | None
    kept: Path | None

    def probe(self, starts: Sequence[Start], steps: int) -> list[Start]:
        """Return the starts with their probes."""
        runs = [self._finished(start.init, steps) for start in starts]
        best = min(runs, key=lambda run: run[1].value)[1]
        return [
            Start(
                start.init,
                start.scores,
                Probe(
                    self._estimate(before.features),
                    self._estimate(after.features),
                    self._behind(after.features, best.features),
                ),
            )
            for start, (before, after) in zip(starts, runs, strict=True)
        ]

    def _finished(self, init: str, steps: int) -> tuple[Measurement, Measurement]:
        """Return what a probe measured before and after, doing it if no earlier start has finished it."""
        if self.kept is None:
            return self._run(init, steps)
        place = self.kept / digest_text(init)[:16]
        if (known := _kept_probe(place, init)) is not None:
            return known
        before, after = self._run(init, steps)
        write_state(place, {"before": vars(before), "after": vars(after)})
        return before, after

    def _run(self, init: str, steps: int) -> tuple[Measurement, Measurement]:
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            trainer = self._trainer(init)
            before = self.judge.measure(trainer.gan.generator)
            trainer.set_rate(0.0)
            self._train(trainer, init, steps)
            # The average of a recipe that has one remembers the start for longer than a probe lasts.
            return before, self.judge.measure(trainer.gan.generator)

    def _train(self, trainer: TranslationTrainer, init: str, steps: int) -> None:
        batch = self.new.train.batch
        bar = self.progress.task(f"probe of {init}", steps * batch) if self.progress else None
        for _ in range(steps):
            trainer.step()
            if bar:
                bar.advance(batch)
        if bar:
            bar.close()

    def _trainer(self, init: str) -> TranslationTrainer:
        name, train, kind = self.new.name, self.new.train, self.new.images.data.kind
        generator, way_back = begin(self.bank, name, init, train.seed).generator, None
        if kind == "unpaired" and self.back is not None:
            known = any(f"{WARM}{task.name}" == init for task in self.back.tasks)
            way_back = begin(self.back, name, init if known else RANDOM, train.seed + 1).generator
        resolution = self.part.targets.shape[1]
        networks = make_translators(kind, generator, train, resolution, way_back)
        return make_trainer(kind, networks, self.part, train, self.device)

    def _estimate(self, mine: torch.Tensor) -> Estimate:
        if isinstance(self.judge, UnpairedJudge):
            return kid(mine.numpy(), self.judge.real)
        return grouped_mean(mine.numpy(), self.judge.part.groups)

    def _behind(self, mine: torch.Tensor, best: torch.Tensor) -> Estimate:
        if isinstance(self.judge, UnpairedJudge):
            return paired_kid_difference(mine.numpy(), best.numpy(), self.judge.real)
        return grouped_mean((mine - best).numpy(), self.judge.part.groups)


def _ranked(starts: Sequence[Start], kind: Kind, images: int, held_out: int, steps: int) -> StartRanking:
    tied = [start for start in starts if _ties(start, starts)]
    rest = sorted((start for start in starts if start not in tied), key=_value)
    ordered = (*sorted(tied, key=_among_equals), *rest)
    measure = ("l1" if kind == "paired" else "kid") if steps else "recall"
    names = tuple(start.init for start in ordered[: len(tied)])
    why = _reason(ordered, names, measure, held_out if steps else images, steps)
    return StartRanking(ordered, names, measure, images, held_out if steps else 0, steps, why)


def _value(start: Start) -> float:
    """Return what a start is ordered by; less is better."""
    return start.probe.after.value if start.probe else -start.scores["recall"].value


def _ties(start: Start, starts: Sequence[Start]) -> bool:
    """Tell whether a start is not clearly worse than the best: by two standard errors."""
    if start.probe:
        behind = start.probe.behind
        return behind.value <= TIE_STANDARD_ERRORS * behind.stderr
    best = max((other.scores["recall"] for other in starts), key=lambda found: found.value)
    return start.scores["recall"].value >= best.value - TIE_STANDARD_ERRORS * best.stderr


def _among_equals(start: Start) -> tuple[float, float]:
    """Order tied starts: warm ones before a random one, then more recall, then less KID."""
    if not start.scores:
        return 1.0, 0.0
    return -start.scores["recall"].value, start.scores["kid"].value


def _reason(starts: Sequence[Start], tied: Sequence[str], measure: str, images: int, steps: int) -> str:
    best = starts[0]
    if best.probe:
        found = best.probe.after
        finding = (
            f"after {steps} steps its {measure.upper()} on {images} held-out images is {found.value:.4g}"
        )
        unit = "{:.4g}"
    else:
        finding = f"its outputs cover {best.scores['recall'].value:.0%} of {images} targets"
        unit = "{:.0%}"
    others = [init for init in tied if init != best.init]
    if others:
        return (
            f"{best.init}: {finding}, not clearly better or worse than {', '.join(others)}; "
            "among equals more recall decides, then less KID."
        )
    if len(starts) == 1:
        return f"{best.init}: {finding}; there is no other start."
    second = starts[1]
    return f"{best.init}: {finding}, better than any other start (next is {second.init} with " + (
        f"{unit.format(abs(_value(second)))})."
    )
