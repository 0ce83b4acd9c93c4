"""Everything that the report and its Markdown verdict say, read from the folders that the stages wrote."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graftgan.contract import read_json
from graftgan.errors import MissingInput
from graftgan.reporting.numbers import number
from graftgan.reporting.sheets import Pixels

RUN_ORDER = ("chosen", "worst", "scratch")
NEEDED = {
    "dataset.json": ("digest", "source", "images", "splits", "resolution", "channels", "expectations"),
    "ranking.json": ("choice", "rows", "protocol"),
    "model.json": ("run", "method", "seed", "images_seen"),
    "inversion.json": ("gain", "mse", "squared_norm_per_dimension", "mixture"),
    "scores.json": ("runs", "verdict", "protocol", "confidence"),
}
MAX_POINTS = 800

Curve = Mapping[str, list[float | None]]


@dataclass(frozen=True)
class RunFacts:
    """One fine-tuning run.

    Attributes:
        name: `chosen`, `worst` or `scratch`.
        folder: Its checkpoint folder.
        model: Content of `model.json`.
        curves: Columns of `curves.csv`, with `images_seen` first; None where nothing was measured.
        timeline: Images seen at each row of `timeline.png`.
        scores: Its entry in `scores.json`, empty where it was not scored.
        inversion: Content of `inversion.json`, empty for a run without a prior.
    """

    name: str
    folder: Path
    model: Mapping[str, Any]
    curves: Curve
    timeline: tuple[float, ...]
    scores: Mapping[str, Any]
    inversion: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str | None:
        """Name of the source checkpoint, None for a run from scratch."""
        return self.model.get("source")

    @property
    def decision(self) -> str:
        """Which method was taken for `finetune.method: auto`, and why; empty where the user named it."""
        return decision(self.model)

    @property
    def label(self) -> str:
        """What the run is, in a few words."""
        origin = self.model.get("source_title") or self.source or "no source"
        kind = {"chosen": "Chosen", "worst": "Worst-ranked", "scratch": "From scratch"}.get(
            self.name, self.name
        )
        return kind if self.name == "scratch" else f"{kind}: {origin if self.source else 'from scratch'}"


def decision(model: Mapping[str, Any]) -> str:
    """Return which method was taken instead of what was asked, and why; empty if none was.

    Args:
        model: Content of `model.json`.
    """
    if not model.get("method_asked"):
        return ""
    return f"finetune.method: {model['method_asked']} took {model['method']} {model['method_why']}"


@dataclass(frozen=True)
class Facts:
    """All inputs of the report.

    Attributes:
        dataset: Content of `dataset.json`.
        ranking: Content of `ranking.json`.
        scores: Content of `scores.json`.
        runs: The runs, chosen first.
        folders: Folder of each input.
    """

    dataset: Mapping[str, Any]
    ranking: Mapping[str, Any]
    scores: Mapping[str, Any]
    runs: tuple[RunFacts, ...]
    folders: Mapping[str, Path]

    @property
    def chosen(self) -> RunFacts:
        """The run that is registered."""
        return self.runs[0]

    def warnings(self) -> list[str]:
        """Return every warning of every stage once, in the order of the stages."""
        told = self.dataset.get("warnings")
        if told is None:
            # Image sets of earlier versions keep no other warnings.
            missing = self.dataset.get("missing") or {}
            told = [f"No {split} images: {reason}" for split, reason in missing.items()]
        found = list(told)
        for result in self.dataset["expectations"].get("results", []):
            if not result.get("success", True):
                found.append(f"Data check failed: {result.get('what') or result.get('expectation')}")
        found += self.ranking.get("warnings") or []
        for run in self.runs:
            found += [run.decision] if run.decision else []
            found += [f"{run.label}: {text}" for text in run.model.get("warnings") or []]
        found += self.scores.get("warnings") or []
        return list(dict.fromkeys(str(text) for text in found))


def read_facts(inputs: Mapping[str, Path]) -> Facts:
    """Read the folders `dataset`, `ranking`, `models` and `scores`.

    Raises:
        MissingInput: If a file is absent, is not JSON or lacks what the report needs.
    """
    scores = _checked(inputs["scores"] / "scores.json", "evaluate")
    names = [f.name for f in inputs["models"].iterdir() if (f / "model.json").is_file()]
    if "chosen" not in names:
        raise MissingInput(f"{inputs['models']} holds no run called chosen", "run `graftgan finetune` again")
    order = sorted(names, key=lambda n: (RUN_ORDER.index(n) if n in RUN_ORDER else len(RUN_ORDER), n))
    return Facts(
        dataset=_checked(inputs["dataset"] / "dataset.json", "prepare"),
        ranking=_checked(inputs["ranking"] / "ranking.json", "rank"),
        scores=scores,
        runs=tuple(_read_run(inputs["models"] / name, scores) for name in order),
        folders=dict(inputs),
    )


def _checked(path: Path, writer: str) -> Mapping[str, Any]:
    raw = read_json(path)
    missing = [key for key in NEEDED[path.name] if not isinstance(raw, dict) or key not in raw]
    if missing:
        raise MissingInput(f"{path} lacks {', '.join(missing)}", f"run `graftgan {writer}` again")
    found: Mapping[str, Any] = raw
    return found


def _read_run(folder: Path, scores: Mapping[str, Any]) -> RunFacts:
    timeline = folder / "timeline.json"
    steps = read_json(timeline).get("images_seen", []) if timeline.is_file() else []
    inversion = folder / "inversion.json"
    return RunFacts(
        name=folder.name,
        folder=folder,
        model=_checked(folder / "model.json", "finetune"),
        curves=read_curves(folder / "curves.csv"),
        timeline=tuple(steps),
        scores=scores["runs"].get(folder.name) or {},
        inversion=_checked(inversion, "finetune") if inversion.is_file() else {},
    )


def read_curves(path: Path) -> Curve:
    """Read `curves.csv` into columns, thinned evenly to some 800 points but keeping every measured KID.

    Returns:
        Columns of equal length; empty where there is no file. Cells that are not finite numbers are None.

    Raises:
        MissingInput: If the file has no column `images_seen`.
    """
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or [])
        rows = [{key: _cell(row.get(key)) for key in columns} for row in reader]
    if "images_seen" not in columns:
        raise MissingInput(f"{path} has no column images_seen", "run `graftgan finetune` again")
    stride = -(-len(rows) // MAX_POINTS) or 1
    kept = [r for i, r in enumerate(rows) if i % stride == 0 or r.get("kid_validation") is not None]
    return {key: [row[key] for row in kept] for key in columns}


def _cell(cell: str | None) -> float | None:
    try:
        found = number(float(cell or "nan"))
    except ValueError:
        return None
    return None if found is None else float(f"{found:.6g}")


def read_split(folder: Path, split: str, wanted: int) -> Pixels:
    """Return up to `wanted` images of a split, spread evenly over it.

    Args:
        folder: The packed image set.
        split: Name of the split.
        wanted: Most images returned.

    Returns:
        uint8 [n, R, R, C].
    """
    from pyarrow import parquet

    splits = parquet.read_table(folder / "manifest.parquet", columns=["split"])["split"].to_pylist()
    rows = np.flatnonzero(np.array(splits, dtype=object) == split)
    if len(rows) > wanted:
        rows = rows[np.linspace(0, len(rows) - 1, wanted).round().astype(int)]
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    return np.asarray(images[rows])
