"""finetune: adapts the chosen source, beside control runs at the same budget."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graftgan.checkpoints.catalogue import SCRATCH, Catalogue, Source
from graftgan.checkpoints.store import SPEC, WEIGHTS, gan_tensors, save_tensors
from graftgan.config import Finetune, Params
from graftgan.context import Context
from graftgan.contract import Outcome, read_json, write_json, write_text
from graftgan.data.dataset import ImageSet
from graftgan.device import pick_device, pick_dtype, precision_name
from graftgan.errors import DataError, MissingInput
from graftgan.gans.base import Gan, Generator, sample
from graftgan.gans.prior import split_prior
from graftgan.parallel import processes, run_all
from graftgan.reporting.facts import decision
from graftgan.reporting.sheets import save_png, sheet
from graftgan.stages.adapting import (
    Trained,
    adapter_bytes,
    check_memory_bases,
    check_memory_classes,
    conclude,
    moving_parameters,
    stored_bytes,
)
from graftgan.stages.class_judging import make_class_judge
from graftgan.stages.class_report import class_facts
from graftgan.stages.deciding import said_before, with_method
from graftgan.stages.judging import make_judge
from graftgan.stages.prior import Prepared, check_prior, find_prior, prior_facts, write_inversion
from graftgan.stages.start import Start, starting_point
from graftgan.stages.together import check_workers
from graftgan.training import memory
from graftgan.training.ada_controller import AdaControllerConfig
from graftgan.training.augment import make_augment
from graftgan.training.loop import TIMELINE_IMAGES, History, Loop, total_images
from graftgan.training.profile import Profile, profiling
from graftgan.training.state import SAVED, StateStore
from graftgan.training.stepper import Stepper
from graftgan.training.switches import switches
from graftgan.training.trainer import Trainer
from graftgan.transfer import check_family, method
from graftgan.transfer.auto import AUTO
from graftgan.transfer.base import Method
from graftgan.transfer.class_embedding import ClassTuner
from graftgan.transfer.combinations import check_settings, check_starts
from graftgan.transfer.direct import DirectTrainer, Task
from graftgan.transfer.invariants import Fixed
from graftgan.transfer.penalties import make_penalties
from graftgan.transfer.rehearsal import rehearse
from graftgan.world import from_first, is_first, world

COLUMNS = (
    "images_seen", "loss_g", "loss_d", "r1", "path_length", "sign_real", "sign_fake", "ada_p",
    "grad_norm_g", "grad_norm_d", "kid_validation", "kid_low", "kid_high",
)  # fmt: skip
SHEET_IMAGES = 64
SHEET_SEED = 0
LAST = "last.safetensors"


@dataclass(frozen=True)
class Arm:
    """One run of the stage.

    Attributes:
        run: Its name: chosen, worst or scratch.
        source: Name of its source, or "scratch".
        params: All parameters.
        dataset: The packed image set.
        folder: Where its model goes; made by the run.
        why: Why `finetune.method: auto` took the method; empty where the user named it.
        told: Sentences for its warnings that were known before it began.
    """

    run: str
    source: str
    params: Params
    dataset: Path
    folder: Path
    why: str = ""
    told: tuple[str, ...] = ()


def run(inputs: Mapping[str, Path], params: Params, outputs: Mapping[str, Path], ctx: Context) -> Outcome:
    """Run the chosen arm and its controls; see `specs.STAGES` for inputs and outputs."""
    data = ImageSet.open(inputs["dataset"])
    ranking = read_json(inputs["ranking"] / "ranking.json")
    plan = {"chosen": ranking["choice"]["name"]}
    wanted = {"worst": ranking["worst"], "scratch": SCRATCH}
    for control in params.finetune.controls:
        if wanted[control] is not None and wanted[control] not in plan.values():
            plan[control] = wanted[control]
    named = params.finetune.method != AUTO
    asked = params.finetune
    params, why = with_method(params, data, plan.values(), ctx.cache)
    check_settings(params.finetune, named)
    check_starts(params.finetune, data.size("train"))
    check_workers(params, world().size)
    check_prior(params.finetune, data.size("train"))
    check_memory_classes(params.finetune, data)
    check_families(plan.values(), params, ctx.cache)
    if why:
        ctx.log.info("finetune: auto takes %s %s", params.finetune.method, why)
    told = said_before(plan, asked, params.finetune, data)
    for run, texts in told.items():
        for text in texts:
            ctx.log.info("finetune: %s: %s", run, text)
    arms = [
        Arm(run, source, params, inputs["dataset"], outputs["models"] / run, why, told.get(run, ()))
        for run, source in plan.items()
    ]
    if ctx.resume == "must" and not from_first(lambda: any(ctx.state.rglob(f"{SAVED}*"))):
        raise MissingInput(f"finetune: no saved state in {ctx.state}", "use --resume auto")
    # A number format that the device has not is refused before any run starts.
    pick_dtype(params.finetune.precision, pick_device(params.runtime.device))
    # Once, before the runs start, so that each finds the validation features in the cache.
    make_judge(data, params, ctx)
    # Runs of equal length end together when they share the cores; two waves would leave one idle.
    at_once = len(arms) if processes(params.runtime) > 1 else 1
    ended = run_all(run_arm, arms, ctx, params.runtime.threads, at_once)
    how = {arm.run: choices for arm, (_, choices) in zip(arms, ended, strict=True)}
    ctx.tracker.set_tags({f"graftgan.{name}": value for name, value in how["chosen"].items()})
    metrics = {}
    # Each run from a source has the same one.
    warnings = list(dict.fromkeys(text for report, _ in ended if (text := decision(report))))
    for arm, (report, _) in zip(arms, ended, strict=True):
        metrics[f"kid_validation_{arm.run}"] = report["best"]["kid"]
        metrics[f"images_seen_{arm.run}"] = float(report["images_seen"])
        warnings += [f"{arm.run}: {text}" for text in report["warnings"]]
    return Outcome(metrics, tuple(warnings), spent=(ctx.state,), facts={"switches": how})


def check_families(names: Iterable[str], params: Params, cache: Path) -> None:
    """Refuse sources that have no layers for the method.

    Raises:
        ConfigError: Naming the method and the source's family.
    """
    catalogue = Catalogue(params.rank.catalogue, cache)
    for source in catalogue.select([name for name in names if name != SCRATCH]):
        check_family(params.finetune.method, catalogue.spec(source, cache).family, source.name)


def training_set(data: ImageSet, gan: Gan) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the training images, and their labels where the networks have classes.

    Raises:
        DataError: There are fewer than two.
    """
    images = data.images("train")
    if len(images) < 2:
        raise DataError(
            f"there are {len(images)} training images", "add images or lower the shares of data.split"
        )
    # Images without labels are all of the one class that a source with classes is then given.
    return images, np.maximum(data.labels("train"), 0) if gan.spec.classes else None


def train(loop: Loop, arm: Arm) -> History:
    """Run the loop to its end, under the profiler where `runtime.profile` asks for it."""
    watch = profile_of(arm, loop.trainer)
    with profiling(watch):
        history = loop.run(look_first=isinstance(loop.trainer, ClassTuner))
    if watch is not None:
        share = f"{watch.data_share:.2%}"
        loop.ctx.log.info(
            "%s: getting images takes %s of a step; profile in %s", arm.run, share, watch.folder
        )
    return history


def run_arm(arm: Arm, ctx: Context) -> tuple[dict[str, Any], dict[str, str]]:
    """Train one arm and write its folder; return the content of its `model.json`, and how it was computed."""
    settings, ctx = arm.params.finetune, own_resume(arm, ctx)
    device = pick_device(arm.params.runtime.device)
    data = ImageSet.open(arm.dataset)
    start = starting_point(arm.source, data, arm.params, ctx.cache)
    gan, source = start.gan, start.source
    chosen_method = method("full" if source is None else settings.method)
    if chosen_method.direct is None:
        # Before an inversion, which may take long.
        warn(memory.warning(gan.spec, settings.batch, device), arm, ctx)
    if source is not None:
        check_memory_bases(source, arm.params, ctx.cache)
    chosen_method.even_out(gan, settings)
    if source is not None and settings.prior != "normal":
        # Networks that something of the recipe does not go with are refused before the inversion's hours.
        rehearse(gan, chosen_method, settings)
    prior = find_prior(start, arm.run, data, arm.params, ctx)
    fitted = gan.spec
    chosen_method.apply(gan, settings)
    # A small set's batches would overwrite the statistics that the source learnt from many images.
    gan.generator.freeze_statistics(source is not None)
    # Of what was applied, and not of a saved state: a run that goes on is held to the same.
    moving, fixed = moving_parameters(gan), Fixed.of(gan)
    images, labels = training_set(data, gan)
    trainer = make_stepper(arm, chosen_method, start, images, labels, prior)
    if isinstance(trainer, DirectTrainer):
        warn(memory.shortage(trainer.need(), "finetune.batch", device), arm, ctx)
    judge, warnings = make_judge(data, arm.params, ctx)
    class_judge, said = make_class_judge(trainer, data, arm.params, ctx)
    warnings += [*start.changes, *said, *(prior.warnings if prior is not None else ())]
    store = StateStore(ctx.state / arm.run, arm.params.runtime.keep_states)
    history = train(Loop(arm.run, trainer, judge, store, ctx, arm.params.runtime.save_every_s), arm)

    def write() -> dict[str, Any]:
        fixed.check(gan, history.best_tensors, f"finetune.method={chosen_method.name}")
        warnings.extend(history.warnings(trainer.lr_scale))
        warnings.extend(text for penalty in trainer.penalties for text in penalty.warnings())
        arm.folder.mkdir(parents=True)
        facts: dict[str, Any] = {
            "added_parameters": chosen_method.finish(gan),
            "trainable_parameters": moving,
            "invariant": fixed.facts(),
        }
        if source is not None:
            home = Catalogue(arm.params.rank.catalogue, ctx.cache).folder(source, ctx.cache)
            protocol = judge.extractor.protocol
            trained = Trained(history, gan, source, home, fitted, fixed, moving, protocol, settings)
            more, told = conclude(trained, arm.folder)
            facts |= more
            warnings.extend(told)
        facts["adapter_bytes"] = adapter_bytes(arm.folder)
        facts |= {} if class_judge is None else class_facts(class_judge, history, arm.folder)
        report = write_arm(arm, trainer, history, source, judge.extractor.protocol, data, warnings, facts)
        if prior is not None:
            write_inversion(prior, data, arm.folder)
        return report

    return from_first(write), switches(trainer, arm.params.runtime.compile)


def own_resume(arm: Arm, ctx: Context) -> Context:
    """Ask for no state of an arm whose training had not begun when the stage stopped."""
    if ctx.resume != "must" or from_first(lambda: any((ctx.state / arm.run).rglob(f"{SAVED}*"))):
        return ctx
    return replace(ctx, resume="auto")


def warn(text: str | None, arm: Arm, ctx: Context) -> None:
    """Log what is of this machine, and so no part of the results."""
    if text:
        ctx.log.warning("%s: %s", arm.run, text)


def profile_of(arm: Arm, trainer: Stepper) -> Profile | None:
    """Return what times an arm, where it is asked for; of several workers the first is timed."""
    folder = arm.params.runtime.profile
    if folder is None or not is_first():
        return None
    settings = trainer.settings
    lazy = [settings.r1_interval] if settings.r1_gamma else [1]
    if settings.path_length_weight:
        lazy.append(settings.path_length_interval)
    steps = total_images(settings.budget, len(trainer.images), settings.batch) // settings.batch
    facts = switches(trainer, arm.params.runtime.compile)
    return Profile(arm.run, Path(folder), trainer.device, math.lcm(*lazy), steps, facts)


def make_stepper(
    arm: Arm,
    chosen: Method,
    start: Start,
    images: NDArray[np.uint8],
    labels: NDArray[np.int32] | None,
    prior: Prepared | None,
) -> Stepper:
    """Return what trains an arm, with its penalties and phases."""
    settings, gan = arm.params.finetune, start.gan
    device = pick_device(arm.params.runtime.device)
    if chosen.direct is not None:
        trainer: Stepper = chosen.direct(Task(gan, images, labels, settings, device, start.whole or gan))
    else:
        trainer = gan_trainer(arm, gan, images, labels, device, from_scratch=start.source is None)
        if prior is not None:
            trainer.set_prior(prior.moving)
    trainer.add_penalties([] if start.source is None else make_penalties(settings))
    if chosen.resting is not None and isinstance(trainer, Trainer):
        trainer.add_phases(partial(chosen.rests, gan, settings))
    return trainer


def gan_trainer(
    arm: Arm,
    gan: Gan,
    images: NDArray[np.uint8],
    labels: NDArray[np.int32] | None,
    device: torch.device,
    from_scratch: bool,
) -> Trainer:
    """Return the trainer of the game between G and D."""
    settings, compiled = arm.params.finetune, arm.params.runtime.compile
    return Trainer(gan, images, labels, settings, augmentation(settings), device, from_scratch, compiled)


def augmentation(settings: Finetune) -> Any:
    """Return the augmentation that the settings name."""
    ada = AdaControllerConfig(
        target=settings.ada_target, speed_kimg=settings.ada_speed_kimg, p_max=settings.ada_p_max
    )
    return make_augment(settings.augment, ada=ada)


def write_arm(
    arm: Arm,
    trainer: Stepper,
    history: History,
    source: Source | None,
    protocol: str,
    data: ImageSet,
    warnings: list[str],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Write weights, curves, sheets and `model.json` of one arm; `facts` go into it as they are."""
    assert history.best is not None
    save_tensors(gan_tensors(trainer.gan), arm.folder / LAST)
    save_tensors(history.best_tensors, arm.folder / WEIGHTS)
    write_json(arm.folder / SPEC, trainer.gan.spec.to_dict())
    write_text(arm.folder / "curves.csv", curves_csv(history.rows))
    best = best_generator(trainer.gan, history)
    grid = sheet(sample(best, SHEET_IMAGES, SHEET_SEED), 8, cell_px=64)
    save_png(grid, arm.folder / "samples.png")
    frames = torch.cat(history.frames).numpy()
    labels = [f"{images / 1000:g} kimg" for images in history.frame_images]
    save_png(sheet(frames, TIMELINE_IMAGES, cell_px=64, labels=labels), arm.folder / "timeline.png")
    write_json(
        arm.folder / "timeline.json", {"images_seen": history.frame_images, "columns": TIMELINE_IMAGES}
    )
    report = {
        "run": arm.run,
        "source": None if source is None else source.name,
        "source_sha256": None if source is None else source.sha256,
        "source_licence": None if source is None else source.licence,
        "source_title": None if source is None else source.title,
        "method": "scratch" if source is None else arm.params.finetune.method,
        "seed": arm.params.finetune.seed,
        "flip": arm.params.finetune.flip,
        "spec": trainer.gan.spec.to_dict(),
        "prior": prior_facts(arm.params.finetune, source is not None, history.best_tensors),
        "images_seen": history.best_images,
        "images_total": trainer.images_seen,
        "best": {
            "images_seen": history.best_images,
            "kid": history.best.value,
            "low": history.best.low,
            "high": history.best.high,
        },
        "protocol": protocol,
        "dataset": data.digest,
        "preprocessing": {"resolution": data.resolution, "channels": data.channels, "range": [-1.0, 1.0]},
        "precision": precision_name(trainer.dtype),
        "warnings": [*arm.told, *warnings],
        **facts,
        "stored_bytes": stored_bytes(history.best_tensors),
    }
    if trainer.penalties:
        report["penalties"] = [penalty.name for penalty in trainer.penalties]
    if arm.why and source is not None:
        report |= {"method_asked": AUTO, "method_why": arm.why}
    write_json(arm.folder / "model.json", report)
    return report


def best_generator(gan: Gan, history: History) -> Generator:
    """Return the averaged generator of the best checkpoint."""
    prefix = "generator_ema."
    tensors = {n.removeprefix(prefix): t for n, t in history.best_tensors.items() if n.startswith(prefix)}
    gan.generator_ema.load_state_dict(tensors)
    _, gan.prior = split_prior(history.best_tensors, "the best checkpoint")
    return gan.generator_ema


def curves_csv(rows: list[dict[str, float]]) -> str:
    """Return the curves as CSV with a fixed set of columns, then those of penalties.

    Cells are empty where nothing was measured.
    """
    added = sorted({name for row in rows for name in row if name.startswith(("penalty_", "prior_"))})
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *added], lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: np.format_float_positional(value, trim="-") for name, value in row.items()})
    return text.getvalue()
