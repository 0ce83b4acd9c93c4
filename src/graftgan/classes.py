"""Which classes of a conditional generator are collapsed, narrow or alike, by vectors and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftgan.contract import atomic_path
from graftgan.data.dataset import SPLITS, ImageSet
from graftgan.errors import ConfigError, DataError
from graftgan.gans.base import Generator, draw_latents, to_uint8
from graftgan.gans.class_table import class_table, generate
from graftgan.metrics.class_diversity import (
    LARGE_NORM,
    Spread,
    covered,
    distances,
    relative,
    robust_scores,
    spread,
)
from graftgan.metrics.features import Extractor
from graftgan.reporting.sheets import save_png, sheet

Images = NDArray[np.uint8]
Features = NDArray[np.float32]
COLLAPSED_SHARE = 0.5
NARROW_SHARE = 0.8
MANY_TWINS = 0.5
SAME_SHARE = 0.1
LOW_COVERAGE = 0.5
SHEET_COLUMNS = 8
SHEET_IMAGES = 64


@dataclass(frozen=True)
class Diagnosis:
    """What is known of one class.

    Attributes:
        id: Its number.
        name: Its name, or empty.
        norm: Length of its vector.
        norm_score: Robust deviations of that from the median class; large ones go with low variety.
        nearest: The class with the nearest vector; None if there is no other.
        nearest_distance: Distance to it.
        nearest_cosine: Cosine with it.
        spread: Variety of its samples.
        share: Mean distance of its samples, over the median of the other classes.
        real_share: The same over the mean distance of its real images, if there are any.
        density: Of its samples among the real images.
        coverage: Share of the real images that its samples reach.
        findings: What is wrong with it, in words; empty if nothing was found.
    """

    id: int
    name: str
    norm: float
    norm_score: float
    nearest: int | None
    nearest_distance: float
    nearest_cosine: float
    spread: Spread
    share: float
    real_share: float | None = None
    density: float | None = None
    coverage: float | None = None
    findings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def sample_vector(generator: Generator, vector: Tensor, z: Tensor, batch: int = 64) -> Images:
    """Return uint8 images [N, R, R, C] of latents [N, z_dim] with one class vector [D]."""
    with torch.no_grad():
        parts = [to_uint8(generate(generator, part, vector.expand(len(part), -1))) for part in z.split(batch)]
    return np.concatenate(parts)


def fixed_latents(generator: Generator, count: int, seed: int) -> Tensor:
    """Return the latents [count, z_dim] that all classes are compared on."""
    rng = torch.Generator().manual_seed(seed)
    z = draw_latents(generator.spec, count, rng, generator.prior)[0]
    return z.to(next(generator.parameters()).device)


def rgb(images: Images) -> Images:
    """Return images as extractors take them: RGBA loses its alpha."""
    return images[..., :3] if images.shape[-1] == 4 else images


def diagnose(
    generator: Generator,
    extractor: Extractor,
    count: int,
    seed: int,
    real: Mapping[int, Features] | None = None,
    names: Sequence[str] = (),
) -> tuple[list[Diagnosis], list[Images]]:
    """Examine all classes on the same latents.

    Args:
        generator: With classes; it is put in evaluation mode.
        extractor: Of the features that variety is measured in.
        count: Samples a class.
        seed: Of the latents.
        real: Features of real images of some classes.
        names: Of the classes.

    Returns:
        One diagnosis a class, and its samples.

    Raises:
        ConfigError: The generator has no table of class vectors.
    """
    generator.eval()
    table = class_table(generator)
    z = fixed_latents(generator, count, seed)
    images = [sample_vector(generator, vector, z) for vector in table]
    features = [extractor(rgb(pictures)) for pictures in images]
    everything = np.concatenate(features)
    apart = distances(everything[:: max(len(everything) // 512, 1)])
    scale = float(apart[np.triu_indices(len(apart), 1)].mean())
    spreads = [spread(rows, z.cpu().numpy(), scale) for rows in features]
    shares = relative(np.array([one.distance for one in spreads]))
    found = []
    for facts in vector_facts(table, names):
        rows = features[facts["id"]]
        against = against_real(rows, (real or {}).get(facts["id"]))
        found.append(
            Diagnosis(**facts, spread=spreads[facts["id"]], share=float(shares[facts["id"]]), **against)
        )
    return with_findings(found), images


def vector_facts(table: Tensor, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return what the vectors [classes, D] alone tell of each class, as fields of `Diagnosis`."""
    vectors = table.double().cpu().numpy()
    norms = np.linalg.norm(vectors, axis=1)
    scores = robust_scores(norms)
    apart = distances(vectors)
    np.fill_diagonal(apart, np.inf)
    facts = []
    for i in range(len(vectors)):
        j = int(apart[i].argmin())
        alone = len(vectors) == 1
        facts.append({
            "id": i, "name": names[i] if i < len(names) else "", "norm": float(norms[i]),
            "norm_score": float(scores[i]), "nearest": None if alone else j,
            "nearest_distance": 0.0 if alone else float(apart[i, j]),
            "nearest_cosine": 1.0 if alone else cosine(vectors[i], vectors[j]),
        })  # fmt: skip
    return facts


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return the cosine between two vectors; 0 if one is zero."""
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def against_real(rows: Features, real: Features | None) -> dict[str, Any]:
    """Return how samples compare with real images of their class, as fields of `Diagnosis`."""
    if real is None or (found := covered(rows, real)) is None:
        return {}
    apart = distances(real)
    mean = float(apart[np.triu_indices(len(apart), 1)].mean())
    own = distances(rows)
    return {
        "real_share": float(own[np.triu_indices(len(own), 1)].mean()) / max(mean, 1e-12),
        "density": found[0],
        "coverage": found[1],
    }


def with_findings(classes: Sequence[Diagnosis]) -> list[Diagnosis]:
    """Return diagnoses with what is wrong in words; the limits are ours."""
    typical = float(np.median([one.nearest_distance for one in classes]))
    return [Diagnosis(**{**vars(one), "findings": tuple(_findings(one, typical))}) for one in classes]


def _findings(one: Diagnosis, typical: float) -> list[str]:
    found = []
    if one.share < COLLAPSED_SHARE or one.spread.twins > MANY_TWINS:
        found.append("collapsed")
    elif one.real_share is not None and one.real_share < NARROW_SHARE:
        found.append("narrower than its images")
    elif one.real_share is None and one.share < NARROW_SHARE:
        found.append("narrow")
    if one.coverage is not None and one.coverage < LOW_COVERAGE and "collapsed" not in found:
        found.append("misses images")
    if one.nearest is not None and one.nearest_distance < SAME_SHARE * typical:
        found.append(f"same as {one.nearest}")
    if one.norm_score > LARGE_NORM:
        found.append("large norm")
    return found


def real_features(
    dataset: Path, extractor: Extractor, generator: Generator, only: int | None
) -> dict[int, Features]:
    """Return features of a packed set's images by class.

    Args:
        dataset: Folder that the prepare stage wrote.
        extractor: As for the samples.
        generator: Whose classes the labels are.
        only: The class that all images are of, or None for their labels.

    Raises:
        ConfigError: Labels are not classes of the generator, or the images are of another size.
        DataError: The images have no labels, and no class was given.
    """
    data = ImageSet.open(dataset)
    spec = generator.spec
    if (data.resolution, data.channels) != (spec.resolution, spec.channels):
        raise ConfigError(
            f"{dataset} has images of {data.resolution} px and {data.channels} channels, the source of "
            f"{spec.resolution} px and {spec.channels}",
            "run prepare with data.resolution and data.channels as the source has them",
        )
    images = np.concatenate([data.images(split) for split in SPLITS])
    labels = np.concatenate([data.labels(split) for split in SPLITS])
    if only is not None:
        labels = np.full(len(images), only)
    if labels.min(initial=0) < 0:
        raise DataError(
            f"{dataset}: some images have no label", "say which class they are of: --dataset-class 3"
        )
    if labels.max(initial=0) >= spec.classes:
        raise ConfigError(
            f"{dataset} has class {int(labels.max())}, the source {spec.classes} classes",
            "correct the labels",
        )
    return {int(i): extractor(rgb(images[labels == i])) for i in np.unique(labels)}


COLUMNS = (
    "class",
    "norm",
    "score",
    "nearest",
    "distance",
    "share",
    "per z",
    "twins",
    "real",
    "cover",
    "found",
)


def table_lines(classes: Sequence[Diagnosis]) -> list[str]:
    """Return the table for a terminal, one line a class under a header."""
    rows = [COLUMNS, *(_cells(one) for one in classes)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cells(one: Diagnosis) -> tuple[str, ...]:
    def text(value: float | None, form: str = ".2f") -> str:
        return "-" if value is None else format(value, form)

    return (
        f"{one.id} {one.name}".strip(), text(one.norm), text(one.norm_score, "+.1f"),
        "-" if one.nearest is None else str(one.nearest), text(one.nearest_distance), text(one.share),
        text(one.spread.per_latent, ".3g"), text(one.spread.twins), text(one.real_share), text(one.coverage),
        ", ".join(one.findings) or "-",
    )  # fmt: skip


def write_sheets(images: Sequence[Images], folder: Path) -> list[Path]:
    """Write a contact sheet a class, and one of all with a row each; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.concatenate([pictures[:SHEET_COLUMNS] for pictures in images])
    sheets = {"classes.png": rows} | {
        f"class-{i:03d}.png": pictures[:SHEET_IMAGES] for i, pictures in enumerate(images)
    }
    for name, pictures in sheets.items():
        with atomic_path(folder / name) as temporary:
            save_png(sheet(pictures, SHEET_COLUMNS, cell_px=64), temporary)
    return [folder / name for name in sheets]
