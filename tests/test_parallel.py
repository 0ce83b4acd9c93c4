from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from graftgan.context import Context, NullTracker
from graftgan.errors import CheckpointError, DataError, GraftganError
from graftgan.parallel import run_all


class Recorder(NullTracker):
    """A tracker and a progress display that remember."""

    def __init__(self) -> None:
        self.metrics: list[tuple[dict[str, float], int]] = []
        self.tasks: dict[str, list[Any]] = {}

    def log_metrics(self, values: Mapping[str, float], images_seen: int = 0) -> None:
        self.metrics.append((dict(values), images_seen))

    def task(self, name: str, total: int, done: int = 0) -> RecorderTask:
        return RecorderTask(self.tasks.setdefault(name, [(total, done)]))


class RecorderTask:
    def __init__(self, events: list[Any]) -> None:
        self._events = events

    def advance(self, images: int, scores: Mapping[str, float] | None = None) -> None:
        self._events.append((images, dict(scores or {})))

    def close(self) -> None:
        self._events.append("closed")


def recorded(tmp_path: Path) -> tuple[Context, Recorder]:
    recorder = Recorder()
    log = logging.getLogger("graftgan")
    return Context(tmp_path / "state", tmp_path / "cache", log, recorder, recorder, resume="must"), recorder


def work(piece: int, ctx: Context) -> dict[str, Any]:
    """Say a little on every channel; the first pieces take longest."""
    time.sleep(0.3 * (2 - piece))
    task = ctx.progress.task(f"piece {piece}", 10, piece)
    task.advance(4, {"kid": piece / 8})
    task.close()
    ctx.tracker.log_metrics({f"m{piece}": 0.5}, piece)
    ctx.log.warning("piece %d of %s", piece, "three")
    place = (str(ctx.state), str(ctx.cache), ctx.resume)
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(piece))
    return {"sum": float((noise @ noise).sum()), "threads": torch.get_num_threads(), "place": place}


def test_processes_give_the_same_answers_and_say_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The command line cuts this logger off from the root, where pytest listens.
    monkeypatch.setattr(logging.getLogger("graftgan"), "propagate", True)
    answers, said = [], []
    for at_once in (1, 2):
        ctx, recorder = recorded(tmp_path)
        caplog.clear()
        answers.append(run_all(work, [0, 1, 2], ctx, 1, at_once))
        lines = sorted((r.levelname, r.getMessage()) for r in caplog.records if r.name == "graftgan")
        said.append((recorder.tasks, sorted(recorder.metrics, key=str), lines))
    assert answers[0] == answers[1]
    assert [a["threads"] for a in answers[1]] == [1, 1, 1]
    assert answers[1][0]["place"] == (str(tmp_path / "state"), str(tmp_path / "cache"), "must")
    assert said[0] == said[1]
    tasks, metrics, lines = said[1]
    assert tasks["piece 2"] == [(10, 2), (4, {"kid": 0.25}), "closed"]
    assert metrics == [({"m0": 0.5}, 0), ({"m1": 0.5}, 1), ({"m2": 0.5}, 2)]
    assert lines[0] == ("WARNING", "piece 0 of three")


def fail_or_wait(piece: Any, ctx: Context) -> str:
    """Do what the piece says: wait, die, or raise it."""
    if piece == "wait":
        time.sleep(60)
    if piece == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if isinstance(piece, BaseException):
        raise piece
    return str(piece)


@pytest.mark.parametrize("at_once", [1, 2])
def test_the_first_failure_ends_all_and_keeps_class_message_and_remedy(tmp_path: Path, at_once: int) -> None:
    ctx, _ = recorded(tmp_path)
    started = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        run_all(fail_or_wait, [CheckpointError("zoo/a is cut off", "fetch it"), "wait"], ctx, 1, at_once)
    assert (caught.value.message, caught.value.remedy) == ("zoo/a is cut off", "fetch it")
    assert time.monotonic() - started < 45


@pytest.mark.nightly
def test_an_unexpected_failure_comes_with_its_traceback(tmp_path: Path) -> None:
    ctx, _ = recorded(tmp_path)
    with pytest.raises(GraftganError, match="unexpected ZeroDivisionError: by hand") as caught:
        run_all(fail_or_wait, [ZeroDivisionError("by hand"), "ok"], ctx, 1, 2)
    assert caught.value.exit_code == 1
    assert "in fail_or_wait" in caught.value.message


def test_a_killed_worker_is_noticed(tmp_path: Path) -> None:
    ctx, _ = recorded(tmp_path)
    started = time.monotonic()
    with pytest.raises(GraftganError, match="worker 0 died with exit code -9") as caught:
        run_all(fail_or_wait, ["die", "wait"], ctx, 1, 2)
    assert "memory" in caught.value.remedy
    assert time.monotonic() - started < 45


def test_no_processes_are_made_for_one_piece(tmp_path: Path) -> None:
    ctx, _ = recorded(tmp_path)
    assert run_all(own_pid, [0], ctx, 1, 2) == [os.getpid()]
    assert run_all(own_pid, [], ctx, 1, 2) == []
    with pytest.raises(DataError):
        run_all(fail_or_wait, [DataError("x")], ctx, 1, 2)


def test_a_process_takes_piece_after_piece(tmp_path: Path) -> None:
    ctx, _ = recorded(tmp_path)
    pids = run_all(own_pid, list(range(7)), ctx, 1, 2)
    assert len(pids) == 7 and 1 <= len(set(pids)) <= 2 and os.getpid() not in pids
    assert not any(_alive(pid) for pid in pids)


def test_a_later_piece_that_fails_ends_all(tmp_path: Path) -> None:
    ctx, _ = recorded(tmp_path)
    pieces = ["ok", "ok", "ok", DataError("the fourth"), "wait"]
    with pytest.raises(DataError, match="the fourth"):
        run_all(fail_or_wait, pieces, ctx, 1, 2)


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def own_pid(piece: int, ctx: Context) -> int:
    return os.getpid()


STOPPABLE = '''
import sys
import time
from pathlib import Path

from graftgan.context import Context, StopSignal
from graftgan.errors import Interrupted
from graftgan.parallel import run_all


def train(name, ctx):
    """Wait for the signal, then save, and say more than a pipe holds."""
    with ctx.stop.deferred() as stop:
        (ctx.state / f"{name}.started").write_text("")
        while not stop.requested:
            time.sleep(0.05)
        for line in range(3000):
            ctx.log.info("saving %s, line %d of many that fill the pipe", name, line)
        (ctx.state / f"{name}.saved").write_text("")
    raise Interrupted("stopped", "run the same command to go on")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    ctx = Context(folder, folder, stop=StopSignal())
    ctx.stop.install()
    try:
        run_all(train, ["a", "b", "never"], ctx, 1, 2)
    except Interrupted as error:
        sys.exit(error.exit_code)
'''


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.nightly)])
def test_a_signal_to_the_parent_lets_the_children_save(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "stoppable.py").write_text(STOPPABLE)
    command = [sys.executable, str(tmp_path / "stoppable.py"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        deadline = time.monotonic() + 90
        while len(list(tmp_path.glob("*.started"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        parent.send_signal(number)
        _, errors = parent.communicate(timeout=60)
    assert parent.returncode == 143, errors
    assert sorted(p.name for p in tmp_path.glob("*.saved")) == ["a.saved", "b.saved"]
    assert not (tmp_path / "never.started").exists()
