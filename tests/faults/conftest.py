"""One warm process for all tests here, and a tiny project in which every stage was run undisturbed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults.harness import (
    FINETUNE_RICHLY,
    LIST,
    RICH,
    STAGES,
    STUDY,
    TASK,
    Fault,
    Warm,
    compile_shim,
    outputs,
    words,
    write_project,
)


@dataclass(frozen=True)
class Baseline:
    """The project before every stage, and what each stage makes of it.

    Attributes:
        before: Stage -> a copy of the project in which all earlier stages have run; only to be copied.
        outputs: Stage -> digests of its outputs.
        operations: Stage -> its file operations.
        seconds: Stage -> how long it took.
    """

    before: dict[str, Path]
    outputs: dict[str, dict[str, str]]
    operations: dict[str, list[str]]
    seconds: dict[str, float]

    def copy(self, stage: str, to: Path) -> Path:
        """Copy the project as it was before a stage."""
        return Path(shutil.copytree(self.before[stage], to))


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """The process that forks."""
    folder = tmp_path_factory.mktemp("warm")
    process = Warm(folder, compile_shim(folder))
    yield process
    process.close()


@pytest.fixture
def armed(warm: Warm) -> Warm:
    """The process that forks, if file operations can be tampered with here."""
    if warm.shim is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs Linux and a C compiler: install gcc and libc6-dev")
        pytest.skip("needs Linux and a C compiler")
    return warm


@pytest.fixture(scope="session")
def baseline(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    """Every stage, run undisturbed and watched."""
    root = tmp_path_factory.mktemp("baseline")
    write_project(root / "prepare")
    found = Baseline({}, {}, {}, {})
    shutil.copytree(root / "prepare", root / TASK)
    followers = dict(zip(STAGES, [*STAGES[1:], "end"], strict=True)) | {RICH: "richly", TASK: "bank"}
    for stage in (*STAGES, RICH, TASK):
        if stage == RICH:
            shutil.copytree(root / "finetune", root / RICH)
            assert warm.run(root / RICH, "rank", *FINETUNE_RICHLY[1:]).code == 0
        found.before[stage] = root / stage
        after = Path(shutil.copytree(root / stage, root / followers[stage]))
        end = warm.run(after, *words(stage), fault=Fault() if warm.shim else None)
        assert end.code == 0, end.output
        found.outputs[stage] = outputs(after, stage)
        found.operations[stage] = end.operations
        found.seconds[stage] = end.seconds
    return found


@pytest.fixture(scope="session")
def long_runs(warm: Warm, baseline: Baseline, tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    """A study and a list of tasks, run undisturbed."""
    root, first = tmp_path_factory.mktemp("long"), baseline.before[STAGES[0]]
    found = Baseline({STUDY: first, LIST: first}, {}, {}, {})
    for command in (STUDY, LIST):
        after = found.copy(command, root / command)
        end = warm.run(after, *words(command), fault=Fault() if warm.shim else None)
        assert end.code == 0, end.output
        found.operations[command] = end.operations
        assert not [path for path in (after / command / "states").rglob("*") if path.is_file()]
        found.outputs[command] = outputs(after, command)
        found.seconds[command] = end.seconds
    return found


def runs_of(request: pytest.FixtureRequest, stage: str) -> Baseline:
    """Return the undisturbed run of a command: few tests need studies and lists, which take longer."""
    found: Baseline = request.getfixturevalue("long_runs" if stage in (STUDY, LIST) else "baseline")
    return found
