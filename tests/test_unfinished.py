from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from graftgan.unfinished import NOTE, Note, differences, noted, unused

NOTED = Note("/r/result.json", {"finetune.seed": 0, "finetune.batch": 8}, "c1", {"dataset": "d1"})


def leave(folder: Path, note: Note, age_s: float = 0) -> Path:
    """Leave a state as a killed process does."""
    with pytest.raises(KeyboardInterrupt), noted(folder, note):
        (folder / "chosen" / "images-000000000008").mkdir(parents=True)
        raise KeyboardInterrupt
    stat = (folder / NOTE).stat()
    os.utime(folder / NOTE, (stat.st_atime, stat.st_mtime - age_s))
    return folder


def test_each_difference_has_a_line() -> None:
    assert differences(NOTED, NOTED) == []
    other = Note("/r/result.json", {"finetune.seed": 1, "finetune.new": 2}, "c2", {"dataset": "d2"})
    assert differences(NOTED, other) == [
        "finetune.batch: 8 -> absent",
        "finetune.new: absent -> 2",
        "finetune.seed: 0 -> 1",
        "input dataset has changed",
        "the code of the package has changed",
    ]


def test_a_note_goes_when_the_work_is_done(tmp_path: Path) -> None:
    with noted(tmp_path / "finetune-a", NOTED):
        assert (tmp_path / "finetune-a" / NOTE).is_file()
    assert list(tmp_path.iterdir()) == []


def test_a_state_of_another_run_is_told_of(tmp_path: Path) -> None:
    leave(tmp_path / "finetune-a", NOTED)
    assert unused(tmp_path / "finetune-b", replace(NOTED, code="c2")) == [
        "the code of the package has changed"
    ]
    assert unused(tmp_path / "finetune-b", replace(NOTED, result="/elsewhere")) == []
    assert unused(tmp_path / "rank-b", NOTED) == []


def test_of_several_the_newest_is_compared(tmp_path: Path) -> None:
    leave(tmp_path / "finetune-a", replace(NOTED, config={"finetune.seed": 3}), age_s=50)
    leave(tmp_path / "finetune-b", replace(NOTED, code="c3"))
    assert unused(tmp_path / "finetune-c", NOTED) == ["the code of the package has changed"]


def test_who_has_a_state_of_their_own_needs_no_other(tmp_path: Path) -> None:
    leave(tmp_path / "finetune-a", replace(NOTED, code="c2"))
    assert unused(leave(tmp_path / "finetune-b", NOTED), NOTED) == []


def test_a_note_without_a_state_or_damaged_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), noted(tmp_path / "finetune-a", NOTED):
        raise KeyboardInterrupt
    assert not (tmp_path / "finetune-a").exists()
    (tmp_path / "finetune-a" / "chosen").mkdir(parents=True)
    assert unused(tmp_path / "finetune-b", replace(NOTED, code="c2")) == []
    (leave(tmp_path / "finetune-c", NOTED) / NOTE).write_text("{")
    assert unused(tmp_path / "finetune-b", replace(NOTED, code="c2")) == []


def test_where_notes_cannot_be_written_work_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with noted(tmp_path / "file" / "finetune-a", NOTED):
        logging.getLogger(__name__).debug("at work")
    assert (tmp_path / "file").read_text() == ""
