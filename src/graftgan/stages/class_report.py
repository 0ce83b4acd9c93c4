"""What class-embedding tuning changed: each tuned class before and after, on the same latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from graftgan.checkpoints.store import save_gan
from graftgan.classes import (
    SHEET_COLUMNS,
    Images,
    against_real,
    cosine,
    fixed_latents,
    sample_vector,
)
from graftgan.gans.class_table import place, write_row
from graftgan.metrics.class_diversity import distances, spread
from graftgan.metrics.kid import kid
from graftgan.reporting.sheets import save_png, sheet
from graftgan.stages.class_judging import ClassJudge
from graftgan.training.loop import History
from graftgan.transfer.class_embedding import ClassTuner
from graftgan.transfer.class_goals import Target

SHEET = "classes.png"
WHOLE = "whole"
SHEET_ROWS = 2


def class_facts(judge: ClassJudge, history: History, folder: Path) -> dict[str, Any]:
    """Write the files of :func:`write_class_report`; return its facts and the number of values that moved."""
    moved = {"generator": len(judge.tuner.targets) * judge.tuner.table.shape[1], "discriminator": 0}
    report = write_class_report(judge, history, folder)
    return {"class_embedding": report, "trainable_parameters": moved}


def write_class_report(judge: ClassJudge, history: History, folder: Path) -> dict[str, Any]:
    """Write the tuned vectors, a sheet before and after, and the source with its rows replaced.

    For each class there is `embedding-ROW.npy`, float32 [1, D]. Where the model has not all of the source's
    classes, the folder `whole` has the source with the tuned rows in the place of the old ones, or behind
    them.

    Returns:
        The facts for `model.json`: settings in force, clip range, what judged, and a row before and after for
        each class.
    """
    tuner = judge.tuner
    name, axis = place(tuner.gan.generator)
    table = history.best_tensors[f"generator_ema.{name}"].to(tuner.device)
    table = table if axis == 0 else table.t()
    z = fixed_latents(tuner.source.generator_ema, tuner.section.report_samples, tuner.settings.seed)
    classes, pictures = [], []
    for target in tuner.targets:
        vector = table[target.row]
        np.save(folder / f"embedding-{target.row}.npy", vector.cpu().numpy()[None].astype(np.float32))
        facts, shown = _before_and_after(judge, target, vector, z)
        classes.append(facts)
        pictures += shown
    save_png(sheet(np.concatenate(pictures), SHEET_COLUMNS, cell_px=64), folder / SHEET)
    if tuner.source is not tuner.gan:
        _write_whole(tuner, table, folder / WHOLE)
    return {
        "use": tuner.section.use,
        "objective": tuner.section.objective,
        **tuner.preset._asdict(),
        "clip": [tuner.low, tuner.high] if tuner.section.clip else None,
        **judge.described(),
        "samples": tuner.section.report_samples,
        "classes": classes,
    }


def _before_and_after(
    judge: ClassJudge, target: Target, vector: Tensor, z: Tensor
) -> tuple[dict[str, Any], list[Images]]:
    tuner = judge.tuner
    generator = tuner.source.generator_ema
    new = target.source_row is None
    old = tuner.table.mean(dim=0) if target.source_row is None else tuner.table[target.source_row]
    real = judge.real(target)
    sides, shown = {}, []
    for side, row in (("before", old), ("after", vector)):
        images = sample_vector(generator, row, z)
        shown.append(images[: SHEET_ROWS * SHEET_COLUMNS])
        sides[side] = _measured(judge, target, row, images, z, real)
    facts = {
        "row": target.row,
        "source_class": target.source_row,
        "began_at": "the mean of all classes" if new else f"class {target.source_row}",
        "moved": float((vector - old).norm()),
        "cosine": cosine(vector.double().cpu().numpy(), old.double().cpu().numpy()),
        "judged_on": judge.split_of(target),
        "judge_images": 0 if real is None else len(real),
        **sides,
    }
    return facts, shown


def _measured(
    judge: ClassJudge,
    target: Target,
    vector: Tensor,
    images: Images,
    z: Tensor,
    real: NDArray[np.float32] | None,
) -> dict[str, Any]:
    features = judge.features(images)
    apart = distances(features)
    found = spread(features, z.cpu().numpy(), float(apart.sum() / max(apart.size - len(apart), 1)))
    away = (judge.tuner.table - vector).norm(dim=1)
    facts: dict[str, Any] = {
        "norm": float(vector.norm()),
        "nearest": int(away.argmin()),
        "nearest_distance": float(away.min()),
        "distance": found.distance,
        "per_latent": found.per_latent,
        **against_real(features, real),
    }
    if real is not None:
        estimate = kid(features, real)
        facts |= {"kid": estimate.value, "kid_low": estimate.low, "kid_high": estimate.high}
    chances = judge.chances(target, images)
    if chances is not None:
        facts |= {
            "probability": float(chances[:, target.output].mean()),
            "accuracy": float((chances.argmax(axis=1) == target.output).mean()),
        }
    return facts


def _write_whole(tuner: ClassTuner, table: Tensor, folder: Path) -> None:
    """Write the source with the tuned rows: replaced, or behind its own ones where they are new."""
    whole, rows = tuner.whole()
    for target, row in zip(tuner.targets, rows, strict=True):
        for network in (whole.generator, whole.generator_ema):
            write_row(network, row, table[target.row])
    folder.mkdir()
    save_gan(whole, folder)
