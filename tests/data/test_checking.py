from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from graftgan.config import Data
from graftgan.data.checking import _serve, checking
from graftgan.data.validation import check, expectations
from graftgan.errors import TryAgain

LOG = logging.getLogger("test")


def tables(n: int = 12, **columns: Any) -> dict[str, pd.DataFrame]:
    images = {
        "name": [f"{i}.png" for i in range(n)],
        "sha256": [f"{i:064x}" for i in range(n)],
        "split": "train",
        "side": 64,
        "duplicate": False,
        "near_duplicate": False,
        "blank": [i == 3 for i in range(n)],
    }
    facts = {"bad_share": 0.0, "label_imbalance": 1.0, "channels": 3, "resolution": 32}
    return {"images": pd.DataFrame(images | columns), "facts": pd.DataFrame([facts])}


WANTED = expectations(Data(), [], [])


def children() -> list[int]:
    return [int(p) for p in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def test_another_process_finds_the_same_and_leaves_this_one_small(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    had = "great_expectations" in sys.modules
    with checking(there, LOG, apart=True) as begin:
        finish = begin(tables(), WANTED)
        found = finish()
    assert ("great_expectations" in sys.modules) == had
    assert found == check(tables(), WANTED, here, LOG)
    assert [c.offending for c in found if not c.success] == [["3.png"]]
    for docs in (here, there):
        assert any("3.png" in page.read_text() for page in docs.rglob("validations/**/*.html"))


def test_without_apart_or_library_there_is_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "great_expectations", None)
    before = children()
    for apart in (False, True):
        with checking(tmp_path, LOG, apart) as begin:
            assert children() == before
            found = begin(tables(), WANTED)()
        assert [c.expectation for c in found if not c.success] == ["max_blank_share"]


def test_a_killed_process_is_a_passing_condition(tmp_path: Path) -> None:
    with checking(tmp_path, LOG, apart=True) as begin:
        (process,) = multiprocessing.active_children()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with pytest.raises(TryAgain, match="killed") as error:
            begin(tables(), WANTED)()
    assert "runtime.workers" in error.value.remedy


def test_an_error_of_the_library_comes_back(tmp_path: Path) -> None:
    with checking(tmp_path, LOG, apart=True) as begin, pytest.raises(TypeError, match="iterable"):
        begin({"images": tables()["images"], "facts": 3}, WANTED)()  # type: ignore[dict-item]


def test_leaving_early_takes_the_process_along(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ZeroDivisionError), checking(tmp_path, LOG, apart=True):
        (process,) = multiprocessing.active_children()
        1 / 0  # noqa: B018
    assert not process.is_alive() and time.monotonic() - started < 30


def test_a_process_whose_parent_is_gone_ends() -> None:
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=_serve, args=(its,))
    process.start()
    mine.close()
    its.close()
    process.join(60)
    assert process.exitcode == 0


def test_nothing_is_left_for_python_to_warn_of(tmp_path: Path) -> None:
    """The library's progress bars make semaphores, which a killed process would leave behind."""
    script = tmp_path / "once.py"
    script.write_text(
        "import logging, pathlib, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_checking import WANTED, checking, tables\n"
        "if __name__ == '__main__':\n"
        "    with checking(pathlib.Path(sys.argv[1]), logging.getLogger(), apart=True) as begin:\n"
        "        assert len(begin(tables(), WANTED)()) == len(WANTED)\n"
    )
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert ended.stderr == ""
