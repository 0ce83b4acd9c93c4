"""Killed at any moment, a command leaves nothing half-written; the next start ends with the same bytes."""

from __future__ import annotations

import random
import re
import shutil
import signal
from pathlib import Path

import pytest
from faults.conftest import Baseline, runs_of
from faults.harness import (
    KILL,
    LIST,
    NIGHTS,
    RICH,
    STAGES,
    STUDY,
    TASK,
    TERM,
    TORN,
    Fault,
    Warm,
    images_of,
    left_over,
    outputs,
    promises_kept,
    states,
    training_points,
    try_all,
    words,
)

COMMANDS = [*STAGES, TASK]
LONG = ["finetune", RICH, TASK]
# Commands whose operations are dealt out to so many times more nights.
SLOWER = {STUDY: 2, LIST: 4}


def numbers(operations: list[str], kind: str) -> list[int]:
    """Return the numbers, from 1, of the operations of a kind."""
    return [n for n, line in enumerate(operations, 1) if line.split()[0] == kind]


def goes_on(
    warm: Warm, baseline: Baseline, stage: str, place: Path, told: str, *, other_run: bool = False
) -> str:
    """Look at what is left, run the stage to the end, compare; return what it said.

    States and rubbish go, but for those of another run that was begun in the same place.
    """
    assert not promises_kept(place, stage, baseline.outputs[stage]), told
    again = warm.run(place, *words(stage))
    # A task whose adding was complete when the process died is not added twice.
    there = stage == TASK and again.code == 2 and "has a task 'grey'" in again.output
    assert again.code == 0 or there, f"{told}\n{again.output}"
    assert outputs(place, stage) == baseline.outputs[stage], told
    assert other_run == bool(states(place)), told
    # What was whole already is not touched again: its rubbish goes with the next run that does something.
    if not there and not other_run and "up to date" not in again.output:
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
    if stage in LONG:
        # Its state is then of no more use, and still there.
        check_killed(armed, baseline, stage, Fault(TORN, renames[-1]), tmp_path / "behind")


@pytest.mark.nightly
@pytest.mark.timeout(0)
@pytest.mark.parametrize("stage", [*COMMANDS, RICH, STUDY, LIST])
def test_a_kill_at_every_file_operation_leaves_nothing_half_written(
    armed: Warm, request: pytest.FixtureRequest, stage: str, tmp_path: Path
) -> None:
    found = runs_of(request, stage)
    operations = found.operations[stage]
    faults = [Fault(KILL, at) for at in range(1, len(operations) + 1)]
    faults += [Fault(TORN, at) for at in numbers(operations, "write")]
    nights = NIGHTS * SLOWER.get(stage, 1)
    done = try_all(
        faults, tmp_path, lambda fault, place: check_killed(armed, found, stage, fault, place), nights
    )
    print(f"{stage}: killed at {done} places")


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


def check_sigterm(warm: Warm, baseline: Baseline, stage: str, at: int, place: Path) -> str:
    """Send SIGTERM in front of one file operation, and go on; return what was said then."""
    baseline.copy(stage, place)
    end = warm.run(place, *words(stage), fault=Fault(TERM, at))
    told = f"SIGTERM at {end.operations[at - 1 : at]}: {end.output}"
    assert end.code == 143, told
    assert "Traceback" not in end.output, told
    assert end.stopping_s is not None and end.stopping_s < 10, told
    return goes_on(warm, baseline, stage, place, told)


def check_sigterm_while_training(warm: Warm, baseline: Baseline, stage: str, place: Path) -> None:
    """Send it while the first state behind the start is put in place: what was trained is not lost."""
    points = training_points(baseline.operations[stage])
    said = check_sigterm(warm, baseline, stage, points[1], place)
    again = [int(images) for images in re.findall(r"goes on from (\d+) images", said)]
    assert again and again[0] >= images_of(baseline.operations[stage][points[1] - 1]) > 0, said


@pytest.mark.parametrize("stage", LONG)
def test_sigterm_saves_within_ten_seconds_ends_with_143_and_is_gone_on_from(
    armed: Warm, baseline: Baseline, stage: str, tmp_path: Path
) -> None:
    check_sigterm_while_training(armed, baseline, stage, tmp_path / "p")


@pytest.mark.parametrize("command", [STUDY, LIST])
def test_sigterm_in_a_study_and_in_a_list_of_tasks_loses_nothing(
    armed: Warm, long_runs: Baseline, command: str, tmp_path: Path
) -> None:
    check_sigterm_while_training(armed, long_runs, command, tmp_path / "p")


@pytest.mark.nightly
@pytest.mark.parametrize("stage", COMMANDS)
def test_sigterm_half_way_through_any_stage_ends_with_143(
    armed: Warm, baseline: Baseline, stage: str, tmp_path: Path
) -> None:
    check_sigterm(armed, baseline, stage, len(baseline.operations[stage]) // 2, tmp_path / "p")
