"""What locks rely on filelock for: the floor in `pyproject.toml` is the first version that holds to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from graftgan import locks
from graftgan.errors import TryAgain

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows removes no file that is open")


def test_a_lock_whose_file_was_removed_before_it_was_taken_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    file, real = tmp_path / ".result.json.lock", fcntl.flock

    def late(descriptor: int, how: int) -> Any:
        file.unlink(missing_ok=True)
        return real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(TryAgain), locks.alone_at(tmp_path / "result.json", "rank"):
        pass


def test_whoever_lets_go_leaves_the_lock_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, real = tmp_path / ".result.json.lock", Path.unlink

    def unlink(self: Path, missing_ok: bool = False) -> None:
        real(self, missing_ok)
        if self == file:
            # The next process is quick.
            monkeypatch.undo()
            file.write_text("theirs")

    with locks.alone_at(tmp_path / "result.json", "rank"):
        monkeypatch.setattr(Path, "unlink", unlink)
    assert file.read_text() == "theirs"
