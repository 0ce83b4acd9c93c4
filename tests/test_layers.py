"""Imports point down: the parts of the package in layers, held against every import statement in them."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.metadata
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import graftgan

ROOT = Path(graftgan.__file__).parent

# From the ground up; a part may import parts of lower lines only. A part is a module or a package directly
# below `graftgan`, and `graftgan` itself, which holds the version. The table of stages is a part of its own:
# it is data, read by whoever runs stages and needs none of them.
LAYERS = tuple(
    line.split()
    for line in (
        "connections graftgan guard machine redaction section stages.specs world yamltext",
        "console errors progress",
        "contract device",
        "context gans method_config metrics",
        "config digests journal local_store places",
        "remote_client",
        "remote",
        "checkpoints kfp_retry",
        "follower lifelong_config locks packages parallel params unfinished weights",
        "data identity lifelong_params registry_answers template tracking_check",
        "bank training",
        "reporting",
        "classes gallery sampling serving_limits",
        "serving serving_bank tracking",
        "registry",
        "sync transfer versions",
        "server stages",
        "doctor engine kfp_io tracker",
        "kfp_finish preflight workers",
        "dryrun runner",
        "kfp_task study",
        "commands",
        "cli",
        "__main__",
    )
)

# Imports that do not point down, each with its reason.
EXCEPTIONS = {
    (
        "follower",
        "sync",
    ): "a follower is a process that runs sync; sync needs its locks and patience",
    (
        "remote_client",
        "remote",
    ): "a client is opened only where an address is met, and speaks of the addresses that remote reads",
}

# Who may import what from outside; nobody else may.
OUTSIDE = {
    "mlflow": {"tracking", "serving", "serving_bank", "serving_limits", "server"},
    "click": {"cli", "commands"},
    "kfp": set(),
    "dvc": set(),
}

HEAVY = {
    "PIL", "bokeh", "dvc", "great_expectations", "kfp", "mlflow", "numpy", "onnxruntime", "pandas", "pyarrow",
    "safetensors", "scipy", "torch",
}  # fmt: skip
LIGHT = ["cli", "config", "context", "contract", "errors", "journal", "kfp_io", "params", "stages.specs"]


def parts() -> set[str]:
    """Return the modules and packages directly below `graftgan`."""
    folders = {p.name for p in ROOT.iterdir() if (p / "__init__.py").exists()}
    return folders | {p.stem for p in ROOT.glob("*.py") if p.name != "__init__.py"}


def part_of(module: str) -> str:
    """Return the part that a dotted name below `graftgan` belongs to."""
    names = module.split(".")[1:]
    if names[:2] == ["stages", "specs"]:
        return "stages.specs"
    return names[0] if names and names[0] in parts() else "graftgan"


def dotted(file: Path) -> str:
    """Return the name of the module in a file."""
    names = [name for name in file.relative_to(ROOT.parent).with_suffix("").parts if name != "__init__"]
    return ".".join(names)


def imported(file: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports anywhere in it, from modules and of modules."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def edges() -> set[tuple[str, str, str]]:
    """Return (part, part that it imports, file), within the package."""
    found = set()
    for file in ROOT.rglob("*.py"):
        mine = part_of(dotted(file))
        for name in imported(file):
            if name.split(".")[0] == "graftgan" and part_of(name) != mine:
                found.add((mine, part_of(name), str(file.relative_to(ROOT))))
    return found


def line_of(part: str) -> int:
    return next(number for number, line in enumerate(LAYERS) if part in line)


def test_every_part_has_its_place() -> None:
    listed = [part for line in LAYERS for part in line]
    assert sorted(listed) == sorted(parts() | {"graftgan", "stages.specs"})


def test_imports_point_down() -> None:
    wrong = {
        f"{file} imports {lower}"
        for part, lower, file in edges()
        if line_of(lower) >= line_of(part) and (part, lower) not in EXCEPTIONS
    }
    assert not wrong


def test_every_exception_is_needed() -> None:
    used = {(part, lower) for part, lower, _ in edges()}
    assert used >= set(EXCEPTIONS)


def test_the_test_sees_imports_of_every_kind(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    file.write_text(
        "import graftgan.cli\nfrom graftgan import bank\ndef f():\n    from graftgan.data.table import x\n"
    )
    assert {part_of(name) for name in imported(file)} == {"cli", "bank", "data"}
    assert part_of("graftgan.stages.specs.STAGES") == "stages.specs"
    assert part_of("graftgan.stages.rank.run") == "stages"
    assert part_of("graftgan.__version__") == "graftgan"


@pytest.mark.parametrize("package", sorted(OUTSIDE))
def test_only_the_parts_for_it_import_a_tool(package: str) -> None:
    found = {
        part_of(dotted(file))
        for file in ROOT.rglob("*.py")
        for name in imported(file)
        if name.split(".")[0] == package
    }
    assert found == OUTSIDE[package]


@pytest.mark.parametrize("folder", ["components", "pipelines"])
def test_graphs_and_components_need_no_networks(folder: str) -> None:
    files = list((ROOT.parents[1] / folder).rglob("*.py"))
    assert files
    heavy = HEAVY - {"kfp"}
    assert not {(file.name, n) for file in files for n in imported(file) if n.split(".")[0] in heavy}


def test_what_must_be_light_reaches_nothing_heavy() -> None:
    commands = [f"commands.{p.stem}" for p in (ROOT / "commands").glob("*.py") if p.stem != "__init__"]
    for module in [*LIGHT, *commands]:
        code = (
            f"import sys, graftgan.{module}; "
            f"print(*sorted({{m.split('.')[0] for m in sys.modules}} & {HEAVY!r}))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert not done.stdout.strip(), f"graftgan.{module} reaches {done.stdout}"


def test_nothing_that_is_installed_asks_for_torchvision() -> None:
    """It comes for one build of torch only, so CPU and GPU users could not share one list of versions."""
    pinned = {
        re.split("[=<>! ;@]", line)[0]
        for line in (ROOT.parents[1] / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    }
    assert "torch" in pinned and "torchvision" not in pinned
    project = tomllib.loads((ROOT.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    for name in sorted(pinned):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            asked += importlib.metadata.requires(name) or []
    assert len(asked) > 200
    assert not [line for line in asked if line.lower().startswith("torchvision") and "extra ==" not in line]
