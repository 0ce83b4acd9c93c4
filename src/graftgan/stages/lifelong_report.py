"""The stage that writes the report of a bank: what its tasks score, cost and forget."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graftgan.bank.store import Bank
from graftgan.context import Context
from graftgan.contract import Outcome, read_json, write_text
from graftgan.lifelong_config import LifelongParams
from graftgan.reporting.bank_facts import Results, read_facts
from graftgan.reporting.bank_page import render
from graftgan.reporting.bank_tables import verdict
from graftgan.stages.lifelong_files import read_tasks


def run(
    inputs: Mapping[str, Path], params: LifelongParams, outputs: Mapping[str, Path], ctx: Context
) -> Outcome:
    """Write the report and the verdict.

    Args:
        inputs: Folders `bank` and `tasks`, files `scores` and `proof`.
        params: `registry.name` is the heading.
        outputs: Files `report` and `verdict`.
        ctx: Surroundings.

    Returns:
        Number of tasks, the size of the bank in generators, and that of the report in bytes.

    Raises:
        MissingInput: An input is absent or is not what the stages write.
    """
    tasks = read_tasks(inputs["tasks"])
    bank = Bank(inputs["bank"])
    found = Results(inputs["tasks"], inputs["scores"], inputs["proof"])
    # The stage before has verified this bank and stops at any finding.
    page = render(read_facts(bank, found, ()), f"{params.registry.name}: {len(tasks)} tasks in one bank")
    write_text(outputs["report"], page)
    write_text(outputs["verdict"], verdict(tasks, read_json(inputs["scores"]), read_json(inputs["proof"])))
    facts = {"tasks": len(tasks), "bank_ratio": tasks[-1]["cumulative_ratio"], "bytes": len(page.encode())}
    return Outcome({name: float(value) for name, value in facts.items()})
