"""Several processes: workers of a killed parent, and two commands on the same outputs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.conftest import Baseline
from faults.harness import TASK, TESTS, Warm, environment, outputs, words


def within(seconds: float, true: Callable[[], bool]) -> bool:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


def alive(pid: int) -> bool:
    """Tell whether a process is at work; one that nobody has buried is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])}
    parent = subprocess.Popen([sys.executable, "-m", "faults.orphan", str(tmp_path)], env=env)
    files = [tmp_path / "0", tmp_path / "1"]
    assert within(120, lambda: all(file.exists() for file in files))
    pids = [int(file.read_text()) for file in files]
    assert all(map(alive, pids))
    parent.kill()
    parent.wait()
    assert within(10, lambda: not any(map(alive, pids)))


HOLD = """
import sys
from graftgan.locks import alone
with alone(sys.argv[1], "finetune"):
    print("held", flush=True)
    sys.stdin.read()
"""

HOLD_BANK = """
import sys
from pathlib import Path
from graftgan.bank.store import Bank
with Bank(Path(sys.argv[1])).alone():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("stage", ["finetune", TASK])
def test_a_second_run_on_the_same_outputs_is_told_to_wait(
    warm: Warm, baseline: Baseline, stage: str, tmp_path: Path
) -> None:
    place = baseline.copy(stage, tmp_path / "p")
    if stage == TASK:
        # The bank must exist to be locked.
        assert warm.run(place, *words(stage)).code == 0
        command = [sys.executable, "-c", HOLD_BANK, str(place / "bank")]
    else:
        command = [sys.executable, "-c", HOLD, str(place / "out" / stage / "result.json")]
    env = os.environ | environment(place)
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        again = ["edges" if word == "grey" else word for word in words(stage)]
        end = warm.run(place, *again)
        assert end.code == 75, end.output
        assert "another process" in end.output
        assert "fix: wait for it to end" in end.output
        other.kill()
    if stage != TASK:
        assert not outputs(place, stage)
        assert warm.run(place, *words(stage)).code == 0
        assert outputs(place, stage) == baseline.outputs[stage]
