"""evaluate: final scores on images that neither training nor the choice of a checkpoint has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from graftgan.checkpoints.store import SPEC, WEIGHTS, load_gan
from graftgan.config import Params
from graftgan.context import Context
from graftgan.contract import Outcome, digest_file, read_json, write_json, write_text
from graftgan.data.dataset import ImageSet
from graftgan.device import pick_device
from graftgan.errors import ConfigError, DataError, MissingInput
from graftgan.gans.base import Generator, sample, sample_blocks
from graftgan.gans.walk import walk
from graftgan.metrics.copying import Pair
from graftgan.metrics.floor import LEAST_HALF
from graftgan.metrics.neighbours import nearest
from graftgan.parallel import processes, run_all
from graftgan.reporting.sheets import save_gif, save_png, sheet
from graftgan.stages.features import (
    BLOCK_IMAGES,
    Features,
    Images,
    Share,
    cached_together,
    images_key,
    open_extractor,
    samples_key,
    share_of,
)
from graftgan.stages.scoring import Scoring, floors, pick, scores_csv, verdict
from graftgan.world import is_first

SHEET_IMAGES = 64
SHEET_COLUMNS = 8
LEAST_TEST_IMAGES = 10


@dataclass(frozen=True)
class Shot:
    """A set of images whose features are wanted: a split of the data, or samples of a model.

    Attributes:
        name: "test", "train", "mirrored", or the name of a run.
        params: All parameters.
        dataset: The packed image set.
        model: Checkpoint folder of a run, else None.
        digest: Content key of the images.
        folder: Folder of the scores, for pictures.
    """

    name: str
    params: Params
    dataset: Path
    model: Path | None
    digest: str
    folder: Path


def run(inputs: Mapping[str, Path], params: Params, outputs: Mapping[str, Path], ctx: Context) -> Outcome:
    """Score every run against the test images; see `specs.STAGES` for inputs and outputs."""
    data = ImageSet.open(inputs["dataset"])
    reference, warnings = reference_split(data)
    folder = outputs["scores"]
    runs = sorted((p.name for p in inputs["models"].iterdir() if (p / "model.json").is_file()), key=run_order)
    if "chosen" not in runs:
        raise MissingInput(f"{inputs['models']} holds no model called chosen", "run `graftgan finetune`")
    reports = {name: read_json(inputs["models"] / name / "model.json") for name in runs}
    check_neighbours(params, len(reference_images(data, reference, params)))
    shots = make_shots(data, reference, inputs, reports, params, folder)
    found = run_all(shoot, shots, ctx, params.runtime.threads, processes(params.runtime))
    if not is_first():
        return Outcome({}, ())
    features = {shot.name: rows for shot, rows in zip(shots, found, strict=True)}
    protocol = open_extractor(params.evaluate.extractor, params).protocol
    images = reference_images(data, reference, params)
    save_png(sheet(images[:SHEET_IMAGES], SHEET_COLUMNS, cell_px=64), folder / "real.png")
    scoring = Scoring(features, reference, protocol, params)
    scored = {name: scoring.score(name) for name in runs}
    for name in runs:
        save_pairs(folder / "pairs" / f"{name}.png", name, scoring, data, inputs, params)
    record = {
        "protocol": protocol, "confidence": params.evaluate.confidence, "n_fake": params.evaluate.samples,
        "n_test": len(images), "seed": params.evaluate.seed, "truncation_psi": params.evaluate.truncation_psi,
        "dataset": data.digest, "reference": reference, "floor": floors(scored["chosen"]["scores"]),
        "runs": {name: {**pick(reports[name], "source", "method"), **scored[name]} for name in runs},
        "paired": scoring.paired(runs), "warnings": warnings,
    }  # fmt: skip
    record["verdict"] = verdict(record, reports["chosen"])
    write_json(folder / "scores.json", record)
    write_text(folder / "scores.csv", scores_csv(record))
    flat = {name: {s["name"]: s["value"] for s in scored[name]["scores"]} for name in runs}
    write_json(folder / "metrics.json", flat)
    metrics = {
        f"{metric}_{name}": v
        for name, values in flat.items()
        for metric, v in values.items()
        if v is not None
    }
    return Outcome(metrics, tuple(warnings))


def run_order(name: str) -> tuple[int, str]:
    """Sort key: the chosen run first, then by name."""
    return (name != "chosen", name)


def reference_split(data: ImageSet) -> tuple[str, list[str]]:
    """Return the split that serves as reference, and a warning if it is not the test split.

    Raises:
        DataError: If there are too few images for any score.
    """
    if "test" not in data.missing:
        return "test", []
    if data.size("train") < LEAST_TEST_IMAGES:
        raise DataError(
            f"scores need {LEAST_TEST_IMAGES} images, there are {data.size('train')}", "add images"
        )
    warning = (
        f"no test images ({data.missing['test']}): scores are against the training images, "
        "and whether the model copies them cannot be told"
    )
    return "train", [warning]


def check_neighbours(params: Params, n_real: int) -> None:
    """Refuse neighbours that the samples, the reference images or the halves of their floor do not have."""
    settings = params.evaluate
    half = min(n_real // 2, settings.samples)
    least = half if half >= LEAST_HALF else min(n_real, settings.samples)
    for key in ("neighbours", "recall_neighbours"):
        if (k := getattr(settings, key)) >= least:
            raise ConfigError(
                f"evaluate.{key} is {k}, with {n_real} images and evaluate.samples={settings.samples}",
                f"use at most {least - 1}",
            )


def make_shots(
    data: ImageSet,
    reference: str,
    inputs: Mapping[str, Path],
    reports: Mapping[str, Any],
    params: Params,
    folder: Path,
) -> list[Shot]:
    """Return everything that needs a feature pass, the most images first, so that processes end together."""
    mirrored = ["mirrored"] if reports["chosen"]["flip"] else []
    splits = ["train", *mirrored, *([reference] if reference != "train" else [])]
    settings, dataset = params.evaluate, inputs["dataset"]
    shots = []
    for split in splits:
        shot = Shot(split, params, dataset, None, "", folder)
        shots.append(replace(shot, digest=images_key(shot_images(shot))))
    for name in reports:
        model = inputs["models"] / name
        content = f"{digest_file(model / WEIGHTS)} {digest_file(model / SPEC)}"
        device = pick_device(params.runtime.device)
        key = samples_key(content, device, settings.samples, settings.seed, settings.truncation_psi)
        shots.append(Shot(name, params, dataset, model, key, folder))
    images = {split: data.size("train" if split == "mirrored" else split) for split in splits}
    return sorted(shots, key=lambda shot: -images.get(shot.name, settings.samples))


def reference_images(data: ImageSet, split: str, params: Params) -> Images:
    """Return the images that a model is measured against."""
    return data.images(split)[: params.evaluate.max_test_images]


def samples_of(model: Path, params: Params, share: Share = (0, 1)) -> Images:
    """Return the samples that are scored, or a share of them, from the same latents for every run."""
    return sample(
        generator_of(model, params),
        params.evaluate.samples,
        params.evaluate.seed,
        params.evaluate.truncation_psi,
        batch=BLOCK_IMAGES,
        share=share,
    )


def generator_of(model: Path, params: Params) -> Generator:
    """Return the averaged generator of a run."""
    generator = load_gan(model).generator_ema
    generator.to(pick_device(params.runtime.device))
    return generator


def shot_images(shot: Shot, share: Share = (0, 1)) -> Images:
    """Return the images of a shot, or a share of them."""
    if shot.model is not None:
        return samples_of(shot.model, shot.params, share)
    data = ImageSet.open(shot.dataset)
    if shot.name == "mirrored":
        return share_of(np.ascontiguousarray(data.images("train")[:, :, ::-1]), share)
    reference = "train" if "test" in data.missing else "test"
    split = (
        reference_images(data, shot.name, shot.params) if shot.name == reference else data.images(shot.name)
    )
    return share_of(split, share)


def shoot(shot: Shot, ctx: Context) -> Features:
    """Return the features of a shot; a run's sample sheet and interpolation are drawn on the way."""
    settings = shot.params.evaluate
    extractor = open_extractor(settings.extractor, shot.params)
    grid = shot.folder / "samples" / f"{shot.name}.png"
    if shot.model is not None and is_first() and not grid.exists():
        generator = generator_of(shot.model, shot.params)
        psi = settings.truncation_psi
        images = sample(generator, SHEET_IMAGES, settings.seed, psi)
        save_png(sheet(images, SHEET_COLUMNS, cell_px=64), grid)
        frames = [sheet(frame, len(frame), cell_px=96) for frame in walk(generator, truncation_psi=psi)]
        gif = shot.folder / "interpolation" / f"{shot.name}.gif"
        gif.parent.mkdir(parents=True, exist_ok=True)
        save_gif(frames, gif)
    make = partial(shot_images, shot)
    return cached_together(shot.digest, make, extractor, ctx, f"{shot.name} features")


def save_pairs(
    path: Path, name: str, scoring: Scoring, data: ImageSet, inputs: Mapping[str, Path], params: Params
) -> None:
    """Draw the samples nearest to training images: sample, training image, nearest held-out image."""
    pairs = scoring.copies(name).pairs
    wanted = [pair.fake for pair in pairs]
    fakes = chosen_samples(inputs["models"] / name, params, wanted)
    columns = [fakes, originals(data.images("train"), pairs)]
    if scoring.held_out:
        features = scoring.features
        index, _ = nearest(features[name][wanted], features["test"], params.runtime.memory_mib)
        columns.append(reference_images(data, "test", params)[index])
    cells = np.stack(columns, axis=1)
    save_png(sheet(cells.reshape(-1, *cells.shape[2:]), len(columns), cell_px=96), path)


def originals(train: Images, pairs: Sequence[Pair]) -> Images:
    """Return the training image of each pair, mirrored where the match is with its mirror image."""
    return np.stack([train[pair.train][:, ::-1] if pair.mirrored else train[pair.train] for pair in pairs])


def chosen_samples(model: Path, params: Params, rows: Sequence[int]) -> Images:
    """Return some of the samples that are scored; blocks with none of them are not computed."""
    settings = params.evaluate
    blocks = [row // BLOCK_IMAGES for row in rows]
    made = sample_blocks(
        generator_of(model, params),
        settings.samples,
        settings.seed,
        settings.truncation_psi,
        batch=BLOCK_IMAGES,
        blocks=blocks,
    )
    return np.stack([made[block][row % BLOCK_IMAGES] for block, row in zip(blocks, rows, strict=True)])
