"""finetune: adapts the chosen source, beside control runs at the same budget."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graftgan.checkpoints.catalogue import SCRATCH, Source
from graftgan.checkpoints.store import SPEC, WEIGHTS, gan_tensors, save_tensors
from graftgan.config import Finetune, Params
from graftgan.context import Context
from graftgan.contract import Outcome, digest_text, read_json, write_json, write_text
from graftgan.data.dataset import ImageSet
from graftgan.device import pick_device, precision_name
from graftgan.errors import DataError
from graftgan.gans.base import Gan, Generator, parameter_count, sample
from graftgan.metrics.features import Extractor
from graftgan.metrics.kid import kid, paired_kid_difference
from graftgan.parallel import processes, run_all
from graftgan.reporting.sheets import save_png, sheet
from graftgan.stages.features import Features, cached, opaque, open_extractor
from graftgan.stages.start import starting_point
from graftgan.training.ada_controller import AdaControllerConfig
from graftgan.training.augment import make_augment
from graftgan.training.loop import TIMELINE_IMAGES, History, Loop, Measurement
from graftgan.training.state import StateStore
from graftgan.training.trainer import Trainer
from graftgan.transfer import method
from graftgan.transfer.penalties import make_penalties

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
    """

    run: str
    source: str
    params: Params
    dataset: Path
    folder: Path


class KidJudge:
    """Measures validation KID from fixed latents.

    Args:
        real: Features of the validation images.
        extractor: What made them.
        samples: Images sampled at each look.
        seed: Seed of the latents.
    """

    def __init__(self, real: Features, extractor: Extractor, samples: int, seed: int) -> None:
        self.real, self.extractor, self.samples, self.seed = real, extractor, samples, seed

    def measure(self, generator: Generator) -> Measurement:
        """Sample and score."""
        features = self.extractor(opaque(sample(generator, self.samples, self.seed)))
        estimate = kid(features, self.real)
        return Measurement(estimate.value, estimate.low, estimate.high, torch.from_numpy(features))

    def improves(self, new: Measurement, best: Measurement) -> bool:
        """Ask for more than one standard error of the paired difference."""
        difference = paired_kid_difference(new.features.numpy(), best.features.numpy(), self.real)
        return difference.value + difference.stderr < 0


def run(inputs: Mapping[str, Path], params: Params, outputs: Mapping[str, Path], ctx: Context) -> Outcome:
    """Run the chosen arm and its controls; see `specs.STAGES` for inputs and outputs."""
    method(params.finetune.method)
    make_penalties(params.finetune)
    ranking = read_json(inputs["ranking"] / "ranking.json")
    plan = {"chosen": ranking["choice"]["name"]}
    wanted = {"worst": ranking["worst"], "scratch": SCRATCH}
    for control in params.finetune.controls:
        if wanted[control] is not None and wanted[control] not in plan.values():
            plan[control] = wanted[control]
    arms = [
        Arm(run, source, params, inputs["dataset"], outputs["models"] / run) for run, source in plan.items()
    ]
    # Once, before the runs start, so that each finds the validation features in the cache.
    make_judge(ImageSet.open(inputs["dataset"]), params, ctx)
    # Runs of equal length end together when they share the cores; two waves would leave one idle.
    at_once = len(arms) if processes(params.runtime) > 1 else 1
    reports = run_all(run_arm, arms, ctx, params.runtime.threads, at_once)
    metrics, warnings = {}, []
    for arm, report in zip(arms, reports, strict=True):
        metrics[f"kid_validation_{arm.run}"] = report["best"]["kid"]
        metrics[f"images_seen_{arm.run}"] = float(report["images_seen"])
        warnings += [f"{arm.run}: {text}" for text in report["warnings"]]
    return Outcome(metrics, tuple(warnings), spent=(ctx.state,))


def run_arm(arm: Arm, ctx: Context) -> dict[str, Any]:
    """Train one arm, write its folder and return the content of its `model.json`."""
    settings = arm.params.finetune
    device = pick_device(arm.params.runtime.device)
    data = ImageSet.open(arm.dataset)
    start = starting_point(arm.source, data, arm.params, ctx.cache)
    gan, source = start.gan, start.source
    chosen_method = method("full" if source is None else settings.method)
    chosen_method.apply(gan, settings)
    # A small set's batches would overwrite the statistics that the source learnt from many images.
    gan.generator.freeze_statistics(source is not None)
    images = data.images("train")
    if len(images) < 2:
        raise DataError(
            f"there are {len(images)} training images", "add images or lower the shares of data.split"
        )
    # Images without labels are all of the one class that a source with classes is then given.
    labels = np.maximum(data.labels("train"), 0) if gan.spec.classes else None
    trainer = Trainer(
        gan,
        images,
        labels,
        settings,
        augmentation(settings),
        device,
        source is None,
        arm.params.runtime.compile,
    )
    trainer.add_penalties([] if source is None else make_penalties(settings))
    judge, warnings = make_judge(data, arm.params, ctx)
    warnings += start.changes
    store = StateStore(ctx.state / arm.run, arm.params.runtime.keep_states)
    history = Loop(arm.run, trainer, judge, store, ctx, arm.params.runtime.save_every_s).run()
    added = chosen_method.finish(gan)
    if history.rollbacks:
        warnings.append(
            f"training diverged {history.rollbacks} times; learning rates ended x {trainer.lr_scale:g}"
        )
    warnings += [text for penalty in trainer.penalties for text in penalty.warnings()]
    return write_arm(arm, trainer, history, source, judge.extractor.protocol, data, warnings, added)


def augmentation(settings: Finetune) -> Any:
    """Return the augmentation that the settings name."""
    ada = AdaControllerConfig(
        target=settings.ada_target, speed_kimg=settings.ada_speed_kimg, p_max=settings.ada_p_max
    )
    return make_augment(settings.augment, ada=ada)


def make_judge(data: ImageSet, params: Params, ctx: Context) -> tuple[KidJudge, list[str]]:
    """Return the judge of checkpoints, and a warning if it has no validation images to judge by."""
    settings = params.finetune
    extractor = open_extractor(settings.validation_extractor, params)
    split, warnings = "validation", []
    if split in data.missing:
        split = "train"
        warnings.append(f"the checkpoint was chosen on training images: {data.missing['validation']}")
    key = digest_text(f"{data.digest} {split}")
    real = cached(key, lambda: data.images(split), extractor, ctx, f"{split} features")
    return KidJudge(real, extractor, settings.validation_samples, settings.seed), warnings


def write_arm(
    arm: Arm,
    trainer: Trainer,
    history: History,
    source: Source | None,
    protocol: str,
    data: ImageSet,
    warnings: list[str],
    added: int,
) -> dict[str, Any]:
    """Write weights, curves, sheets and `model.json` of one arm; `added` parameters were folded into it."""
    assert history.best is not None
    arm.folder.mkdir(parents=True)
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
        "prior": {"kind": "normal"},
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
        "warnings": warnings,
        "added_parameters": added,
        "stored_bytes": 4 * parameter_count(trainer.gan.generator),
    }
    if trainer.penalties:
        report["penalties"] = [penalty.name for penalty in trainer.penalties]
    write_json(arm.folder / "model.json", report)
    return report


def best_generator(gan: Gan, history: History) -> Generator:
    """Return the averaged generator of the best checkpoint."""
    prefix = "generator_ema."
    tensors = {n.removeprefix(prefix): t for n, t in history.best_tensors.items() if n.startswith(prefix)}
    gan.generator_ema.load_state_dict(tensors)
    return gan.generator_ema


def curves_csv(rows: list[dict[str, float]]) -> str:
    """Return the curves as CSV with a fixed set of columns, then those of penalties.

    Cells are empty where nothing was measured.
    """
    added = sorted({name for row in rows for name in row if name.startswith("penalty_")})
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *added], lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: np.format_float_positional(value, trim="-") for name, value in row.items()})
    return text.getvalue()
