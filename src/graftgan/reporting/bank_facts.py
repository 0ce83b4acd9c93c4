"""What a report of a bank tells, read from the bank and from the files that learning its tasks left.

Below the folder of the results lie `tasks/NAME/` with `result.json`, `curves.csv`, `examples.png` and
`standalone.json`, the file `scores.json` with a row an addition, and `proof.json`; each may be absent. An
estimate in them is `{value, stderr, low, high}`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftgan.bank.accounting import Cost, costs
from graftgan.bank.manifest import Task
from graftgan.bank.store import Bank
from graftgan.contract import canonical_json, read_json
from graftgan.errors import MissingInput
from graftgan.reporting.numbers import Interval, number

TASKS = "tasks"
RESULT = "result.json"
CURVES = "curves.csv"
EXAMPLES = "examples.png"
STANDALONE = "standalone.json"
SCORES = "scores.json"
PROOF = "proof.json"
CONFIDENCE = 0.95
REMEDY = "run the lifelong pipeline again"

Scores = Mapping[str, Interval]


@dataclass(frozen=True)
class Results:
    """Where the files lie that learning left.

    Attributes:
        tasks: Folder with one folder a task.
        scores: The table of scores.
        proof: The proof that no task has changed.
    """

    tasks: Path
    scores: Path
    proof: Path

    @classmethod
    def below(cls, folder: Path) -> Results:
        """Return the places below a folder such as `out/lifelong`.

        Raises:
            MissingInput: It is no folder.
        """
        if not folder.is_dir():
            raise MissingInput(f"{folder} is not a folder", "give the folder of the results, or none")
        return cls(folder / TASKS, folder / SCORES, folder / PROOF)


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
    curves: tuple[Mapping[str, float | None], ...]
    images: Mapping[str, int]
    data: Mapping[str, Any]
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
class Look:
    """One task at one moment.

    Attributes:
        scores: Of its test images.
        digest: sha256 of its test outputs.
        environment: Where they were computed; only digests of one place say something about each other.
    """

    scores: Scores
    digest: str
    environment: str


@dataclass(frozen=True)
class After:
    """The bank when a task had been added.

    Attributes:
        task: The task that was added.
        looks: Task -> what it was then.
    """

    task: str
    looks: Mapping[str, Look]


@dataclass(frozen=True)
class BankFacts:
    """All that a report tells.

    Attributes:
        bank: The bank.
        tasks: Its tasks in order.
        history: The bank after each addition; empty where nobody looked.
        statement: What the pipeline's proof says; empty without one.
        findings: What `verify` found, now or before: nothing if the bank is whole.
        confidence: Level of the intervals.
        stored_bytes: Size of the bank on disk.
    """

    bank: Bank
    tasks: tuple[TaskFacts, ...]
    history: tuple[After, ...]
    statement: str
    findings: tuple[str, ...]
    confidence: float
    stored_bytes: int


def read_facts(bank: Bank, results: Results | None, findings: tuple[str, ...]) -> BankFacts:
    """Read what there is to tell.

    Args:
        bank: The bank.
        results: The files that learning left; None tells what the bank alone knows.
        findings: What `verify` finds now.

    Raises:
        MissingInput: A file is damaged or of another bank.
    """
    scores = _read(results.scores if results else None)
    proof = _read(results.proof if results else None)
    folders = {task.name: results.tasks / task.name if results else None for task in bank.tasks}
    tasks = tuple(
        _task(task, cost, folders[task.name]) for task, cost in zip(bank.tasks, costs(bank), strict=True)
    )
    history = tuple(_after(row) for row in scores.get("rows") or ())
    known = {task.name for task in tasks}
    if strange := sorted({after.task for after in history} - known):
        raise MissingInput(f"{SCORES} tells of the task {strange[0]}, which {bank.folder} has not", REMEDY)
    before = [text for its in (proof.get("banks") or {}).values() for text in its.get("findings") or ()]
    size = sum(path.stat().st_size for path in bank.folder.rglob("*") if path.is_file())
    return BankFacts(
        bank=bank,
        tasks=tasks,
        history=history,
        statement=str(proof.get("statement") or ""),
        findings=tuple(dict.fromkeys((*map(str, before), *findings))),
        confidence=number((scores.get("protocol") or {}).get("confidence")) or CONFIDENCE,
        stored_bytes=size,
    )


def _read(path: Path | None) -> dict[str, Any]:
    if path is None or not path.is_file():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise MissingInput(f"{path} holds a {type(found).__name__}, not an object", REMEDY)
    return found


def _task(task: Task, cost: Cost, folder: Path | None) -> TaskFacts:
    raw, alone = (_read(folder / name if folder else None) for name in (RESULT, STANDALONE))
    measured = _scores(raw.get("scores"))
    return TaskFacts(
        stored=task,
        cost=cost,
        scores=measured or {name: Interval(value) for name, value in sorted(task.scores.items())},
        standalone=_scores(alone.get("scores")),
        seconds=number(raw.get("seconds")),
        standalone_seconds=number(alone.get("seconds")),
        curves=_curves(folder / CURVES) if folder else (),
        images=raw.get("images") or {},
        data=raw.get("data") or {},
        licences=tuple((str(name), str(text)) for name, text in raw.get("licences") or ()),
        why=str(raw.get("why") or ""),
        warnings=tuple(str(text) for text in raw.get("warnings") or ()),
        folder=folder,
    )


def _scores(raw: Any) -> dict[str, Interval]:
    found = {str(name): Interval.of(value) for name, value in (raw or {}).items()}
    return {name: interval for name, interval in found.items() if interval.value is not None}


def _curves(path: Path) -> tuple[dict[str, float | None], ...]:
    if not path.is_file():
        return ()
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return tuple(
            {key: number(float(text)) if text else None for key, text in row.items()} for row in rows
        )
    except (TypeError, ValueError):
        raise MissingInput(f"{path} holds something that is not a number", REMEDY) from None


def _after(row: Any) -> After:
    try:
        looks = {
            str(name): Look(
                _scores(entry["scores"]),
                str(entry["outputs_sha256"]),
                canonical_json(entry.get("environment")),
            )
            for name, entry in row["tasks"].items()
        }
        return After(str(row["after"]), looks)
    except (KeyError, TypeError, AttributeError):
        raise MissingInput(f"{SCORES} is no table of scores", REMEDY) from None
