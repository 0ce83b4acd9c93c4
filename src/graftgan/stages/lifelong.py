"""Learns one image-to-image task after another into a bank, and scores every task of it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from graftgan.bank.manifest import Task
from graftgan.bank.store import Bank
from graftgan.bank.tasks import RANDOM, WARM, Begun, begin, finish
from graftgan.bank.tasks import load_task as stored_generator
from graftgan.config import Runtime
from graftgan.context import Context
from graftgan.contract import canonical_json, digest_text
from graftgan.data.pairs import Part, TaskImages
from graftgan.device import pick_device
from graftgan.errors import ConfigError, DataError
from graftgan.gans.translation import TranslatorSpec
from graftgan.lifelong_config import Kind, Translate, TranslationScores
from graftgan.metrics.features import Extractor, make_extractor
from graftgan.metrics.intervals import Estimate
from graftgan.metrics.kid import kid
from graftgan.metrics.scores import metric_name
from graftgan.metrics.translation import paired_scores
from graftgan.params import flatten
from graftgan.places import code_digest
from graftgan.progress import Progress
from graftgan.reporting.sheets import sheet
from graftgan.stages.warm_starts import AUTO, Looking, NewTask, StartRanking, rank_starts
from graftgan.training import memory
from graftgan.training.loop import History
from graftgan.training.profile import profiling
from graftgan.training.state import StateStore
from graftgan.training.switches import switches
from graftgan.training.translation import TranslationTrainer, make_trainer
from graftgan.training.translation_loop import (
    PairedJudge,
    TranslationJudge,
    TranslationLoop,
    UnpairedJudge,
    can_judge,
    profile_of,
    restore_kept,
)
from graftgan.training.translators import make_translators, translate
from graftgan.unfinished import Note, noted, tell, unused

JUDGED_IMAGES = 256
STATE_DIGITS = 16


@dataclass(frozen=True)
class Settings:
    """How a task is learnt and scored.

    Attributes:
        train: The recipe.
        scores: The final scores.
        runtime: Device, and how often state is saved.
        init: `random`, `warm:TASK`, or `auto` for the best of them; see :func:`rank_inits`.
    """

    train: Translate
    scores: TranslationScores
    runtime: Runtime
    init: str = RANDOM


@dataclass(frozen=True)
class Learnt:
    """What learning a task gave.

    Attributes:
        task: Its entry in the bank.
        history: Curves and validation scores.
        scores: Scores of test images, from inputs to targets.
        warnings: Sentences for people.
        ranking: How the start was chosen; None where it was named.
        switches: How it was computed, for the record.
    """

    task: Task
    history: History
    scores: dict[str, Estimate]
    warnings: tuple[str, ...]
    ranking: StartRanking | None = None
    switches: Mapping[str, str] = field(default_factory=dict)


def learn_task(
    bank: Bank,
    name: str,
    images: TaskImages,
    settings: Settings,
    ctx: Context,
    back: Bank | None = None,
    *,
    keep_state: bool = False,
) -> Learnt:
    """Train a task to the end, score it on test images and add it to the bank.

    Called again after an interruption it goes on from the saved state, as long as code, bank, images and
    settings are the same. The bank is locked meanwhile and changes only at the end.

    Args:
        bank: Where the task is added.
        name: Its name.
        images: Its images; the test split must exist.
        settings: How.
        ctx: Surroundings of the stage; state is kept below `ctx.state`.
        back: Bank of the generators from targets to inputs, which unpaired tasks need.
        keep_state: Leave the saved state where it is, for who must still put the bank in place.

    Raises:
        Interrupted: A signal came; the state is saved.
        MissingInput: `--resume must` was asked for, and there is no state, or one of another run.
        ConfigError: The name is taken, or settings do not fit the task.
        DataError: There are too few images.
        TryAgain: Another process writes to the bank.
        CheckpointError: The bank is damaged.
    """
    second = _way_back(name, images, back)
    with ExitStack() as locks:
        locks.enter_context(bank.alone())
        if second is not None:
            locks.enter_context(second.alone())
            _take_back(bank, second, name)
        _refuse_taken(bank, name, ctx)
        ranking, spent = None, []
        if settings.init == AUTO:
            ranking, probes = _choose_init(bank, second, name, images, settings, ctx)
            spent.append(probes)
            settings = replace(settings, init=ranking.chosen)
        if text := memory_warning(bank.spec, images.data.kind, settings, images.data.resolution):
            ctx.log.warning("%s: %s", name, text)
        begun = begin(bank, name, settings.init, settings.train.seed)
        begun_back = None if second is None else _begin_back(second, name, settings)
        trainer, warnings = _trainer(begun, begun_back, images, settings)
        judge, more = _judge(images, settings)
        note = state_note(bank, second, name, images, settings)
        history, state = _train(name, trainer, judge, note, settings, ctx)
        extractor = open_extractor(settings, "extractor")
        scores = score_task(trainer.gan.generator_ema, images, extractor, settings)
        task = _finish(bank, second, begun, begun_back, trainer, images, settings, scores)
        if not keep_state:
            for folder in (state, *spent):
                shutil.rmtree(folder, ignore_errors=True)
    said = (*images.warnings, *warnings, *more, *history.warnings(trainer.lr_scale))
    return Learnt(task, history, scores, said, ranking, switches(trainer))


def _train(
    name: str, trainer: TranslationTrainer, judge: TranslationJudge, note: Note, settings: Settings,
    ctx: Context,
) -> tuple[History, Path]:  # fmt: skip
    """Train to the best networks, from a saved state if there is one; return history and folder of states."""
    state = state_folder(note, name, ctx)
    tell(name, unused(state, note), ctx.resume, ctx.log)
    store = StateStore(state / "states", settings.runtime.keep_states)
    loop = TranslationLoop(name, trainer, judge, store, ctx, settings.runtime.save_every_s)
    with noted(state, note), profiling(profile_of(name, trainer, settings.runtime)):
        history = loop.run()
    restore_kept(trainer, history.best_tensors)
    return history, state


def memory_warning(spec: TranslatorSpec, kind: Kind, settings: Settings, side_px: int) -> str | None:
    """Return a sentence if a step needs more memory than is free, with the batch that would fit."""
    need = memory.estimate_translation(spec, kind, settings.train, side_px)
    return memory.shortage(need, "train.batch", pick_device(settings.runtime.device))


def _way_back(name: str, images: TaskImages, back: Bank | None) -> Bank | None:
    images.part("test")
    if images.data.kind != "unpaired":
        return None
    if back is None:
        raise ConfigError(f"task {name} is unpaired", "give a second bank for the way back")
    return back


def rank_inits(
    bank: Bank,
    name: str,
    images: TaskImages,
    settings: Settings,
    back: Bank | None = None,
    looking: Looking | None = None,
    progress: Progress | None = None,
) -> StartRanking:
    """Order the starts that a new task could have; see :func:`rank_starts`, which says what it raises."""
    extractor = open_extractor(settings, "validation_extractor")
    device = pick_device(settings.runtime.device)
    new = NewTask(name, images, settings.train)
    return rank_starts(bank, new, extractor, device, back, looking, progress)


def _choose_init(
    bank: Bank, back: Bank | None, name: str, images: TaskImages, settings: Settings, ctx: Context
) -> tuple[StartRanking, Path]:
    """Rank the starts, without the probes that an interrupted call has finished; tell where these lie too."""
    state = state_folder(state_note(bank, back, name, images, settings), name, ctx)
    if ctx.resume == "never":
        shutil.rmtree(state, ignore_errors=True)
    looking = Looking(kept=state / "probes")
    return rank_inits(bank, name, images, settings, back, looking, ctx.progress), state


def score_task(
    generator: nn.Module, images: TaskImages, extractor: Extractor, settings: Settings
) -> dict[str, Estimate]:
    """Return the scores of test images: KID, and for paired tasks L1, PSNR and feature distances.

    Raises:
        DataError: There are too few test images.
    """
    part = test_part(images, settings.scores)
    return score_outputs(translate(generator, part.inputs), images, extractor, settings.scores)


def test_part(images: TaskImages, scores: TranslationScores) -> Part:
    """Return the test images that scores are of."""
    return _first(images.part("test"), scores.max_images)


def score_outputs(
    outputs: NDArray[np.uint8], images: TaskImages, extractor: Extractor, scores: TranslationScores
) -> dict[str, Estimate]:
    """Return the scores of what was made of the inputs of :func:`test_part`; see :func:`score_task`.

    Raises:
        DataError: There are too few test images.
    """
    part = test_part(images, scores)
    confidence = scores.confidence
    found: dict[str, Estimate] = {}
    if images.data.kind == "paired":
        if not can_judge(part):
            raise DataError(
                f"{images.data.target}: the test images are of {len(set(part.groups))} names",
                "give the task images of more names",
            )
        found = paired_scores(outputs, part.targets, part.groups, extractor, confidence)
    found[metric_name("kid", extractor.protocol)] = kid(
        extractor(outputs), extractor(part.targets), confidence=confidence
    )
    return found


def score_bank(
    bank: Bank, tasks: Mapping[str, TaskImages], settings: Settings
) -> dict[str, dict[str, Estimate]]:
    """Score every task of a bank whose images are given, as it is stored now."""
    extractor = open_extractor(settings, "extractor")
    device = pick_device(settings.runtime.device)
    return {
        task.name: score_task(
            stored_generator(bank, task.name).to(device), tasks[task.name], extractor, settings
        )
        for task in bank.tasks
        if task.name in tasks
    }


def example_sheet(
    generator: nn.Module, images: TaskImages, rows: int = 8, cell_px: int = 64
) -> NDArray[np.uint8]:
    """Return a sheet of test images; a row is an input, its output and, of a paired task, the truth."""
    part = _first(images.part("test"), rows)
    columns = [part.inputs, translate(generator, part.inputs)]
    if images.data.kind == "paired":
        columns.append(part.targets)
    cells = np.stack(columns, axis=1).reshape(-1, *part.inputs.shape[1:])
    return sheet(cells, len(columns), cell_px=cell_px)


def _trainer(
    begun: Begun, begun_back: Begun | None, images: TaskImages, settings: Settings
) -> tuple[TranslationTrainer, list[str]]:
    data, train = images.data, settings.train
    back = None if begun_back is None else begun_back.generator
    networks = make_translators(data.kind, begun.generator, train, data.resolution, back)
    part = images.part("train")
    device = pick_device(settings.runtime.device)
    few = min(len(part.inputs), len(part.targets))
    warnings = [f"a step has {train.batch} images and the task {few}"] if few < train.batch else []
    return make_trainer(data.kind, networks, part, train, device), warnings


def _judge(images: TaskImages, settings: Settings) -> tuple[TranslationJudge, list[str]]:
    """Return what measures checkpoints, and a warning if it must do so on training images."""
    warnings = []
    part = images.parts.get("validation")
    if part is None or not can_judge(part):
        part = images.part("train")
        warnings.append("validation scores are of training images: there are too few others")
    part = _first(part, JUDGED_IMAGES)
    if not can_judge(part):
        raise DataError(
            f"{images.data.target} gives {len(part.targets)} training images",
            "give 5 or more of different names",
        )
    if images.data.kind == "paired":
        return PairedJudge(part), warnings
    return UnpairedJudge(part, open_extractor(settings, "validation_extractor")), warnings


def _first(part: Part, count: int) -> Part:
    return Part(part.inputs[:count], part.targets[:count], part.names[:count], part.groups[:count])


def open_extractor(settings: Settings, key: str) -> Extractor:
    """Return the feature extractor that `settings.scores` names at `key`."""
    name = str(getattr(settings.scores, key))
    given = settings.runtime.inception_weights
    weights = Path(given) if given and name == "inception" else None
    return make_extractor(name, weights=weights, device=str(pick_device(settings.runtime.device)))


def _begin_back(back: Bank, name: str, settings: Settings) -> Begun:
    """Begin the way back; it starts warm where the bank of the ways back has the same task."""
    warm = settings.init.removeprefix(WARM)
    known = settings.init.startswith(WARM) and any(task.name == warm for task in back.tasks)
    return begin(back, name, settings.init if known else RANDOM, settings.train.seed + 1)


def _refuse_taken(bank: Bank, name: str, ctx: Context) -> None:
    """Refuse a name that is taken; a state of its task, which a kill left behind the adding, goes.

    Raises:
        ConfigError: It is taken, or cannot be a task's.
    """
    if any(task.name == name for task in bank.tasks):
        for state in ctx.state.glob(f"{name}-{'[0-9a-f]' * STATE_DIGITS}"):
            shutil.rmtree(state, ignore_errors=True)
    bank.check_new(name)


def _take_back(bank: Bank, back: Bank, name: str) -> None:
    """Take out a way back whose way there was never added, because the process died in between."""
    there = any(task.name == name for task in bank.tasks)
    if not there and back.tasks and back.tasks[-1].name == name:
        back.remove(name)


def state_note(bank: Bank, back: Bank | None, name: str, images: TaskImages, settings: Settings) -> Note:
    """Return what a saved state may be gone on with: the same code, networks, images, recipe and scores."""
    config: dict[str, Any] = {"init": settings.init, "generator": bank.spec.to_dict()}
    for section, values in (("train", settings.train), ("scores", settings.scores)):
        config |= flatten(values.model_dump(mode="json"), f"{section}.")
    inputs = {"bank": bank.head, "images": images.digest}
    if back is not None:
        inputs["back"] = back.head
    return Note(f"{bank.folder.resolve()}: {name}", config, code_digest(), inputs)


def state_folder(note: Note, name: str, ctx: Context) -> Path:
    """Return where the state that a note is of lies; the bank's own place is no part of it."""
    return (
        ctx.state
        / f"{name}-{digest_text(canonical_json([note.config, note.code, note.inputs]))[:STATE_DIGITS]}"
    )


def _finish(
    bank: Bank,
    back: Bank | None,
    begun: Begun,
    begun_back: Begun | None,
    trainer: TranslationTrainer,
    images: TaskImages,
    settings: Settings,
    scores: Mapping[str, Estimate],
) -> Task:
    """Add the ways back, if there is one, and there; the last of them makes the task exist."""
    size_px, digest = images.data.resolution, images.digest
    background = images.data.background
    recipe = digest_text(canonical_json(settings.train.model_dump(mode="json")))
    if back is not None and begun_back is not None:
        finish(
            back, begun_back, trainer.gan.back_ema,
            size_px=size_px, data_fingerprint=digest, config_hash=recipe, background=background,
        )  # fmt: skip
    return finish(
        bank, begun, trainer.gan.generator_ema,
        size_px=size_px, data_fingerprint=digest, config_hash=recipe, background=background,
        scores={name: estimate.value for name, estimate in scores.items()},
    )  # fmt: skip
