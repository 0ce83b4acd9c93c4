"""`benchmarks/clock.py`: seconds are those of all starts, or they are not told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from graftgan.errors import Interrupted
from scripts import loaded

clock: Any = loaded("clock")
BURNT_S = 0.03


def burn(seconds: float = BURNT_S) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def save(states: Path) -> None:
    (states / "run" / "images-000000000016").mkdir(parents=True, exist_ok=True)


def test_the_seconds_of_interrupted_starts_add_up(tmp_path: Path) -> None:
    file, states = tmp_path / "a.seconds.json", tmp_path / "states"
    with pytest.raises(Interrupted), clock.clocked(file, states):
        burn()
        save(states)
        raise Interrupted("a signal came", "start again")
    first = clock.spent(file)
    assert BURNT_S <= first < 10 * BURNT_S
    time.sleep(0.05)
    with clock.clocked(file, states):
        burn()
    assert first + BURNT_S <= clock.spent(file) < first + 10 * BURNT_S


def test_after_a_kill_the_seconds_are_not_known_as_long_as_its_state_is_used(tmp_path: Path) -> None:
    file, states = tmp_path / "a.seconds.json", tmp_path / "states"
    # What a process that was killed leaves: nobody ended the block.
    killed = clock.clocked(file, states)
    killed.__enter__()
    save(states)
    assert clock.spent(file) is None
    with clock.clocked(file, states):
        burn()
    assert clock.spent(file) is None


def test_a_state_that_nobody_timed_leaves_the_seconds_unknown(tmp_path: Path) -> None:
    save(tmp_path / "states")
    with clock.clocked(tmp_path / "a.seconds.json", tmp_path / "states"):
        burn()
    assert clock.spent(tmp_path / "a.seconds.json") is None


def test_work_that_begins_again_is_timed_again(tmp_path: Path) -> None:
    file, states = tmp_path / "a.seconds.json", tmp_path / "states"
    killed = clock.clocked(file, states)
    killed.__enter__()
    for _ in range(2):
        with clock.clocked(file, states):
            burn()
        assert BURNT_S <= clock.spent(file) < 2 * BURNT_S


def test_what_was_never_timed_is_not_known(tmp_path: Path) -> None:
    assert clock.spent(tmp_path / "none.json") is None
