"""Folders as the stages before the report write them, small, valid and free of chance."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from graftgan.reporting.sheets import save_gif, save_png, sheet

DIGEST = "d" * 64
SHA = "a" * 64
PROTOCOL = "efflite0@224/lanczos/0123abcd"
RUNS = ("chosen", "worst", "scratch")
COLUMNS = [
    "images_seen",
    "loss_g",
    "loss_d",
    "r1",
    "sign_real",
    "sign_fake",
    "ada_p",
    "grad_norm_g",
    "grad_norm_d",
]
COLUMNS += ["kid_validation", "kid_low", "kid_high"]
SPLITS = ["train"] * 28 + ["validation"] * 4 + ["test"] * 8


def blobs(count: int, seed: int, side: int = 32) -> np.ndarray:
    """Coloured discs on coloured grounds, uint8 [count, side, side, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    found = []
    for _ in range(count):
        ground, ink = rng.integers(120, 255, 3), rng.integers(0, 160, 3)
        cx, cy, radius = [*rng.uniform(0.35, 0.65, 2).tolist(), rng.uniform(0.15, 0.35)]
        mask = ((x - cx) ** 2 + (y - cy) ** 2 < radius**2)[..., None]
        found.append(np.where(mask, ink, ground).astype(np.uint8))
    return np.stack(found)


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def edit(path: Path, **changes: object) -> None:
    """Change keys of a JSON file; None as a value stays None."""
    write(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def interval(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def dataset(folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", blobs(len(SPLITS), 1))
    names = [f"{name}-{i}.png" for i in range(len(SPLITS))]
    pq.write_table(
        pa.table({"row": range(len(SPLITS)), "name": names, "split": SPLITS}), folder / "manifest.parquet"
    )
    check = {
        "expectation": "expect_column_values_to_be_unique",
        "what": f"no two images are equal {name}",
        "success": True,
        "observed": 0,
        "offending": [],
    }
    failed = check | {
        "success": False,
        "what": "few blank images",
        "observed": 0.0251,
        "offending": names[:2],
    }
    facts = {
        "digest": DIGEST,
        "source": f"{name}.parquet",
        "images": len(SPLITS),
        "splits": {s: SPLITS.count(s) for s in ("train", "validation", "test", "unused")},
        "resolution": 32,
        "channels": 3,
        "labels": ["round", name],
        "missing": {},
        "bad": [{"name": f"{name}.jpg", "reason": "truncated"}],
        "duplicates": {"exact": 1, "near": 3},
        "expectations": {"success": False, "results": [check, failed]},
        "licence": f"CC0-1.0 {name}",
        "fit": "crop",
        "resize_filter": "lanczos",
        "background": "#ffffff",
    }
    write(folder / "dataset.json", facts)


def ranking(folder: Path, name: str) -> None:
    recalls = {"portraits": 0.71, f"cartoons {name}": 0.52, "flowers": 0.09, "scratch": 0.0}
    rows = []
    for rank, (source, recall) in enumerate(recalls.items(), 1):
        file = f"sheets/source{rank}.png"
        save_png(sheet(blobs(64, 10 + rank), 8), folder / file)
        rows.append(
            {
                "name": source,
                "rank": rank,
                "kind": "scratch" if source == "scratch" else "source",
                "title": f"{source.title()} at 32 px",
                "domain": ["faces", "drawings"],
                "kimg": 400,
                "licence": "CC-BY-4.0",
                "sha256": SHA,
                "resolution": 32,
                "parameters": 1_234_567,
                "recall": interval(recall, 0.05),
                "precision": interval(0.5, 0.04),
                "density": interval(0.4, 0.04),
                "coverage": interval(0.3, 0.04),
                "kid": interval(0.05 * rank, 0.004),
                "fd": interval(12.5 * rank, 1.0),
                "sheet": file,
            }
        )
    save_png(sheet(blobs(16, 2), 8), folder / "target.png")
    save_png(sheet(blobs(8, 3), 8), folder / "uncovered.png")
    facts = {
        "protocol": PROTOCOL,
        "samples": 1000,
        "neighbours": 3,
        "n_target": 28,
        "dataset": DIGEST,
        "choice": {"name": "portraits", "why": f"portraits covers 71 % of the images, {name} only 52 %."},
        "worst": "flowers",
        "warnings": [f"the images are few {name}"],
        "tied": [],
        "rows": rows,
    }
    write(folder / "ranking.json", facts)


def curves(path: Path, speed: float, points: int = 25) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for i in range(points):
            t = i / max(points - 1, 1)
            kid = 0.02 + 0.25 * math.exp(-speed * t)
            measured = [kid, kid - 0.01, kid + 0.01] if i % 6 == 0 else ["", "", ""]
            wave = 0.1 * math.sin(9 * t + speed)
            row = [1.2 + wave, 1.1 - wave, 0.05 + 0.02 * t, 0.6 * t, -0.5 * t, 0.3 * t, 2 + wave, 1.5 - wave]
            table.writerow([i * 1000, *row, *measured])


def model(folder: Path, run: str, name: str) -> None:
    folder.mkdir(parents=True)
    scratch = run == "scratch"
    curves(folder / "curves.csv", {"chosen": 5.0, "worst": 3.0}.get(run, 1.5))
    save_png(sheet(blobs(40, 5), 8), folder / "timeline.png")
    write(folder / "timeline.json", {"images_seen": [0, 6000, 12000, 18000, 24000], "columns": 8})
    facts = {
        "run": run,
        "source": None if scratch else {"chosen": "portraits"}.get(run, "flowers"),
        "source_sha256": None if scratch else SHA,
        "source_licence": None if scratch else "CC-BY-4.0",
        "source_title": None if scratch else f"{'Portraits' if run == 'chosen' else 'Flowers'} {name}",
        "method": "full",
        "seed": 0,
        "images_seen": 24000,
        "images_total": 24000,
        "best": {"images_seen": 24000, **{"kid": 0.0217, "low": 0.0117, "high": 0.0317}},
        "dataset": DIGEST,
        "protocol": PROTOCOL,
        "precision": "fp32",
        "warnings": [],
        "added_parameters": 0,
        "stored_bytes": 5_000_000,
    }
    write(folder / "model.json", facts)


def score(
    metric: str, value: float, half: float | None, floor: float | None, note: str = ""
) -> dict[str, object]:
    ends = {"low": None, "high": None} if half is None else {"low": value - half, "high": value + half}
    return {
        "name": f"{metric}_efflite0",
        "value": value,
        **ends,
        "floor": floor,
        "n_fake": 1000,
        "n_real": 8,
        "protocol": PROTOCOL,
        "floor_n": 4 if floor is not None else None,
        "note": note,
    }


def scores(folder: Path, runs: tuple[str, ...], name: str) -> None:
    table = {}
    for place, run in enumerate(runs):
        found = [
            score("fd", 9.0 + 6 * place, 0.8, 6.4, "biased upwards at small n"),
            score("fd_excess", 2.6 + 6 * place, None, 0.0),
            score("kid", 0.0213 + 0.04 * place, 0.0061, 0.0004),
            score("precision", 0.81 - 0.1 * place, 0.05, 0.9),
            score("recall", 0.62 - 0.2 * place, 0.08, 0.88),
            score("copying", 0.48 + 0.01 * place, 0.06, 0.5),
        ]
        copy = {"available": True, "reason": "", "auc": 0.48, "share_closer": 0.48, "low": 0.42, "high": 0.54}
        table[run] = {"source": run, "method": "full", "scores": found, "copy": copy}
        save_png(sheet(blobs(64, 30 + place), 8, 64), folder / "samples" / f"{run}.png")
        save_png(sheet(blobs(24, 40 + place), 3, 64), folder / "pairs" / f"{run}.png")
        save_gif([sheet(blobs(8, 50 + i), 4, 64) for i in range(4)], folder / "interpolation" / f"{run}.gif")
    save_png(sheet(blobs(64, 4), 8, 64), folder / "real.png")
    paired = {
        "a": "chosen",
        "b": "scratch",
        "metric": "kid",
        "difference": -0.08,
        "low": -0.09,
        "high": -0.07,
    }
    facts = {
        "protocol": PROTOCOL,
        "confidence": 0.95,
        "n_fake": 1000,
        "n_test": 8,
        "seed": 0,
        "truncation_psi": 1.0,
        "dataset": DIGEST,
        "reference": "test",
        "floor": {"kid": 0.0004, "fd": 6.4},
        "runs": table,
        "paired": [paired | {"better": "chosen"}] if "scratch" in runs else [],
        "verdict": f"The source portraits helped: KID 0.021 against 0.101 from scratch {name}.",
        "warnings": [],
    }
    write(folder / "scores.json", facts)


def build(root: Path, runs: tuple[str, ...] = RUNS, name: str = "faces") -> dict[str, Path]:
    """Write all four input folders of the report; `name` ends up in every text that a user controls."""
    inputs = {key: root / key for key in ("dataset", "ranking", "models", "scores")}
    dataset(inputs["dataset"], name)
    ranking(inputs["ranking"], name)
    for run in runs:
        model(inputs["models"] / run, run, name)
    scores(inputs["scores"], runs, name)
    return inputs
