"""Profiles: times add up, the trace has the steps with the lazy terms, results keep their bits."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from graftgan.training import profile as module
from graftgan.training.profile import (
    BESIDE,
    DATA,
    EVALUATION,
    G_BACKWARD,
    IN_A_STEP,
    PATH_LENGTH,
    R1,
    REST,
    Profile,
    page,
    phase,
    profiling,
    step,
)
from training.nets import EVERYTHING, equal, everything, make

CPU = torch.device("cpu")


def make_profile(folder: Path, interval: int = 3, steps: int = 100) -> Profile:
    return Profile("chosen", folder, CPU, interval, steps, {"precision": "fp32"})


def test_time_belongs_to_the_innermost_phase(tmp_path: Path) -> None:
    watch = make_profile(tmp_path)
    started = time.perf_counter()
    with profiling(watch), phase("outer"):
        time.sleep(0.02)
        with phase("inner"):
            time.sleep(0.05)
        time.sleep(0.02)
    whole = time.perf_counter() - started
    assert watch.seconds["outer"] >= 0.04
    assert watch.seconds["inner"] >= 0.05
    assert sum(watch.seconds.values()) <= whole


def test_without_a_profile_nothing_is_counted(tmp_path: Path) -> None:
    watch = make_profile(tmp_path)
    with profiling(watch):
        pass
    with phase(DATA), step(0):
        pass
    assert watch.seconds == {}
    assert watch.steps_done == 0


def test_a_failure_leaves_the_profile_and_no_watcher(tmp_path: Path) -> None:
    watch = make_profile(tmp_path, interval=1)
    with pytest.raises(ZeroDivisionError), profiling(watch):
        for number in range(2, 9):
            with step(number), phase("x"):
                1 / (4 - number)
    assert module._Now.profile is None
    assert json.loads((tmp_path / "chosen.json").read_text())["steps"] == 2
    assert watch.trace.is_file(), "the failure came in the midst of the trace"


@pytest.mark.parametrize(
    ("first", "interval", "steps", "expected"),
    [
        (0, 16, 100, [15, 16, 17]),
        (0, 1, 100, [1, 2, 3]),
        (5, 4, 100, [7, 8, 9]),
        (7, 4, 100, [11, 12, 13]),
        (0, 16, 17, [0, 1, 2]),
        (0, 16, 18, [15, 16, 17]),
        (30, 16, 34, [31, 32, 33]),
        (31, 16, 34, [31, 32, 33]),
    ],
)
def test_the_traced_steps_are_those_around_the_lazy_terms(
    tmp_path: Path, first: int, interval: int, steps: int, expected: list[int]
) -> None:
    assert list(make_profile(tmp_path, interval, steps)._chosen(first)) == expected


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """A profile of eight steps with everything on."""
    watch = make_profile(tmp_path_factory.mktemp("profile"), interval=3, steps=8)
    trainer = make(**{**EVERYTHING, "r1_interval": 3})
    with profiling(watch):
        for number in range(8):
            with step(number):
                trainer.step()
        with phase(EVALUATION):
            trainer.finite()
    return watch


def test_every_phase_of_a_step_is_there_and_shares_add_up(watched: Profile) -> None:
    record = json.loads((watched.folder / "chosen.json").read_text())
    assert [row["phase"] for row in record["phases"]] == [*IN_A_STEP, BESIDE[0]]
    assert sum(row["share_of_step"] for row in record["phases"][:-1]) == pytest.approx(1)
    assert sum(row["share_of_run"] for row in record["phases"]) == pytest.approx(1)
    assert record["steps"] == 8
    assert record["data_share"] == record["phases"][0]["share_of_step"] == watched.data_share
    assert 0 < watched.data_share < 0.5
    assert (record["device"], record["precision"], record["threads"]) == ("cpu", "fp32", 1)


@pytest.mark.parametrize(
    ("device", "reads", "said"),
    [("cpu", 4.0, "read a value of a tensor 4.0"), ("cuda:0", 1.5, "waited for the GPU 1.5")],
)
def test_what_makes_the_host_wait_is_counted_once(
    tmp_path: Path, device: str, reads: float, said: str
) -> None:
    """Reading a value of a GPU is both an operator and a wait; a value of the CPU is an operator alone."""
    watch = Profile("chosen", tmp_path, torch.device(device), 1, 10)
    watch._operators = [("aten::_local_scalar_dense", 8, 0.1), ("cudaStreamSynchronize", 3, 0.1)]
    watch._traced = 2
    record = watch.record()
    assert record["host_reads_a_step"] == reads
    assert f"{said} times a step" in page(record)


def test_the_trace_is_chromes_and_shows_the_phases_of_three_steps(watched: Profile) -> None:
    events = json.loads(watched.trace.read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert names.count(REST) == 3
    assert names.count(G_BACKWARD) == 3
    # The penalty and its backward pass, in one of the three steps.
    assert names.count(R1) == names.count(PATH_LENGTH) == 2
    assert any(event["name"].startswith("aten::convolution") for event in events)


def test_the_page_tells_phases_and_operators(watched: Profile) -> None:
    record = watched.record()
    text = page(record)
    assert text == (watched.folder / "chosen.md").read_text()
    for row in record["phases"]:
        assert f"| {row['phase']} | {row['seconds']:.2f} |" in text
    assert record["operators"][0]["own_s"] >= record["operators"][-1]["own_s"] > 0
    assert f"| {record['operators'][0]['operator']} |" in text
    assert record["traced_steps"] == 3


def test_a_profile_changes_no_bit(tmp_path: Path) -> None:
    plain, watched = make(**EVERYTHING), make(**EVERYTHING)
    for _ in range(6):
        plain.step()
    with profiling(make_profile(tmp_path, interval=3, steps=6)):
        # Both draw their noise from torch's global generator.
        watched.seed_noise()
        for number in range(6):
            with step(number):
                watched.step()
    assert watched.images_seen == plain.images_seen
    assert equal(everything(plain), everything(watched))
