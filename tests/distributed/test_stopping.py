"""Signals, failures and going on in the training loop, and the units of a study, with two gloo processes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.pair import alone, free_port
from safetensors.torch import load_file

from graftgan.training.state import StateStore

INTERRUPTED = 143
CLOSE = 1e-3
"""Largest distance of the weights, as a share of their length, after an interruption and another count."""


def start(folder: Path, count: int, *trouble: str) -> list[subprocess.Popen[str]]:
    folder.mkdir(exist_ok=True)
    port = free_port()
    arguments = ["-m", "distributed.looping", str(folder), *trouble]
    return [alone(arguments, rank, count, port) for rank in range(count)]


def finish(workers: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    ends = [worker.communicate(timeout=120) for worker in workers]
    return [(worker.returncode, stderr) for worker, (_, stderr) in zip(workers, ends, strict=True)]


def result(folder: Path) -> tuple[dict[str, torch.Tensor], Any]:
    return load_file(folder / "last.safetensors"), json.loads((folder / "curves.json").read_text())


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    apart = sum(float((a[name].double() - b[name].double()).square().sum()) for name in a)
    return (apart / sum(float(tensor.double().square().sum()) for tensor in a.values())) ** 0.5


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two workers without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    assert [code for code, _ in finish(start(folder, 2))] == [0, 0]
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str]]]:
    """A run whose second worker alone got SIGTERM after a few steps."""
    folder = tmp_path_factory.mktemp("stopped")
    workers = start(folder, 2)
    assert workers[1].stdout is not None
    for _ in range(7):
        assert workers[1].stdout.readline() == "step\n"
    workers[1].send_signal(signal.SIGTERM)
    return folder, finish(workers)


def test_a_signal_to_one_worker_stops_both_at_the_same_step(stopped: Any) -> None:
    folder, ends = stopped
    assert [code for code, _ in ends] == [INTERRUPTED, INTERRUPTED]
    places = {line for _, text in ends for line in text.splitlines() if "run stopped at" in line}
    assert len(places) == 1
    state = StateStore(folder / "states" / "interim").latest() or StateStore(folder / "states").latest()
    assert state is not None
    assert f"stopped at {state['trainer']['images_seen']} images" in places.pop()
    assert not (folder / "last.safetensors").exists()


def test_going_on_with_as_many_workers_is_exact(whole: Path, stopped: Any, tmp_path: Path) -> None:
    shutil.copytree(stopped[0], tmp_path / "again")
    assert [code for code, _ in finish(start(tmp_path / "again", 2))] == [0, 0]
    (weights, curves), (expected, all_curves) = result(tmp_path / "again"), result(whole)
    assert curves == all_curves
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_another_number_of_workers_goes_on_from_the_same_state(
    whole: Path, stopped: Any, tmp_path: Path
) -> None:
    shutil.copytree(stopped[0], tmp_path / "one")
    assert [code for code, _ in finish(start(tmp_path / "one", 1))] == [0]
    weights, (rows, frames) = result(tmp_path / "one")
    expected, (all_rows, all_frames) = result(whole)
    assert frames == all_frames
    assert [row["images_seen"] for row in rows] == [row["images_seen"] for row in all_rows]
    assert 0 < distance(weights, expected) <= CLOSE


def test_a_failure_of_one_worker_ends_all_with_its_cause(tmp_path: Path) -> None:
    (first, told), (second, _) = finish(start(tmp_path, 2, "fails"))
    assert (first, second) == (3, 3)
    assert "worker 1: images.npy is cut off" in told
    assert "pack it again" in told


def test_a_worker_that_dies_without_a_word_ends_the_others(tmp_path: Path) -> None:
    (first, told), (second, _) = finish(start(tmp_path, 2, "dies"))
    assert (first, second) == (75, 9)
    assert "another worker ended without a word" in told


def test_the_units_of_a_study_are_dealt_out(tmp_path: Path) -> None:
    (tmp_path / "2.json").write_text('{"name": "2", "worker": 7, "size": 7}')
    port = free_port()
    ends = finish([alone(["-m", "distributed.studying", str(tmp_path)], rank, 2, port) for rank in range(2)])
    assert [code for code, _ in ends] == [0, 0]
    told = [json.loads((tmp_path / f"told-{rank}.txt").read_text()) for rank in range(2)]
    assert told[0] == told[1]
    assert [(record["name"], record["worker"]) for record in told[0]] == [
        ("0", 0), ("1", 1), ("2", 7), ("3", 0), ("4", 1),
    ]  # fmt: skip
    assert {record["size"] for record in told[0]} == {1, 7}
