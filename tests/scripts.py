"""The scripts of `benchmarks/`, imported as they import each other."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

TESTS = Path(__file__).parent
FOLDER = str(TESTS.parent / "benchmarks")
# Folders of tests are imported by their names, and some benchmarks have the same.
TAKEN = {folder.name for folder in TESTS.iterdir() if folder.is_dir()}


def loaded(name: str) -> ModuleType:
    """Import a benchmark; one that has the name of a folder of tests leaves that name to it."""
    kept = {taken: sys.modules.pop(taken) for taken in TAKEN & sys.modules.keys()}
    sys.path.insert(0, FOLDER)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(FOLDER)
        for taken in TAKEN & sys.modules.keys():
            del sys.modules[taken]
        sys.modules.update(kept)
