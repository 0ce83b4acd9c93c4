"""The report stage: one HTML file that shows and explains what all other stages found, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graftgan.config import Params
from graftgan.context import Context
from graftgan.contract import Outcome, write_text
from graftgan.places import code_digest
from graftgan.reporting import interactive
from graftgan.reporting.facts import read_facts
from graftgan.reporting.html import render
from graftgan.reporting.markdown import verdict_markdown


def run(inputs: Mapping[str, Path], params: Params, outputs: Mapping[str, Path], ctx: Context) -> Outcome:
    """Write the report.

    Args:
        inputs: Folders `dataset`, `ranking`, `models` and `scores`.
        params: All parameters; those that shape the result are listed in the report.
        outputs: Paths of the files `report` and `verdict`.
        ctx: Surroundings of the stage.

    Returns:
        Size of the report in bytes, with a warning if the curves are static.

    Raises:
        MissingInput: If an input lacks what the report needs.
    """
    facts = read_facts(inputs)
    content = render(facts, params, code_digest()).encode()
    outputs["report"].write_bytes(content)
    write_text(outputs["verdict"], verdict_markdown(facts, params.report.title))
    ctx.log.info("report: %.1f MB, %d runs", len(content) / 1e6, len(facts.runs))
    hint = "the curves of the report are static; install graftgan[report] for interactive ones"
    return Outcome({"bytes": float(len(content))}, () if interactive.available() else (hint,))
