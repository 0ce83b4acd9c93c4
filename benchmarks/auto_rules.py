"""Derive the rules of `finetune.method: auto` from `benchmarks/results/methods.json`.

`benchmarks/methods.py` does it too, when it is done.

    python benchmarks/auto_rules.py
"""

from __future__ import annotations

from pathlib import Path

import click

from graftgan.contract import read_json, write_json
from graftgan.transfer.auto import RULES_FILE, derive

RESULTS = Path(__file__).resolve().parent / "results" / "methods.json"


def refresh() -> list[str]:
    """Write the rules and return them as sentences."""
    found = read_json(RESULTS)
    rules = derive(found["images"], found["kimg"])
    write_json(RULES_FILE, {"rules": rules})
    return [f"up to {rule['most_images'] or 'any'} images: {rule['method']}: {rule['why']}" for rule in rules]


if __name__ == "__main__":
    click.echo("\n".join(refresh()))
