"""What a report of a bank tells, read from the bank and from the files that learning its tasks left.

Below the folder of the results lie `tasks/NAME/result.json` and `tasks/NAME/examples.png`, `scores.json` and
`proof.json`; each may be absent. An estimate in them is `{value, stderr, low, high}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftgan.bank.accounting import Cost, costs
from graftgan.bank.manifest import Task
from graftgan.bank.store import Bank
from graftgan.contract import read_json
from graftgan.errors import MissingInput
from graftgan.reporting.numbers import Interval, number

TASKS = "tasks"
RESULT = "result.json"
EXAMPLES = "examples.png"
SCORES = "scores.json"
PROOF = "proof.json"
REMEDY = "run the lifelong pipeline again"

Scores = Mapping[str, Interval]


@dataclass(frozen=True)
class TaskFacts:
    """One task.

    Attributes:
        stored: Its entry in the bank.
        cost: What it added.
        scores: Of test images, by metric; without intervals where only the bank has them.
        standalone: The same of a model of its own with the same budget; empty where none was trained.
        seconds: That learning it took, or None.
        standalone_seconds: That the model of its own took, or None.
        curves: Rows of its training.
        images: Images of each split.
        data: The description of its images.
        train: Its recipe.
        licences: Its image sets and their licences.
        why: Why it started where it did.
        warnings: Sentences for people.
        folder: Where its pictures lie, or None.
    """

    stored: Task
    cost: Cost
    scores: Scores
    standalone: Scores
    seconds: float | None
    standalone_seconds: float | None
    curves: tuple[Mapping[str, Any], ...]
    images: Mapping[str, int]
    data: Mapping[str, Any]
    train: Mapping[str, Any]
    licences: tuple[tuple[str, str], ...]
    why: str
    warnings: tuple[str, ...]
    folder: Path | None

    @property
    def name(self) -> str:
        """Its name."""
        return self.stored.name

    @property
    def measure(self) -> str:
        """The score that it is judged by: L1 where there are truths, else KID; empty without scores."""
        wanted = [name for name in self.scores if name == "l1" or name.startswith("kid")]
        return min(wanted, key=lambda name: name != "l1", default="")


@dataclass(frozen=True)
class After:
    """The bank when a task had been added.

    Attributes:
        task: The task that was added.
        scores: Task -> its scores then.
        outputs: Task -> sha256 of its test outputs then.
    """

    task: str
    scores: Mapping[str, Scores]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class BankFacts:
    """All that a report tells.

    Attributes:
        bank: The bank.
        tasks: Its tasks in order.
        history: The bank after each addition; empty where nobody looked.
        findings: What `verify` found, now or before: nothing if the bank is whole.
        copied: The same of a copy of the bank, or None where none was tried.
        confidence: Level of the intervals.
        stored_bytes: Size of the bank on disk.
    """

    bank: Bank
    tasks: tuple[TaskFacts, ...]
    history: tuple[After, ...]
    findings: tuple[str, ...]
    copied: tuple[str, ...] | None
    confidence: float
    stored_bytes: int


def read_facts(bank: Bank, results: Path | None, findings: tuple[str, ...]) -> BankFacts:
    """Read what there is to tell.

    Args:
        bank: The bank.
        results: Folder with the files that learning left; None tells what the bank alone knows.
        findings: What `verify` finds now.

    Raises:
        MissingInput: The folder does not exist or a file in it is damaged or of another bank.
    """
    if results is not None and not results.is_dir():
        raise MissingInput(f"{results} is not a folder", "give the folder of the results, or none")
    scores, proof = (_read(results / name if results else None) for name in (SCORES, PROOF))
    tasks = tuple(
        _task(task, cost, results) for task, cost in zip(bank.tasks, costs(bank), strict=True)
    )  # fmt: skip
    history = _history(scores, proof)
    known = {task.name for task in tasks}
    if strange := sorted({after.task for after in history} - known):
        raise MissingInput(f"{results} tells of the task {strange[0]}, which {bank.folder} has not", REMEDY)
    copied = _texts(proof["copy"]) if proof.get("copy") is not None else None
    every = tuple(dict.fromkeys((*_texts(proof.get("verify")), *findings)))
    confidence = number(scores.get("confidence")) or 0.95
    size = sum(path.stat().st_size for path in bank.folder.rglob("*") if path.is_file())
    return BankFacts(bank, tasks, history, every, copied, confidence, size)


def _read(path: Path | None) -> dict[str, Any]:
    if path is None or not path.is_file():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise MissingInput(f"{path} holds a {type(found).__name__}, not an object", REMEDY)
    return found


def _task(task: Task, cost: Cost, results: Path | None) -> TaskFacts:
    folder = results / TASKS / task.name if results else None
    raw = _read(folder / RESULT if folder else None)
    alone = raw.get("standalone") or {}
    measured = _scores(raw.get("scores"))
    return TaskFacts(
        stored=task,
        cost=cost,
        scores=measured or {name: Interval(value) for name, value in sorted(task.scores.items())},
        standalone=_scores(alone.get("scores")),
        seconds=number(raw.get("seconds")),
        standalone_seconds=number(alone.get("seconds")),
        curves=tuple(row for row in raw.get("curves") or () if isinstance(row, Mapping)),
        images=raw.get("images") or {},
        data=raw.get("data") or {},
        train=raw.get("train") or {},
        licences=tuple((str(name), str(text)) for name, text in raw.get("licences") or ()),
        why=str(raw.get("why") or ""),
        warnings=_texts(raw.get("warnings")),
        folder=folder,
    )


def _scores(raw: Any) -> dict[str, Interval]:
    found = {str(name): Interval.of(value) for name, value in (raw or {}).items()}
    return {name: interval for name, interval in found.items() if interval.value is not None}


def _history(scores: Mapping[str, Any], proof: Mapping[str, Any]) -> tuple[After, ...]:
    """Join what both files say of the moments after each addition."""
    outputs = {str(row["task"]): row.get("outputs") or {} for row in proof.get("after") or ()}
    found = {
        str(row["task"]): {name: _scores(its) for name, its in (row.get("scores") or {}).items()}
        for row in scores.get("after") or ()
    }
    return tuple(
        After(task, found.get(task, {}), {name: str(value) for name, value in outputs.get(task, {}).items()})
        for task in dict.fromkeys((*found, *outputs))
    )


def _texts(raw: Any) -> tuple[str, ...]:
    return tuple(str(text) for text in raw or ())
