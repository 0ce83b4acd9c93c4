"""evaluate: final scores on images that neither training nor the choice of a checkpoint has seen."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graftgan.checkpoints.store import WEIGHTS, load_gan
from graftgan.config import Params
from graftgan.context import Context
from graftgan.contract import Outcome, digest_file, digest_text, read_json, write_json, write_text
from graftgan.data.dataset import ImageSet
from graftgan.device import pick_device
from graftgan.errors import DataError, MissingInput
from graftgan.gans.base import Generator, sample
from graftgan.gans.walk import walk
from graftgan.metrics.copying import CopyReport, copy_report
from graftgan.metrics.features import make_extractor
from graftgan.metrics.kid import paired_kid_difference
from graftgan.metrics.neighbours import centre_pair, nearest
from graftgan.metrics.scores import ScoreSettings, evaluate_features, metric_name
from graftgan.parallel import run_all
from graftgan.reporting.sheets import save_gif, save_png, sheet
from graftgan.stages.features import Features, Images, cached, opaque

SHEET_IMAGES = 64
SHEET_COLUMNS = 8
PAIRS = 8
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
    shots = make_shots(data, reference, inputs, runs, params, folder)
    device = pick_device(params.runtime.device)
    at_once = params.runtime.workers if device.type == "cpu" else 1
    run_all(shoot, shots, ctx, params.runtime.threads, at_once)
    features = {shot.name: shoot(shot, ctx) for shot in shots}
    protocol = make_extractor(params.evaluate.extractor, device=str(device)).protocol
    images = reference_images(data, reference, params)
    save_png(sheet(images[:SHEET_IMAGES], SHEET_COLUMNS, cell_px=64), folder / "real.png")
    scored = {name: score(name, features, reference, protocol, params) for name in runs}
    for name in runs:
        save_pairs(folder / "pairs" / f"{name}.png", name, features, data, reference, inputs, params)
    record = {
        "protocol": protocol, "confidence": params.evaluate.confidence, "n_fake": params.evaluate.samples,
        "n_test": len(images), "seed": params.evaluate.seed, "truncation_psi": params.evaluate.truncation_psi,
        "dataset": data.digest, "reference": reference, "floor": floors(scored["chosen"]["scores"]),
        "runs": {name: {"source": reports[name]["source"], "method": reports[name]["method"], **scored[name]} for name in runs},
        "paired": paired(features, runs, reference, protocol, params), "warnings": warnings,
    }  # fmt: skip
    record["verdict"] = verdict(record, reports["chosen"])
    write_json(folder / "scores.json", record)
    write_text(folder / "scores.csv", scores_csv(record))
    flat = {name: {s["name"]: s["value"] for s in scored[name]["scores"]} for name in runs}
    write_json(folder / "metrics.json", flat)
    metrics = {f"{metric}_{name}": v for name, values in flat.items() for metric, v in values.items() if v is not None}
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
        raise DataError(f"scores need {LEAST_TEST_IMAGES} images, there are {data.size('train')}", "add images")
    return "train", [
        f"no test images ({data.missing['test']}): scores are against the training images, and copying cannot be told"
    ]


def make_shots(
    data: ImageSet, reference: str, inputs: Mapping[str, Path], runs: Sequence[str], params: Params, folder: Path
) -> list[Shot]:
    """Return everything that needs a feature pass."""
    splits = ["train"] + (["mirrored"] if params.finetune.flip else []) + ([reference] if reference != "train" else [])
    settings = params.evaluate
    shots = []
    for split in splits:
        limit = settings.max_test_images if split == reference else None
        shots.append(Shot(split, params, inputs["dataset"], None, digest_text(f"{data.digest} {split} {limit}"), folder))
    for name in runs:
        weights = digest_file(inputs["models"] / name / WEIGHTS)
        key = digest_text(f"samples {weights} {settings.samples} {settings.seed} {settings.truncation_psi}")
        shots.append(Shot(name, params, inputs["dataset"], inputs["models"] / name, key, folder))
    return shots


def reference_images(data: ImageSet, split: str, params: Params) -> Images:
    """Return the images that a model is measured against."""
    return data.images(split)[: params.evaluate.max_test_images]


def samples_of(model: Path, params: Params) -> Images:
    """Return the samples that are scored, from the same latents for every run."""
    return sample(generator_of(model, params), params.evaluate.samples, params.evaluate.seed, params.evaluate.truncation_psi)


def generator_of(model: Path, params: Params) -> Generator:
    """Return the averaged generator of a run."""
    generator = load_gan(model).generator_ema
    generator.to(pick_device(params.runtime.device))
    return generator


def shot_images(shot: Shot) -> Images:
    """Return the images of a shot."""
    if shot.model is not None:
        return samples_of(shot.model, shot.params)
    data = ImageSet.open(shot.dataset)
    if shot.name == "mirrored":
        return np.ascontiguousarray(data.images("train")[:, :, ::-1])
    return reference_images(data, shot.name, shot.params) if shot.name == "test" else data.images(shot.name)


def shoot(shot: Shot, ctx: Context) -> Features:
    """Return the features of a shot; a run's sample sheet and interpolation are drawn on the way."""
    extractor = make_extractor(shot.params.evaluate.extractor, device=str(pick_device(shot.params.runtime.device)))
    grid = shot.folder / "samples" / f"{shot.name}.png"
    if shot.model is not None and not grid.exists():
        generator = generator_of(shot.model, shot.params)
        psi = shot.params.evaluate.truncation_psi
        images = sample(generator, SHEET_IMAGES, shot.params.evaluate.seed, psi)
        save_png(sheet(images, SHEET_COLUMNS, cell_px=64), grid)
        frames = [sheet(frame, len(frame), cell_px=96) for frame in walk(generator, truncation_psi=psi)]
        gif = shot.folder / "interpolation" / f"{shot.name}.gif"
        gif.parent.mkdir(parents=True, exist_ok=True)
        save_gif(frames, gif)
    return cached(shot.digest, lambda: shot_images(shot), extractor, ctx, f"{shot.name} features")


def score(
    name: str, features: Mapping[str, Features], reference: str, protocol: str, params: Params
) -> dict[str, Any]:
    """Return all scores of one run."""
    settings = ScoreSettings(
        k_precision_recall=params.evaluate.recall_neighbours,
        k_density_coverage=params.evaluate.neighbours,
        confidence=params.evaluate.confidence,
    )
    held_out = reference == "test"
    train = features["train"] if held_out else None
    scores = evaluate_features(
        features[name], features[reference], train, protocol,
        train_mirrored=features.get("mirrored") if held_out else None, settings=settings,
    )  # fmt: skip
    report = copies(name, features, reference)
    return {"scores": [s.to_dict() for s in scores], "copy": copy_summary(report, held_out)}


def copies(name: str, features: Mapping[str, Features], reference: str) -> CopyReport:
    """Return the copy test of one run."""
    held_out = features["test"] if reference == "test" else None
    return copy_report(features[name], features["train"], held_out, mirrored=features.get("mirrored"), pairs=PAIRS)


def copy_summary(report: CopyReport, held_out: bool) -> dict[str, Any]:
    """Return the copy test as plain values."""
    if report.copying is None or report.close_share is None:
        return {"available": False, "reason": report.reason if held_out else "there are no test images"}
    return {
        "available": True,
        "reason": "",
        "auc": report.copying.value,
        "low": report.copying.low,
        "high": report.copying.high,
        "share_closer": report.close_share.value,
    }


def save_pairs(
    path: Path, name: str, features: Mapping[str, Features], data: ImageSet, reference: str,
    inputs: Mapping[str, Path], params: Params,
) -> None:  # fmt: skip
    """Draw the samples nearest to training images: sample, training image, nearest held-out image, a row each."""
    report = copies(name, features, reference)
    fakes = samples_of(inputs["models"] / name, params)
    train = data.images("train")
    rows = []
    for pair in report.pairs:
        original = train[pair.train][:, ::-1] if pair.mirrored else train[pair.train]
        rows += [fakes[pair.fake], original]
        if reference == "test":
            one = features[name][pair.fake : pair.fake + 1].astype(np.float64)
            index, _ = nearest(*centre_pair(one, features["test"].astype(np.float64)))
            rows.append(reference_images(data, "test", params)[index[0]])
    save_png(sheet(np.stack(rows), 3 if reference == "test" else 2, cell_px=96), path)


def floors(scores: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the real-versus-real floor of each score."""
    return {score["name"]: score["floor"] for score in scores}


def paired(
    features: Mapping[str, Features], runs: Sequence[str], reference: str, protocol: str, params: Params
) -> list[dict[str, Any]]:
    """Compare the chosen run's KID with every other run's, latent by latent."""
    rows = []
    for other in runs[1:]:
        difference = paired_kid_difference(
            features["chosen"], features[other], features[reference], confidence=params.evaluate.confidence
        )
        better = "chosen" if difference.high < 0 else other if difference.low > 0 else "undecided"
        rows.append({
            "a": "chosen", "b": other, "metric": metric_name("kid", protocol), "difference": difference.value,
            "low": difference.low, "high": difference.high, "better": better,
        })  # fmt: skip
    return rows


def verdict(record: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Return the sentence at the head of the report."""
    name = metric_name("kid", record["protocol"])
    kid = next(s for s in record["runs"]["chosen"]["scores"] if s["name"] == name)
    start = f"from {report['source']} by {report['method']}" if report["source"] else "from scratch"
    text = (
        f"The model adapted {start} has {name} {kid['value']:.3f} ({kid['low']:.3f} to {kid['high']:.3f}; lower is better) "
        f"on {record['n_test']} {'test' if record['reference'] == 'test' else 'training'} images"
    )
    words = {"chosen": "clearly better than", "undecided": "not clearly different from"}
    against = []
    for row in record["paired"]:
        other = record["runs"][row["b"]]["source"] or "scratch"
        label = f"the {row['b']} source ({other})" if row["b"] != "scratch" else "training from scratch"
        against.append(f"{words.get(row['better'], 'clearly worse than')} {label}")
    copying = record["runs"]["chosen"]["copy"]
    if not copying["available"]:
        tail = "whether it copies training images cannot be told"
    elif copying["low"] > 0.5:
        tail = f"its samples lie nearer to the training images than new images do ({copying['auc']:.2f}, 0.5 is honest)"
    else:
        tail = "it shows no sign of copying training images"
    return "; ".join([text, *against, tail]) + "."


def scores_csv(record: Mapping[str, Any]) -> str:
    """Return all scores as CSV, one a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "metric", "value", "low", "high", "floor"])
    for name, run_record in record["runs"].items():
        for row in run_record["scores"]:
            writer.writerow([name, *(row[key] for key in ("name", "value", "low", "high", "floor"))])
    return text.getvalue()
