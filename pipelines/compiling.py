"""Compiles a pipeline, compares it with what is checked in, and runs it here."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler, local
from kfp.components import load_component_from_file


def compile_to(pipeline: Any, path: Path) -> None:
    """Write a compiled pipeline to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline, str(path))


def same_as_fresh(pipeline: Any, path: Path) -> bool:
    """Return whether `path` holds what a fresh compile gives, compared as parsed YAML."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "fresh.yaml"
        compile_to(pipeline, fresh)
        texts = [p.read_text(encoding="utf-8") if p.exists() else "" for p in (path, fresh)]
    checked_in, compiled = ([*yaml.safe_load_all(text)] for text in texts)
    return checked_in == compiled


def compile_or_check(pipeline: Any, path: Path, check: bool, remedy: str) -> int:
    """Write `path`, or compare it with a fresh compile; returns the exit code."""
    if not check:
        compile_to(pipeline, path)
        return 0
    if same_as_fresh(pipeline, path):
        return 0
    print(f"{path} is stale\n  fix: {remedy}", file=sys.stderr)
    return 1


def run(compiled: Path, arguments: Mapping[str, Any], root: Path) -> None:
    """Execute a compiled pipeline with kfp's local runner; artifacts go below `root/RUN`.

    Raises:
        RuntimeError: If a task fails.
    """
    runner = local.SubprocessRunner(use_venv=False)
    local.init(runner=runner, pipeline_root=str(root), raise_on_error=True)
    load_component_from_file(str(compiled))(**arguments)
