"""rank: which source to start from, by the measure that `rank.selector` names."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from graftgan.checkpoints.catalogue import SCRATCH, Catalogue, Source
from graftgan.config import Params
from graftgan.context import Context
from graftgan.contract import Outcome, digest_text, write_json, write_text
from graftgan.data.dataset import ImageSet
from graftgan.device import pick_device
from graftgan.errors import ConfigError, DataError
from graftgan.gans.base import Generator, build, parameter_count, sample
from graftgan.metrics.features import Extractor
from graftgan.metrics.intervals import Estimate
from graftgan.metrics.precision_recall import covered
from graftgan.metrics.reals import Reals
from graftgan.parallel import run_spread
from graftgan.reporting.sheets import save_png, sheet
from graftgan.stages.choosing import Row, choose, order_rows
from graftgan.stages.features import (
    Features,
    Images,
    cached,
    cached_together,
    images_key,
    open_extractor,
    samples_key,
    share_of,
)
from graftgan.stages.pictures import drawn_once
from graftgan.stages.start import can_fit, scratch_spec
from graftgan.world import is_first

SCORES = ("recall", "precision", "density", "coverage", "kid", "fd")
SHEET_IMAGES = 32
SHEET_COLUMNS = 8
SHEET_CELL_PX = 64
LEAST_TARGET_IMAGES = 10


@dataclass(frozen=True)
class Candidate:
    """A source, or the freshly initialised network, to be measured against the target.

    Attributes:
        source: Catalogue entry; None stands for scratch.
        params: All parameters.
        target: Features of the target images are cached under this content key.
        dataset: The packed image set.
        sheets: Folder of the contact sheets.
    """

    source: Source | None
    params: Params
    target: str
    dataset: Path
    sheets: Path


def target_images(data: ImageSet) -> Images:
    """Return the images that the choice may look at: all but the test images."""
    return np.concatenate([data.images("train"), data.images("validation")])


def run(inputs: Mapping[str, Path], params: Params, outputs: Mapping[str, Path], ctx: Context) -> Outcome:
    """Measure every candidate and choose one; see `specs.STAGES` for inputs and outputs."""
    data = ImageSet.open(inputs["dataset"])
    images = target_images(data)
    if len(images) < LEAST_TARGET_IMAGES:
        raise DataError(
            f"ranking needs {LEAST_TARGET_IMAGES} images besides the test images, there are {len(images)}",
            "add images",
        )
    check_neighbours(params, len(images))
    catalogue = Catalogue(params.rank.catalogue, ctx.cache)
    sources, warnings = compatible(catalogue, params, data, ctx)
    check_choice(params, sources, warnings)
    folder = outputs["ranking"]
    (folder / "sheets").mkdir()
    extractor = open_extractor(params.rank.extractor, params)
    key = images_key(images)
    target = cached_together(key, partial(share_of, images), extractor, ctx, "target features")
    candidates = [Candidate(s, params, key, inputs["dataset"], folder / "sheets") for s in [*sources, None]]
    measured = run_spread(measure, candidates, ctx, params.runtime, folder)
    _Kept.key = _Kept.target = None
    if not is_first():
        return Outcome({}, ())
    rows = order_rows(measured, len(images), params.rank.selector)
    choice, worst, tied, advice = choose(rows, params.rank, len(images))
    warnings += advice
    if len(images) < 100:
        warnings.append(f"recall is counted on {len(images)} images: its steps are {1 / len(images):.3f}")
    save_png(sheet(images[:SHEET_IMAGES], SHEET_COLUMNS, cell_px=SHEET_CELL_PX), folder / "target.png")
    chosen_one = next(c for c in candidates if (c.source.name if c.source else SCRATCH) == choice["name"])
    save_uncovered(folder / "uncovered.png", chosen_one, extractor, images, target, ctx)
    record = {
        "protocol": extractor.protocol, "samples": params.rank.samples, "neighbours": params.rank.neighbours,
        "n_target": len(images), "dataset": data.digest, "selector": params.rank.selector,
        "choice": choice, "worst": worst, "tied": tied, "warnings": warnings, "rows": rows,
    }  # fmt: skip
    write_json(folder / "ranking.json", record)
    write_text(folder / "ranking.csv", ranking_csv(rows))
    chosen = next(row for row in rows if row["name"] == choice["name"])
    return Outcome({"recall": chosen["recall"]["value"], "sources": float(len(sources))}, tuple(warnings))


def compatible(
    catalogue: Catalogue, params: Params, data: ImageSet, ctx: Context
) -> tuple[list[Source], list[str]]:
    """Return the selected sources that can be trained on the data, and warnings about the others.

    Raises:
        ConfigError: If none fits.
    """
    fits, warnings = [], []
    for source in catalogue.select(params.rank.sources):
        spec = catalogue.spec(source, ctx.cache)
        if can_fit(spec, data):
            fits.append(source)
        else:
            size = f"{spec.resolution} px images of {spec.channels} channels"
            warnings.append(f"{source.name} was left out: it makes {size}")
    if not fits and params.rank.choose != SCRATCH:
        raise ConfigError(
            f"no source in {catalogue.path} makes {data.resolution} px images of {data.channels} channels",
            "change data.resolution, add a source, or set rank.choose=scratch",
        )
    return fits, warnings


def check_neighbours(params: Params, n_target: int) -> None:
    """Refuse a neighbour that the smaller of the two sets of images does not have."""
    k, least = params.rank.neighbours, min(params.rank.samples, n_target)
    if k >= least:
        raise ConfigError(
            f"rank.neighbours is {k}, with rank.samples={params.rank.samples} and {n_target} images",
            f"use at most {least - 1}",
        )


def check_choice(params: Params, sources: Sequence[Source], left_out: Sequence[str] = ()) -> None:
    """Refuse a `rank.choose` that names no candidate; `left_out` says why some sources are none."""
    wanted = params.rank.choose
    names = ["recommended", SCRATCH, *(source.name for source in sources)]
    if wanted not in names:
        why = "".join(f": {text}" for text in left_out if text.startswith(f"{wanted} was left out"))
        raise ConfigError(
            f"rank.choose: {wanted!r} is not a candidate{why}", f"use one of {', '.join(names)}"
        )


def measure(candidate: Candidate, ctx: Context) -> Row:
    """Sample a candidate without truncation and score it against the target."""
    source, rank = candidate.source, candidate.params.rank
    name = source.name if source else SCRATCH
    device = pick_device(candidate.params.runtime.device)
    generator, content = generator_of(candidate, ctx)
    generator.to(device)
    save_sheet(candidate.sheets / f"{name}.png", generator, content, rank.seed, ctx)
    extractor = open_extractor(rank.extractor, candidate.params)
    target = target_of(candidate, extractor, ctx)
    features = source_features(candidate, content, generator, extractor, ctx)
    estimates = {
        **vars(target.manifold(features, rank.neighbours, min(5, len(target) - 1))),
        "kid": target.kid(target.sums(features)),
        "fd": target.frechet(features),
    }
    return {
        "name": name,
        "kind": "source" if source else SCRATCH,
        "title": source.title if source else "A network with random weights",
        "domain": source.domain if source else [],
        "kimg": source.kimg if source else 0.0,
        "licence": source.licence if source else "",
        "sha256": source.sha256 if source else "",
        "training_images": source.images or 0 if source else 0,
        "resolution": generator.spec.resolution,
        "parameters": parameter_count(generator),
        "sheet": f"sheets/{name}.png",
        **{metric: interval(estimate) for metric, estimate in estimates.items()},
    }


class _Kept:
    """The target of the candidate that this process measured last."""

    key: tuple[str, str, float] | None = None
    target: Reals | None = None


def target_of(candidate: Candidate, extractor: Extractor, ctx: Context) -> Reals:
    """Return the features of the target and what is known of them, of which each process makes one."""
    memory_mib = candidate.params.runtime.memory_mib
    key = (candidate.target, extractor.protocol, memory_mib)
    if _Kept.target is None or _Kept.key != key:
        features = cached(
            key[0], lambda: target_images(ImageSet.open(candidate.dataset)), extractor, ctx, "target"
        )
        _Kept.key, _Kept.target = key, Reals(features, memory_mib)
    return _Kept.target


def generator_of(candidate: Candidate, ctx: Context) -> tuple[Generator, str]:
    """Return a candidate's averaged generator and a digest of what it is."""
    params = candidate.params
    if candidate.source is not None:
        gan = Catalogue(params.rank.catalogue, ctx.cache).load(candidate.source, ctx.cache)
        return gan.generator_ema, digest_text(f"{candidate.source.sha256} {gan.spec.to_dict()}")
    spec = scratch_spec(ImageSet.open(candidate.dataset), params)
    return build(spec, params.rank.seed).generator_ema, digest_text(f"{spec.to_dict()} {params.rank.seed}")


def source_features(
    candidate: Candidate, content: str, generator: Generator, extractor: Extractor, ctx: Context
) -> Features:
    """Return the features of a candidate's samples; they serve every later target."""
    rank = candidate.params.rank
    name = candidate.source.name if candidate.source else SCRATCH
    key = source_key(content, candidate.params)
    return cached(key, lambda: sample(generator, rank.samples, rank.seed), extractor, ctx, f"rank {name}")


def source_key(content: str, params: Params) -> str:
    """Return the content key of a candidate's samples, for `content` as `generator_of` gives it."""
    device = pick_device(params.runtime.device)
    return samples_key(f"rank {content}", device, params.rank.samples, params.rank.seed)


def interval(estimate: Estimate) -> dict[str, float | None]:
    """Return value and ends of an interval; None where they are not finite."""
    ends = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: float(end) if math.isfinite(end) else None for name, end in ends.items()}


def save_uncovered(
    path: Path, candidate: Candidate, extractor: Extractor, images: Images, target: Features, ctx: Context
) -> None:
    """Write a sheet of the target images that the chosen candidate's samples do not cover."""
    generator, content = generator_of(candidate, ctx)
    features = source_features(candidate, content, generator, extractor, ctx)
    params = candidate.params
    inside = covered(target, features, k=params.rank.neighbours, memory_mib=params.runtime.memory_mib)
    save_png(sheet(images[~inside][:SHEET_IMAGES], SHEET_COLUMNS, cell_px=SHEET_CELL_PX), path)


def save_sheet(path: Path, generator: Generator, content: str, seed: int, ctx: Context) -> None:
    """Write a sheet of a candidate's samples; like their features it serves every later target."""

    def draw(target: Path) -> None:
        save_png(sheet(sample(generator, SHEET_IMAGES, seed), SHEET_COLUMNS, cell_px=SHEET_CELL_PX), target)

    device = next(generator.parameters()).device
    key = samples_key(f"sheet {content}", device, SHEET_IMAGES, seed, SHEET_COLUMNS, SHEET_CELL_PX)
    drawn_once(path, key, draw, ctx)


def ranking_csv(rows: Sequence[Row]) -> str:
    """Return the ranking as CSV, one source a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "rank", "recall", "recall_low", "recall_high", *SCORES[1:]])
    for row in rows:
        ends = [row["recall"][end] for end in ("value", "low", "high")]
        writer.writerow([row["name"], row["rank"], *ends, *(row[score]["value"] for score in SCORES[1:])])
    return text.getvalue()
