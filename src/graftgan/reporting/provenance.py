"""Where everything came from: digests, sources, methods, parameters and licences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import graftgan
from graftgan.config import Params
from graftgan.params import flatten
from graftgan.reporting.facts import Facts, RunFacts
from graftgan.reporting.numbers import NONE, count, kimg, number

SECTIONS = ("data", "rank", "finetune", "evaluate", "report")
PATHS = ("data.path", "rank.catalogue")


def digests(facts: Facts, code: str) -> list[tuple[str, str]]:
    """Return what identifies the inputs of this report.

    Args:
        facts: The facts.
        code: sha256 over the package's source files.
    """
    rows = [
        ("Image set", str(facts.dataset["digest"])),
        # Not the commit: equal inputs give equal reports, in a repository and without one.
        ("Code revision", code),
        ("Version", graftgan.__version__),
        ("Protocol of the ranking", str(facts.ranking["protocol"])),
        ("Protocol of the scores", str(facts.scores["protocol"])),
    ]
    return rows


def run_table(facts: Facts) -> list[tuple[str, list[str]]]:
    """Return how each run was made: one row a property, one cell a run."""
    properties: dict[str, Callable[[RunFacts], str]] = {
        "Source": lambda run: str(run.source or "none"),
        "Source sha256": lambda run: str(run.model.get("source_sha256") or NONE),
        "Method": lambda run: method_of(run.model),
        "Seed": lambda run: str(run.model["seed"]),
        "Images seen": lambda run: kimg(run.model.get("images_total")),
        "Checkpoint kept at": lambda run: kimg(run.model["images_seen"]),
        "Precision": lambda run: str(run.model.get("precision") or NONE),
        "Weights added": lambda run: count(run.model.get("added_parameters")),
        "Stored": lambda run: _megabytes(run.model.get("stored_bytes")),
    }
    return [(label, [read(run) for run in facts.runs]) for label, read in properties.items()]


def method_of(model: Mapping[str, Any]) -> str:
    """Return the method of a run, with what was asked for where that is another."""
    asked = model.get("method_asked")
    return f"{model['method']} (taken by {asked})" if asked else str(model["method"])


def _megabytes(size: Any) -> str:
    found = number(size)
    return NONE if found is None else f"{found / 1e6:.2f} MB"


def parameters(params: Params) -> list[tuple[str, str]]:
    """Return the parameters that shape the result; of a path only the last part, as folders differ."""
    raw = params.model_dump(mode="json")
    flat = flatten({name: raw[name] for name in SECTIONS})
    return [(key, _shown(key, value)) for key, value in flat.items()]


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(str(part) for part in value) + "]"
    return PurePath(str(value)).name if key in PATHS else str(value)


def licences(facts: Facts) -> list[tuple[str, str]]:
    """Return the licence of the images and of each source that a run starts from."""
    rows = [(f"Images: {facts.dataset['source']}", str(facts.dataset.get("licence") or "not stated"))]
    for run in facts.runs:
        if run.source:
            rows.append(
                (f"Source: {run.model.get('source_title') or run.source}", _source_licence(run, facts))
            )
    return list(dict.fromkeys(rows))


def _source_licence(run: RunFacts, facts: Facts) -> str:
    listed = next((row.get("licence") for row in facts.ranking["rows"] if row["name"] == run.source), None)
    return str(run.model.get("source_licence") or listed or "not stated")
