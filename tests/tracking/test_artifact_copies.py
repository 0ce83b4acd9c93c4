"""A stage copies an artifact while the one who sends tidies up behind what it has sent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graftgan.config import Track
from graftgan.identity import RunIdentity
from graftgan.journal import artifacts_path, journals, read_events
from graftgan.sync import Sender
from graftgan.tracker import JournalTracker, journal_root, open_tracker
from graftgan.tracking import Connection
from tracking.support import params_for

SAME = RunIdentity("key", "name", "explicit")


def copied(path: Path) -> list[Path]:
    """Return the copies that a journal tells of."""
    events = [event for event in read_events(path) if event.kind == "artifact"]
    return [path.parent / event.data["path"] for event in events]


def before_removing(
    copies: Path, monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]
) -> dict[str, int]:
    """Do something once, just before anybody removes the folder of copies; count that."""
    count = {"removals": 0}

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def remove(path: Any, *rest: Any, **more: Any) -> Any:
            if Path(path) == copies and not count["removals"]:
                count["removals"] += 1
                action()
            return real(path, *rest, **more)

        return remove

    monkeypatch.setattr(shutil, "rmtree", watched(shutil.rmtree))
    monkeypatch.setattr(os, "rmdir", watched(os.rmdir))
    return count


def test_an_artifact_copied_just_before_the_tidying_stays(
    store: Track, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "sheet.png").write_bytes(b"png")
    journal = store.model_copy(update={"mode": "journal"})
    with open_tracker(params_for(journal), "rank", SAME) as tracker:
        assert isinstance(tracker, JournalTracker)
        copies = artifacts_path(tracker.path)
        copies.mkdir()
        told = before_removing(copies, monkeypatch, lambda: tracker.log_artifact(place / "sheet.png", "late"))
        sender = Sender(tracker.path, Connection(store))
        sender.send()
        assert told["removals"] == 1
        (copy,) = copied(tracker.path)
        assert copy.read_bytes() == b"png"
        monkeypatch.undo()
    # What was copied late is sent by the next one, and then nothing is left.
    monkeypatch.setenv("GRAFTGAN_HOME", str(place / "home"))
    sender = Sender(journals(journal_root())[0], Connection(store))
    sender.send()
    assert sender.refused == []
    assert not copies.exists()


@pytest.mark.parametrize("losses", [1, 3])
def test_a_copy_begins_again_where_the_tidying_was_quicker(
    losses: int, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "sheet.png").write_bytes(b"png")
    real, left = os.mkdir, losses
    with open_tracker(params_for(Track(mode="journal")), "rank", SAME) as tracker:
        assert isinstance(tracker, JournalTracker)
        copies = artifacts_path(tracker.path)

        def make(path: Any, *rest: Any, **more: Any) -> None:
            nonlocal left
            real(path, *rest, **more)
            if Path(path) == copies and left:
                left -= 1
                copies.rmdir()

        monkeypatch.setattr(os, "mkdir", make)
        tracker.log_artifact(place / "sheet.png")
        monkeypatch.undo()
    assert left == 0
    (copy,) = copied(tracker.path)
    assert copy.read_bytes() == b"png"
