"""The stage that proves that no task has changed, and puts the bank where people find it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graftgan.bank.inspection import Finding
from graftgan.bank.manifest import Task
from graftgan.bank.store import Bank
from graftgan.bank.tasks import verify
from graftgan.context import Context
from graftgan.contract import Outcome, canonical_json, digest_path, read_json, write_json
from graftgan.errors import CheckpointError, MissingInput
from graftgan.lifelong_config import LifelongParams
from graftgan.stages.lifelong_files import hand_on
from graftgan.stages.lifelong_specs import BACK, BANK, TASKS

STATEMENT = (
    "The outputs of every task on its test images have the same digest after each addition as when the task "
    "was learnt, so every score is the same: forgetting is 0."
)
ELSEWHERE = (
    "No stored byte of any task has changed. Stages ran on different processors or versions of torch, which "
    "may round otherwise, so outputs were compared within each of them only: there their digests are equal."
)


def run(
    inputs: Mapping[str, Path], params: LifelongParams, outputs: Mapping[str, Path], ctx: Context
) -> Outcome:
    """Copy the banks, verify the copies, and compare the outputs of each task after every addition.

    Args:
        inputs: Folder `learnt`, and the file `table` with the scores after every addition.
        params: Nothing of them.
        outputs: Folders `bank`, `back` and `tasks`, files `scores` and `proof`.
        ctx: Surroundings.

    Returns:
        Number of tasks and the largest change of a score, which is 0.

    Raises:
        CheckpointError: A byte of a bank has changed, or a task makes other images than when it was learnt.
        MissingInput: The table of scores is not of this bank.
    """
    learnt = inputs["learnt"]
    for source, name in ((BANK, "bank"), (BACK, "back"), (TASKS, "tasks")):
        hand_on(learnt / source, outputs[name])
    banks = {BANK: Bank(outputs["bank"]), BACK: Bank(outputs["back"])}
    for name, bank in banks.items():
        refuse(name, verify(bank))
    table = read_json(inputs["table"])
    write_json(outputs["scores"], table)
    tasks = [prove(task, table["rows"]) for task in banks[BANK].tasks]
    forgetting = max((entry["largest_change"] for entry in tasks), default=0.0)
    proof = {
        "statement": STATEMENT if all(entry["environments"] == 1 for entry in tasks) else ELSEWHERE,
        "forgetting": forgetting,
        "additions": [row["after"] for row in table["rows"]],
        "tasks": tasks,
        "banks": {
            name: {"head": bank.head, "sha256": digest_path(bank.folder), "findings": []}
            for name, bank in banks.items()
        },
    }
    write_json(outputs["proof"], proof)
    return Outcome({"tasks": float(len(tasks)), "forgetting": forgetting})


def refuse(name: str, findings: Sequence[Finding]) -> None:
    """Stop at a damaged bank.

    Raises:
        CheckpointError: There are findings; each is named.
    """
    if findings:
        message = "\n  ".join([f"the {name} is damaged", *map(str, findings)])
        raise CheckpointError(message, "run `graftgan lifelong run --force`")


def prove(task: Task, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the digests of a task's outputs after every addition from its own on.

    Only digests from one kind of processor and version of torch are compared: others may round otherwise.

    Args:
        task: The task.
        rows: Rows of the table of scores, one an addition.

    Raises:
        CheckpointError: Two digests differ; names the task and the addition.
        MissingInput: The rows lack the task.
    """
    try:
        seen = [(str(row["after"]), row["tasks"][task.name]) for row in rows[task.index - 1 :]]
        digests = {after: str(entry["outputs_sha256"]) for after, entry in seen}
        own, last = seen[0][1]["scores"], seen[-1][1]["scores"]
    except (KeyError, TypeError, IndexError):
        raise MissingInput(f"the scores lack the task {task.name}", "run `graftgan lifelong run`") from None
    first: dict[str, str] = {}
    for after, entry in seen:
        known = first.setdefault(canonical_json(entry["environment"]), str(entry["outputs_sha256"]))
        if known != entry["outputs_sha256"]:
            raise CheckpointError(
                f"task {task.name} makes other images since {after} was added",
                "run `graftgan lifelong run --force`",
            )
    changes = [
        abs(last[name]["value"] - own[name]["value"]) for name in own if own[name]["value"] is not None
    ]
    return {
        "name": task.name,
        "index": task.index,
        "outputs_sha256": digests,
        "environments": len(first),
        "fixed_outputs_sha256": task.outputs.sha256,
        "file_sha256": task.sha256[task.file],
        "largest_change": max(changes, default=0.0),
    }
