"""The stage that writes down what a list of tasks scores, costs and forgets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graftgan.context import Context
from graftgan.contract import Outcome, read_json, write_text
from graftgan.lifelong_config import LifelongParams
from graftgan.reporting.bank_tables import verdict
from graftgan.stages.lifelong_files import read_tasks


def run(
    inputs: Mapping[str, Path], params: LifelongParams, outputs: Mapping[str, Path], ctx: Context
) -> Outcome:
    """Write the verdict.

    Args:
        inputs: Folders `bank` and `tasks`, files `scores` and `proof`.
        params: Nothing of them.
        outputs: File `verdict`.
        ctx: Surroundings.

    Returns:
        Number of tasks and the size of the bank in generators.

    Raises:
        MissingInput: An input is absent or is not what the stages write.
    """
    tasks = read_tasks(inputs["tasks"])
    write_text(outputs["verdict"], verdict(tasks, read_json(inputs["scores"]), read_json(inputs["proof"])))
    return Outcome({"tasks": float(len(tasks)), "bank_ratio": float(tasks[-1]["cumulative_ratio"])})
