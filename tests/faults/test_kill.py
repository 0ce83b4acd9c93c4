"""Killed at a file operation, every stage leaves nothing half-written, and the next start completes it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from faults.conftest import Baseline
from faults.harness import (
    KILL,
    STAGES,
    TASK,
    TORN,
    Fault,
    Warm,
    left_over,
    outputs,
    promises_kept,
    spread,
    words,
)


def check_killed(warm: Warm, baseline: Baseline, stage: str, fault: Fault, place: Path) -> None:
    """Kill a stage at one file operation, look at what is left, and run it again."""
    baseline.copy(stage, place)
    killed = warm.run(place, *words(stage), fault=fault)
    told = f"{stage}, {fault}, at {killed.operations[-1:]}: {killed.output}"
    assert killed.code == -signal.SIGKILL, told
    assert not promises_kept(place, stage, baseline.outputs[stage]), told
    again = warm.run(place, *words(stage))
    assert again.code == 0, f"{told}\n{again.output}"
    assert outputs(place, stage) == baseline.outputs[stage], told
    assert not left_over(place), told


@pytest.mark.parametrize("stage", [*STAGES, TASK])
def test_a_kill_at_a_file_operation_leaves_nothing_half_written(
    armed: Warm, baseline: Baseline, stage: str, tmp_path: Path
) -> None:
    for mode in (KILL, TORN):
        for at in spread(len(baseline.operations[stage]), 4)[1:-1]:
            check_killed(armed, baseline, stage, Fault(mode, at), tmp_path / f"{mode}-{at}")
