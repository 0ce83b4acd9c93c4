"""File operations that fail: the disk is full, it returns errors, or a saved state is damaged."""

from __future__ import annotations

import csv
import errno
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.conftest import Baseline, runs_of
from faults.harness import (
    FAIL,
    FAIL_ON,
    KILL,
    LIST,
    RICH,
    STAGES,
    STUDY,
    TASK,
    TORN,
    Fault,
    Warm,
    images_of,
    outputs,
    place_of,
    save_points,
    states,
    training_points,
    try_all,
    words,
)
from faults.test_kill import COMMANDS, LONG, goes_on

STATE = "state.safetensors"
QUICK = ["finetune", pytest.param(RICH, marks=pytest.mark.nightly), TASK]
STOPPED = {errno.ENOSPC: (75,), errno.EIO: (1, 75)}


def check_failing(warm: Warm, baseline: Baseline, stage: str, fault: Fault, place: Path) -> int:
    """Let operations fail, expect a stage to end in order, and go on; return the exit code."""
    baseline.copy(stage, place)
    end = warm.run(place, *words(stage), fault=fault)
    told = f"{stage}, {fault}, at {end.operations[fault.at - 1 : fault.at]}: {end.output}"
    # What only saves time, such as a cache, may fail without harm.
    assert end.code in (0, *STOPPED[fault.error]), told
    assert "Traceback" not in end.output, told
    if end.code == 0:
        assert outputs(place, stage) == baseline.outputs[stage], told
    else:
        assert "error: " in end.output, told
    goes_on(warm, baseline, stage, place, told)
    return end.code


@pytest.mark.parametrize("stage", COMMANDS)
def test_a_disk_that_fills_up_means_try_again(
    armed: Warm, baseline: Baseline, stage: str, tmp_path: Path
) -> None:
    at = len(baseline.operations[stage]) // 2
    code = check_failing(armed, baseline, stage, Fault(FAIL_ON, at, errno.ENOSPC), tmp_path / "p")
    assert code == 75


@pytest.mark.parametrize("stage", QUICK)
def test_a_disk_with_errors_is_told_of(armed: Warm, baseline: Baseline, stage: str, tmp_path: Path) -> None:
    at = len(baseline.operations[stage]) // 2
    assert check_failing(armed, baseline, stage, Fault(FAIL_ON, at, errno.EIO), tmp_path / "p") == 1


@pytest.mark.nightly
@pytest.mark.timeout(0)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("mode", [FAIL, FAIL_ON])
@pytest.mark.parametrize("stage", COMMANDS)
def test_every_file_operation_may_fail(
    armed: Warm, baseline: Baseline, stage: str, mode: int, error: int, tmp_path: Path
) -> None:
    faults = [Fault(mode, at, error) for at in range(1, len(baseline.operations[stage]) + 1)]
    done = try_all(faults, tmp_path, lambda fault, place: check_failing(armed, baseline, stage, fault, place))
    print(f"{stage}: {errno.errorcode[error]} at {done} operations")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 4
    file.write_bytes(bytes(raw))


def empty(file: Path) -> None:
    file.write_bytes(b"")


def saved_before(warm: Warm, baseline: Baseline, stage: str, place: Path, point: int) -> Path:
    """Kill a run behind a save point, and return the project."""
    baseline.copy(stage, place)
    assert warm.run(place, *words(stage), fault=Fault(TORN, point)).code == -signal.SIGKILL
    return place


def check_damaged(
    warm: Warm, baseline: Baseline, stage: str, place: Path, damage: Callable[[Path], None]
) -> None:
    """Damage the newest state and go on: the one before it is used, and both are named."""
    *others, state = states(place)
    damage(state / STATE)
    said = goes_on(warm, baseline, stage, place, f"{state} damaged by {damage.__name__}")
    assert f"{state.name} is damaged" in said
    if others:
        assert f"goes on from {images_of(others[-1])} images" in said
    else:
        assert "starts again from the beginning" in said


@pytest.mark.parametrize("stage", [*LONG, STUDY, LIST])
def test_a_damaged_state_is_named_and_the_one_before_it_used(
    armed: Warm, request: pytest.FixtureRequest, stage: str, tmp_path: Path
) -> None:
    found = runs_of(request, stage)
    points = training_points(found.operations[stage])
    assert len(points) >= 4
    place = saved_before(armed, found, stage, tmp_path / "p", points[2])
    check_damaged(armed, found, stage, place, flip)


@pytest.mark.parametrize("stage", QUICK)
def test_where_no_state_is_whole_the_start_from_nothing_is_told(
    armed: Warm, baseline: Baseline, stage: str, tmp_path: Path
) -> None:
    point = save_points(baseline.operations[stage])[0]
    place = saved_before(armed, baseline, stage, tmp_path / "p", point)
    check_damaged(armed, baseline, stage, place, cut)


@pytest.mark.nightly
@pytest.mark.timeout(0)
@pytest.mark.parametrize("damage", [flip, cut, empty])
@pytest.mark.parametrize("stage", [*LONG, STUDY, LIST])
def test_every_save_point_may_be_damaged(
    armed: Warm,
    request: pytest.FixtureRequest,
    stage: str,
    damage: Callable[[Path], None],
    tmp_path: Path,
) -> None:
    found = runs_of(request, stage)
    for point in save_points(found.operations[stage]):
        place = saved_before(armed, found, stage, tmp_path / str(point), point)
        check_damaged(armed, found, stage, place, damage)
        shutil.rmtree(place)


def check_save_point(warm: Warm, baseline: Baseline, stage: str, fault: Fault, place: Path) -> None:
    """Let a save die or fail, and go on: from the state before it, or from itself if it was whole already."""
    operations = baseline.operations[stage]
    points = save_points(operations)
    index = points.index(fault.at)
    baseline.copy(stage, place)
    end = warm.run(place, *words(stage), fault=fault)
    told = f"{stage}, {fault}, at {operations[fault.at - 1]}: {end.output}"
    assert end.code in STOPPED.get(fault.error, (-signal.SIGKILL,)), told
    assert "Traceback" not in end.output, told
    said = goes_on(warm, baseline, stage, place, told)
    newest = index if fault.mode == TORN else index - 1
    images = images_of(operations[points[newest] - 1])
    # A run begins with a state of no images: a save of that is the first one of its run. So is that of the
    # first command's inversion.
    if newest < index and (newest < 0 or not images_of(operations[fault.at - 1])):
        assert "goes on from" not in said, f"{told}\n{said}"
    else:
        assert f"goes on from {images} images" in said, f"{told}\n{said}"


@pytest.mark.parametrize(("mode", "error"), [(KILL, 0), (FAIL_ON, errno.ENOSPC), (FAIL, errno.EIO)])
@pytest.mark.parametrize("stage", QUICK)
def test_a_save_that_dies_or_fails_leaves_the_state_before_it(
    armed: Warm, baseline: Baseline, stage: str, mode: int, error: int, tmp_path: Path
) -> None:
    point = save_points(baseline.operations[stage])[2]
    check_save_point(armed, baseline, stage, Fault(mode, point, error), tmp_path / "p")


EVERY = [
    (KILL, 0), (TORN, 0), (FAIL, errno.ENOSPC), (FAIL_ON, errno.ENOSPC), (FAIL, errno.EIO),
    (FAIL_ON, errno.EIO),
]  # fmt: skip


@pytest.mark.nightly
@pytest.mark.timeout(0)
@pytest.mark.parametrize(("mode", "error"), EVERY)
@pytest.mark.parametrize("stage", [*LONG, STUDY, LIST])
def test_every_save_point_may_die_or_fail(
    armed: Warm, request: pytest.FixtureRequest, stage: str, mode: int, error: int, tmp_path: Path
) -> None:
    found = runs_of(request, stage)
    points = save_points(found.operations[stage])
    for point in points:
        check_save_point(armed, found, stage, Fault(mode, point, error), tmp_path / "p")
        shutil.rmtree(tmp_path / "p")
    print(f"{stage}: {mode}, {error} at {len(points)} save points")


def test_studies_and_lists_save_often_enough_to_be_tested(armed: Warm, long_runs: Baseline) -> None:
    for command in (STUDY, LIST):
        saved = [
            images_of(long_runs.operations[command][n - 1])
            for n in save_points(long_runs.operations[command])
        ]
        assert saved.count(0) >= 2, "two runs"
        assert len(saved) >= 8, saved


def test_every_long_command_saves_often_enough_to_be_tested(armed: Warm, baseline: Baseline) -> None:
    assert [stage for stage in (*STAGES, RICH, TASK) if save_points(baseline.operations[stage])] == LONG


def test_a_state_of_other_parameters_is_not_used_and_the_difference_is_told(
    armed: Warm, baseline: Baseline, tmp_path: Path
) -> None:
    point = save_points(baseline.operations["finetune"])[2]
    place = saved_before(armed, baseline, "finetune", tmp_path / "p", point)
    must = armed.run(place, "finetune", "--set", "finetune.seed=5", "--resume", "must")
    assert must.code == 4
    assert "the state that an earlier start saved is of another run:" in must.output
    assert "finetune.seed: 0 -> 5" in must.output
    later = save_points(baseline.operations["finetune"])[3]
    changed = armed.run(place, "finetune", "--set", "finetune.seed=5", fault=Fault(KILL, later))
    assert "finetune starts from the beginning" in changed.output
    assert "finetune.seed: 0 -> 5" in changed.output
    said = goes_on(armed, baseline, "finetune", place, changed.output, other_run=True)
    assert "goes on from" in said and "starts from the beginning" not in said


def test_a_budget_of_minutes_ends_in_order(warm: Warm, baseline: Baseline, tmp_path: Path) -> None:
    place = baseline.copy("finetune", tmp_path / "p")
    end = warm.run(place, "finetune", "--set", "finetune.budget={minutes: 0.02}")
    assert end.code == 0, end.output
    assert set(outputs(place, "finetune")) == set(baseline.outputs["finetune"])
    assert end.seconds < 60


def test_the_rich_recipe_has_everything_that_a_state_can_hold(baseline: Baseline) -> None:
    folder = place_of(baseline.before[RICH].parent / "richly", RICH) / "models" / "chosen"
    rows = list(csv.DictReader((folder / "curves.csv").open()))
    for name in ("r1", "path_length", "penalty_bsd", "ada_p", "prior_lambda"):
        values = {float(row[name]) for row in rows}
        assert len(values) > 1, (name, values)
