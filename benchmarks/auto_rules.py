"""Derive the rules of `finetune.method: auto` from the tables that `benchmarks/methods.py` made.

That script does it too, when it is done. A table that is not measured has no rules.

    python benchmarks/auto_rules.py
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from graftgan.checkpoints.store import SPEC, read_spec
from graftgan.contract import read_json, write_json
from graftgan.transfer.auto import RULES_FILE, derive

RESULTS = Path(__file__).resolve().parent / "results"
TABLES = ("methods.json", "methods-biggan.json", "methods-residual.json", "methods-residual-24kimg.json")
"""The first holds for families that none was measured with."""
ZOO = Path(__file__).resolve().parent.parent / "zoo"


def families(sources: Iterable[str]) -> set[str]:
    """Return the families of sources of the zoo."""
    return {read_spec(ZOO / name / SPEC).family for name in sources}


def derived() -> dict[str, Any]:
    """Return the content of the rules' file."""
    found = [read_json(RESULTS / name) for name in TABLES if (RESULTS / name).is_file()]
    return {
        "tables": [
            derive(one["images"], one["kimg"], families(one["sources"]), one["recipe"]) for one in found
        ]
    }


def refresh() -> list[str]:
    """Write the rules and return them as sentences."""
    found = derived()
    write_json(RULES_FILE, found)
    return [
        f"{', '.join(table['families'])}, up to {rule['most_images'] or 'any'} images: "
        f"{rule['method']}: {rule['why']}"
        for table in found["tables"]
        for rule in table["rules"]
    ]


if __name__ == "__main__":
    click.echo("\n".join(refresh()))
