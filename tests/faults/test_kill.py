"""Killed at any moment, a command leaves nothing half-written; the next start ends with the same bytes."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest
from faults.conftest import Baseline
from faults.harness import (
    KILL,
    LIST,
    STAGES,
    STUDY,
    TASK,
    TORN,
    Fault,
    Warm,
    left_over,
    outputs,
    promises_kept,
    share_of,
    words,
)

COMMANDS = [*STAGES, TASK]
LONG = ["finetune", TASK]


def numbers(operations: list[str], kind: str) -> list[int]:
    """Return the numbers, from 1, of the operations of a kind."""
    return [n for n, line in enumerate(operations, 1) if line.split()[0] == kind]


def goes_on(warm: Warm, baseline: Baseline, stage: str, place: Path, told: str) -> str:
    """Look at what is left, run the stage to the end, compare; return what it said."""
    assert not promises_kept(place, stage, baseline.outputs[stage]), told
    again = warm.run(place, *words(stage))
    # A task whose adding was complete when the process died is not added twice.
    there = stage == TASK and again.code == 2 and "has a task 'grey'" in again.output
    assert again.code == 0 or there, f"{told}\n{again.output}"
    assert outputs(place, stage) == baseline.outputs[stage], told
    # What was whole already is not touched again: its rubbish goes with the next run that does something.
    if not there and "up to date" not in again.output:
        assert not left_over(place), told
    return again.output


def check_killed(warm: Warm, baseline: Baseline, stage: str, fault: Fault, place: Path) -> None:
    """Kill a stage at one file operation, and go on."""
    baseline.copy(stage, place)
    killed = warm.run(place, *words(stage), fault=fault)
    told = f"{stage}, {fault}, at {killed.operations[-1:]}: {killed.output}"
    assert killed.code == -signal.SIGKILL, told
    goes_on(warm, baseline, stage, place, told)


@pytest.mark.parametrize("stage", COMMANDS)
def test_a_kill_in_a_write_or_before_the_last_rename_leaves_nothing_half_written(
    armed: Warm, baseline: Baseline, stage: str, tmp_path: Path
) -> None:
    writes = numbers(baseline.operations[stage], "write")
    check_killed(armed, baseline, stage, Fault(TORN, writes[len(writes) // 2]), tmp_path / "torn")
    renames = numbers(baseline.operations[stage], "rename")
    check_killed(armed, baseline, stage, Fault(KILL, renames[-1]), tmp_path / "rename")


@pytest.mark.nightly
@pytest.mark.timeout(0)
@pytest.mark.parametrize("stage", COMMANDS)
def test_a_kill_at_every_file_operation_leaves_nothing_half_written(
    armed: Warm, baseline: Baseline, stage: str, tmp_path: Path
) -> None:
    operations = baseline.operations[stage]
    faults = [Fault(KILL, at) for at in range(1, len(operations) + 1)]
    faults += [Fault(TORN, at) for at in numbers(operations, "write")]
    done = share_of(faults)
    for fault in done:
        place = tmp_path / f"{fault.mode}-{fault.at}"
        check_killed(armed, baseline, stage, fault, place)
        # A thousand of them would fill the disk.
        shutil.rmtree(place)
    print(f"{stage}: killed at {len(done)} of {len(faults)} places")


FIFTY = pytest.param(50, marks=[pytest.mark.nightly, pytest.mark.timeout(0)])


def check_random_kills(warm: Warm, baseline: Baseline, stage: str, kills: int, folder: Path) -> None:
    """Kill a command at random moments, start it again each time, and compare what it ends with."""
    rng = random.Random(kills)
    place, number, wanted, told = baseline.copy(stage, folder / "0"), 0, kills, []
    while kills:
        after_s = rng.uniform(0.05, 1) * baseline.seconds[stage]
        end = warm.run(place, *words(stage), signal_after_s=after_s)
        told.append(f"{after_s:.3f} s: {end.output}")
        if end.code == -signal.SIGKILL:
            kills -= 1
            assert not promises_kept(place, stage, baseline.outputs[stage]), told
        else:
            # It was quicker than the signal: the next kills are for a run of their own.
            assert end.code == 0 or (stage == TASK and "has a task 'grey'" in end.output), told
            assert outputs(place, stage) == baseline.outputs[stage], told
            shutil.rmtree(place)
            number += 1
            place = baseline.copy(stage, folder / str(number))
    goes_on(warm, baseline, stage, place, "\n".join(told))
    print(f"{stage}: killed {wanted} times at random moments, in {number + 1} runs")


@pytest.mark.parametrize("stage", LONG)
@pytest.mark.parametrize("kills", [3, FIFTY])
def test_kills_at_random_moments_change_no_byte(
    warm: Warm, baseline: Baseline, stage: str, kills: int, tmp_path: Path
) -> None:
    check_random_kills(warm, baseline, stage, kills, tmp_path)


@pytest.mark.parametrize("command", [STUDY, LIST])
@pytest.mark.parametrize("kills", [2, FIFTY])
def test_kills_at_random_moments_of_a_study_and_of_a_list_of_tasks_change_no_byte(
    warm: Warm, long_runs: Baseline, command: str, kills: int, tmp_path: Path
) -> None:
    check_random_kills(warm, long_runs, command, kills, tmp_path)


@pytest.mark.parametrize("stage", [*LONG, *(pytest.param(s, marks=pytest.mark.nightly) for s in STAGES)])
def test_sigterm_ends_with_143_within_ten_seconds(
    warm: Warm, baseline: Baseline, stage: str, tmp_path: Path
) -> None:
    place = baseline.copy(stage, tmp_path / "p")
    after_s = 0.6 * baseline.seconds[stage]
    end = warm.run(place, *words(stage), signum=signal.SIGTERM, signal_after_s=after_s)
    told = f"{after_s:.2f} s: {end.output}"
    assert end.code in (143, 0), told
    assert "Traceback" not in end.output
    assert end.seconds < after_s + 10
    said = goes_on(warm, baseline, stage, place, told)
    if stage in LONG and end.code == 143 and "its state is saved" in end.output:
        assert "goes on from" in said
