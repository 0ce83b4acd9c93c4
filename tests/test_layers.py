"""Imports point down: the layers of the package in one table, held against every import statement in it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import graftgan

ROOT = Path(graftgan.__file__).parent

# From the ground up. A part may import parts of lower lines, and of its own line only what `BESIDE` names.
# A part is a module or package directly below `graftgan`; `graftgan` itself is its version.
LAYERS = (
    "graftgan errors section",
    "contract journal method_config lifelong_config config progress yamltext",
    "context device digests params",
    "gans metrics",
    "checkpoints data parallel",
    "bank packages reporting weights identity lifelong_params",
    "training classes sampling",
    "transfer follower tracking serving",
    "registry",
    "sync",
    "stages",
    "engine kfp_io template tracker",
    "doctor dryrun runner",
    "study",
    "commands",
    "cli",
    "__main__",
)

# Imports within a line, with what they are for.
BESIDE = {
    ("journal", "contract"): "its files are written atomically",
    ("config", "method_config"): "the section of the methods is a part of the parameters",
    ("lifelong_config", "config"): "a task shares Budget and Split with the pipeline",
    ("params", "context"): "",
    ("follower", "tracking"): "",
}

# Imports that point up, with the reason why each is allowed.
EXCEPTIONS: dict[tuple[str, str], str] = {}

HEAVY = {
    "PIL", "bokeh", "dvc", "filelock", "great_expectations", "kfp", "mlflow", "numpy", "onnxruntime", "pandas",
    "pyarrow", "safetensors", "scipy", "sklearn", "torch",
}  # fmt: skip
