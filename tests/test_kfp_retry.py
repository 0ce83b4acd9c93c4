from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from graftgan.errors import CheckpointError, ConfigError, DataError, Interrupted, MissingInput, TryAgain
from graftgan.kfp_retry import VALID_S, Attempts

INPUT = json.dumps({"inputs": {"parameterValues": {"config_json": "{}"}}, "outputs": {"outputFile": "/a"}})
RUN = {"KFP_RUN_ID": "run-1"}


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("kind", [ConfigError, DataError, MissingInput, CheckpointError])
def test_what_failed_for_good_fails_again_at_once_with_the_same_code(kind: type[ConfigError]) -> None:
    first = Attempts.of("rank", INPUT, RUN)
    first.check()
    first.failed(kind("the file is bad", "mend it"))
    with pytest.raises(kind, match="the file is bad") as caught:
        Attempts.of("rank", INPUT, RUN).check()
    assert caught.value.exit_code == kind.exit_code
    assert caught.value.remedy.startswith("mend it") and str(first.note) in caught.value.remedy


@pytest.mark.parametrize("error", [TryAgain("full disk"), Interrupted("SIGTERM")])
def test_what_may_succeed_is_tried_again(error: TryAgain) -> None:
    Attempts.of("rank", INPUT, RUN).failed(error)
    Attempts.of("rank", INPUT, RUN).check()


def test_another_run_stage_or_input_is_not_refused() -> None:
    Attempts.of("rank", INPUT, RUN).failed(DataError("bad"))
    other = INPUT.replace("{}", "{ }")
    for attempts in (
        Attempts.of("rank", INPUT, {"KFP_RUN_ID": "run-2"}),
        Attempts.of("finetune", INPUT, RUN),
        Attempts.of("rank", other, RUN),
    ):
        attempts.check()


def test_where_outputs_go_does_not_make_another_task() -> None:
    moved = json.dumps(json.loads(INPUT) | {"outputs": {"outputFile": "/b"}})
    Attempts.of("rank", INPUT, RUN).failed(DataError("bad"))
    with pytest.raises(DataError):
        Attempts.of("rank", moved, RUN).check()


def test_a_later_retry_of_a_mended_run_is_not_refused() -> None:
    attempts = Attempts.of("rank", INPUT, RUN)
    attempts.failed(DataError("bad"))
    assert isinstance(attempts.note, Path)
    note = json.loads(attempts.note.read_text())
    attempts.note.write_text(json.dumps(note | {"at": time.time() - VALID_S - 1}))
    attempts.check()


def test_a_success_removes_the_note() -> None:
    attempts = Attempts.of("rank", INPUT, RUN)
    attempts.failed(DataError("bad"))
    attempts.forget()
    attempts.check()
    attempts.forget()
    assert isinstance(attempts.note, Path) and not attempts.note.exists()


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"kind": "Exception", "at": 1}', '{"at": "x"}'])
def test_a_note_that_cannot_be_read_refuses_nothing(text: str) -> None:
    attempts = Attempts.of("rank", INPUT, RUN)
    assert isinstance(attempts.note, Path)
    attempts.note.parent.mkdir(parents=True)
    attempts.note.write_text(text)
    attempts.check()


def test_outside_a_pipeline_run_nothing_is_noted(workspace: Path) -> None:
    attempts = Attempts.of("rank", INPUT, {})
    attempts.failed(DataError("bad"))
    attempts.check()
    attempts.forget()
    assert attempts.note is None and not list(workspace.iterdir())


def test_a_workspace_that_cannot_be_written_does_not_hide_the_failure(workspace: Path) -> None:
    (workspace / "failures").write_text("a file where the folder goes")
    attempts = Attempts.of("rank", INPUT, RUN)
    attempts.failed(DataError("bad"))
    attempts.check()


@pytest.mark.parametrize("text", ["", "nonsense", "[1]", "{", '{"inputs": 1}'])
def test_an_input_that_is_none_still_has_attempts(text: str) -> None:
    Attempts.of("rank", text, RUN).check()


def test_the_run_is_told_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    assert os.environ["KFP_RUN_ID"]
    assert Attempts.of("rank", INPUT) == Attempts.of("rank", INPUT, RUN)
