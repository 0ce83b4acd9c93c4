"""What the stages of a list of tasks write about each task, and hand on."""

from __future__ import annotations

import csv
import io
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from graftgan.bank.accounting import Cost
from graftgan.bank.store import LOCK
from graftgan.contract import read_json, write_json, write_text
from graftgan.data.pairs import TaskImages
from graftgan.errors import MissingInput
from graftgan.metrics.intervals import Estimate
from graftgan.stages.lifelong import Learnt

RESULT, EXAMPLES, CURVES = "result.json", "examples.png", "curves.csv"


def hand_on(before: Path, after: Path) -> None:
    """Copy a folder of banks and tasks to where this stage may change it."""
    shutil.copytree(before, after, dirs_exist_ok=True, ignore=shutil.ignore_patterns(LOCK))
    for path in after.rglob("*"):
        # Caches hand out files that nobody may write.
        path.chmod(path.stat().st_mode | 0o200)


def drop_locks(folder: Path) -> None:
    """Remove the locks of banks below a folder: whether they are left depends on the system."""
    for lock in folder.rglob(LOCK):
        lock.unlink()


def plain(scores: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """Return estimates as JSON has them, null where a number is not known."""
    return {
        name: {key: value if math.isfinite(value) else None for key, value in asdict(estimate).items()}
        for name, estimate in sorted(scores.items())
    }


def write_task(folder: Path, learnt: Learnt, images: TaskImages, cost: Cost) -> None:
    """Write `result.json` and `curves.csv` of a task into an existing folder.

    Nothing in it depends on the clock; the time is beside the stage's result, in `run.json`.
    """
    task, history, data = learnt.task, learnt.history, images.data
    best = history.best
    facts = {
        "name": task.name,
        "index": task.index,
        "kind": data.kind,
        "data": data.model_dump(mode="json"),
        "data_fingerprint": task.data_fingerprint,
        "licences": [list(pair) for pair in images.licences],
        "config_hash": task.config_hash,
        "init": task.init,
        "why": "" if learnt.ranking is None else learnt.ranking.why,
        "images": {name: len(part.inputs) for name, part in sorted(images.parts.items())},
        "images_seen": history.rows[-1]["images_seen"] if history.rows else 0,
        "kept_at": history.best_images,
        "validation": None if best is None else {"value": best.value, "low": best.low, "high": best.high},
        "scores": plain(learnt.scores),
        "added": cost.added,
        "free": cost.free,
        "mix": cost.mix,
        "full": cost.full,
        "ratio": cost.ratio,
        "cumulative": cost.total,
        "cumulative_ratio": cost.cumulative_ratio,
        "outputs_sha256": task.outputs.sha256,
        "warnings": list(learnt.warnings),
    }
    write_json(folder / RESULT, facts)
    write_text(folder / CURVES, curves(history.rows))


def curves(rows: Sequence[Mapping[str, float]]) -> str:
    """Return training curves as CSV; the columns are those of all rows in the order in which they appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def read_tasks(folder: Path) -> list[dict[str, Any]]:
    """Read `result.json` of every task, in the order in which they were learnt.

    Raises:
        MissingInput: One is absent, or is not of a task.
    """
    found = [read_json(path) for path in sorted(folder.glob(f"*/{RESULT}"))]
    try:
        return sorted(found, key=lambda facts: int(facts["index"]))
    except (KeyError, TypeError, ValueError):
        raise MissingInput(
            f"{folder} holds a {RESULT} that is not of a task", "learn the tasks again"
        ) from None
