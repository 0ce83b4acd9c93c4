"""What learning a task leaves for the report of a bank: `result.json` and the sheet of examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from graftgan.bank.store import Bank
from graftgan.bank.tasks import load_task as stored_generator
from graftgan.contract import write_json
from graftgan.data.pairs import TaskImages
from graftgan.metrics.intervals import Estimate
from graftgan.reporting.bank_facts import EXAMPLES, RESULT, TASKS
from graftgan.reporting.sheets import save_png
from graftgan.stages.lifelong import Learnt, Settings, example_sheet


def plain(scores: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    """Return scores as plain values for JSON."""
    return {name: asdict(estimate) for name, estimate in scores.items()}


def task_record(learnt: Learnt, images: TaskImages, settings: Settings) -> dict[str, Any]:
    """Return what is to be told of a task that was just learnt."""
    return {
        "name": learnt.task.name,
        "scores": plain(learnt.scores),
        "seconds": learnt.history.elapsed_s,
        "curves": learnt.history.rows,
        "images": {name: len(part.targets) for name, part in images.parts.items()},
        "data": images.data.model_dump(mode="json"),
        "train": settings.train.model_dump(mode="json"),
        "licences": [list(pair) for pair in images.licences],
        "why": learnt.ranking.why if learnt.ranking else "",
        "warnings": list(learnt.warnings),
    }


def write_record(
    folder: Path,
    bank: Bank,
    learnt: Learnt,
    images: TaskImages,
    settings: Settings,
    standalone: Mapping[str, Any] | None = None,
) -> None:
    """Write the record and the examples of a task below the folder of the results.

    Args:
        folder: Folder of the results.
        bank: The bank that the task is in.
        learnt: What learning gave.
        images: Its images.
        settings: How it was learnt.
        standalone: `scores`, as `plain` gives them, and `seconds` of a model of its own, if there is one.
    """
    name = learnt.task.name
    save_png(example_sheet(stored_generator(bank, name), images), folder / TASKS / name / EXAMPLES)
    record = {**task_record(learnt, images, settings), "standalone": standalone}
    write_json(folder / TASKS / name / RESULT, record)
