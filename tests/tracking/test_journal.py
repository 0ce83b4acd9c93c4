from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from graftgan.journal import (
    Journal,
    Marker,
    journals,
    pending_bytes,
    read_events,
    read_marker,
    write_marker,
)


def test_events_come_back_in_order_with_unique_ids_and_offsets(tmp_path: Path) -> None:
    path = tmp_path / "run" / "rank-1.jsonl"
    journal = Journal(path)
    for number in range(3):
        journal.append("metrics", metrics={"kid": number / 3}, step=number)
    journal.append("end", True, status="FINISHED", where=Path("x"))
    journal.close()
    events = list(read_events(path))
    assert [event.data.get("step") for event in events] == [0, 1, 2, None]
    assert events[3].data == {"status": "FINISHED", "where": "x"}
    assert len({event.id for event in events}) == 4
    assert events[-1].end == path.stat().st_size
    assert [e.id for e in read_events(path, events[1].end)] == [e.id for e in events[2:]]


def test_cut_last_line_is_not_read_and_goes_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    journal = Journal(path)
    journal.append("tags", tags={"a": "b"})
    journal.close()
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"id": "1", "kind": "metr')
    assert [event.kind for event in read_events(path)] == ["tags"]
    assert pending_bytes(path) == whole
    again = Journal(path)
    again.append("end", status="KILLED")
    again.close()
    assert [event.kind for event in read_events(path)] == ["tags", "end"]


def test_damaged_line_in_the_middle_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    journal = Journal(path)
    journal.append("tags", tags={})
    journal.close()
    with path.open("ab") as file:
        file.write(b'\xff\xfe\n{"id": 1}\n[]\n')
    journal = Journal(path)
    journal.append("end", status="FAILED")
    assert [event.kind for event in read_events(path)] == ["tags", "end"]
    assert caplog.text.count("is damaged") == 3


def test_values_that_json_lacks_survive(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.jsonl")
    journal.append("metrics", metrics={"nan": math.nan, "inf": math.inf, "list": [-math.inf, 1]})
    line = (tmp_path / "a.jsonl").read_text()
    json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    (event,) = read_events(tmp_path / "a.jsonl")
    assert math.isnan(float(event.data["metrics"]["nan"]))
    assert float(event.data["metrics"]["inf"]) == math.inf
    assert event.data["metrics"]["list"] == ["-inf", 1]


def test_marker_round_trip_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert read_marker(path) == Marker()
    marker = Marker(12, "t", "r", "p", "e", True)
    write_marker(path, marker)
    assert read_marker(path) == marker
    (tmp_path / "a.synced").write_text('{"unknown": 1}')
    assert read_marker(path) == Marker()


def test_journals_are_found_below_a_folder(tmp_path: Path) -> None:
    assert journals(tmp_path / "none") == []
    for name in ("b/rank-1.jsonl", "a/rank-1.jsonl"):
        Journal(tmp_path / name).close()
    assert [p.parent.name for p in journals(tmp_path)] == ["a", "b"]
    assert list(read_events(tmp_path / "absent.jsonl")) == []


def test_copies_that_wait_are_not_looked_into(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a" / "rank-1.jsonl")
    journal.close()
    copy = journal.artifacts / "1234" / "logs" / "training.jsonl"
    copy.parent.mkdir(parents=True)
    copy.touch()
    assert journals(tmp_path) == [journal.path]


def test_a_folder_that_goes_meanwhile_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Journal(tmp_path / "a" / "rank-1.jsonl").close()
    Journal(tmp_path / "gone" / "rank-1.jsonl").close()
    scandir = os.scandir

    def vanishing(path: Any) -> Any:
        if Path(path).name == "gone":
            raise FileNotFoundError(path)
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", vanishing)
        assert [p.parent.name for p in journals(tmp_path)] == ["a"]
