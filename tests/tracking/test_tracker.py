from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from graftgan.config import Track
from graftgan.context import NullTracker
from graftgan.errors import ConfigError, DataError, Interrupted
from graftgan.identity import RunIdentity
from graftgan.journal import Event, RegistrationQueue, journals, read_events
from graftgan.tracker import JournalTracker, journal_root, open_tracker
from tracking.support import params_for

JOURNAL = Track(mode="journal", system_metrics=False)
SAME = RunIdentity("key", "name", "explicit")


def events(kind: str, number: int = 1, stage: str = "rank") -> list[Event]:
    path = journal_root() / "key" / f"{stage}-{number}.jsonl"
    return [event for event in read_events(path) if event.kind == kind]


def test_off_tracks_nothing(place: Path) -> None:
    with open_tracker(params_for(Track(mode="off")), "rank") as tracker:
        assert type(tracker) is NullTracker
    assert journals(place) == []


def test_everything_is_written_before_the_call_returns(place: Path) -> None:
    picture = place / "sheet.png"
    picture.write_bytes(b"1")
    folder = place / "sheets"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"2")
    with open_tracker(params_for(JOURNAL, rank={"samples": 77}), "rank", SAME) as tracker:
        assert isinstance(tracker, RegistrationQueue)
        tracker.log_params({"a": {"b": 1}, "uri": "https://u:p@h/x", "password": "p"})
        tracker.log_metrics({"kid": 0.5}, 1000)
        tracker.log_metrics({"recall": 0.25})
        tracker.log_dataset("micah", "ab" * 32, "https://u:p@h/micah.parquet", "training")
        tracker.log_artifact(picture)
        tracker.log_artifact(folder, "deep")
        tracker.set_tags({"note": "https://u:p@h", "token": "x"})
        picture.unlink()
        # Nothing waits for the end of the block: this is what a kill would leave.
        assert [e.data["metrics"] for e in events("metrics")] == [{"kid": 0.5}, {"recall": 0.25}]
    (start,) = events("start")
    assert start.data["params"]["rank.samples"] == "77"
    assert "finetune.seed" in start.data["parent_params"]
    assert not any(key.startswith(("track", "runtime")) for key in start.data["parent_params"])
    assert start.data["tags"]["mlflow.source.git.commit"] == "0123abc"
    assert events("params")[0].data["params"] == {"a.b": "1", "uri": "https://h/x", "password": "***"}
    assert len(events("dataset")[0].data["digest"]) == 36
    copies = [journal_root() / "key" / event.data["path"] for event in events("artifact")]
    assert copies[0].read_bytes() == b"1"
    assert (copies[1] / "a.png").read_bytes() == b"2"
    assert events("tags")[0].data["tags"] == {"note": "https://h", "token": "***"}
    assert events("end")[0].data == {"status": "FINISHED", "summary": {"recall": 0.25}}


@pytest.mark.parametrize(("error", "status"), [(DataError("x"), "FAILED"), (Interrupted("x"), "KILLED")])
def test_failure_ends_the_run_and_passes_on(place: Path, error: Exception, status: str) -> None:
    with pytest.raises(type(error)), open_tracker(params_for(JOURNAL), "rank", SAME):
        raise error
    assert events("end")[0].data["status"] == status
    assert events("tags")[0].data["tags"] == {"graftgan.error": type(error).__name__}


def test_interrupted_attempt_is_continued_without_double_points(place: Path) -> None:
    params = params_for(JOURNAL)
    with pytest.raises(Interrupted), open_tracker(params, "rank", SAME) as tracker:
        for step in (100, 200, 300):
            tracker.log_metrics({"loss": float(step)}, step)
        raise Interrupted("x")
    with open_tracker(params, "rank", SAME) as tracker:
        for step in (200, 300, 400):
            tracker.log_metrics({"loss": float(step), "new": 1.0}, step)
        tracker.log_metrics({"final": 1.0})
        tracker.log_metrics({"final": 2.0})
    assert [e.data["step"] for e in events("metrics") if "loss" in e.data["metrics"]] == [100, 200, 300, 400]
    assert [e.data["step"] for e in events("metrics") if "new" in e.data["metrics"]] == [200, 300, 400]
    first, second = events("start")
    assert first.data["id"] == second.data["id"]
    assert events("end")[-1].data["summary"] == {"final": 2.0}


def test_finished_or_changed_run_gets_a_journal_of_its_own(place: Path) -> None:
    with open_tracker(params_for(JOURNAL), "rank", SAME):
        pass
    with open_tracker(params_for(JOURNAL), "rank", SAME):
        pass
    with pytest.raises(DataError), open_tracker(params_for(JOURNAL), "prepare", SAME):
        raise DataError("x")
    with open_tracker(params_for(JOURNAL, data={"seed": 5}), "prepare", SAME):
        pass
    assert events("start", 1)[0].data["id"] != events("start", 2)[0].data["id"]
    assert events("end", 1, "prepare")[0].data["status"] == "FAILED"
    assert events("end", 2, "prepare")[0].data["status"] == "FINISHED"


def test_two_at_once_do_not_share_a_journal(place: Path) -> None:
    with open_tracker(params_for(JOURNAL), "rank", SAME) as first:
        code = (
            "from graftgan.params import resolve\n"
            "from graftgan.identity import RunIdentity\n"
            "from graftgan.tracker import open_tracker\n"
            "params = resolve({'track': {'mode': 'journal'}}, 'x')\n"
            "with open_tracker(params, 'rank', RunIdentity('key', 'name', 'explicit')) as tracker:\n"
            "    print(tracker.path.name)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert isinstance(first, JournalTracker)
        assert (first.path.name, done.stdout.strip()) == ("rank-1.jsonl", "rank-2.jsonl")


def test_folder_store_is_refused_with_a_remedy(place: Path) -> None:
    for uri in ("./mlruns", "file:///tmp/mlruns"):
        with (
            pytest.raises(ConfigError, match="sqlite:///") as caught,
            open_tracker(params_for(Track(uri=uri)), "rank"),
        ):
            pass
        assert caught.value.exit_code == 2


def test_a_journal_that_cannot_be_written_stops_tracking_not_the_stage(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (place / "home").write_text("a file where a folder should be")
    with open_tracker(params_for(JOURNAL), "rank", SAME) as tracker:
        tracker.log_metrics({"a": 1.0})
    assert "tracking is off" in caplog.text


def test_full_disk_stops_tracking_with_one_warning(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_tracker(params_for(JOURNAL), "rank", SAME) as tracker:
        assert isinstance(tracker, JournalTracker) and tracker._journal is not None
        tracker._journal._file.close()
        with Path("/dev/full").open("wb", buffering=0) as full:
            tracker._journal._file = full
            tracker.log_metrics({"a": 1.0})
            tracker.log_metrics({"b": 1.0})
            tracker.log_artifact(place)
    assert caplog.text.count("tracking stops here") == 1


def test_absent_artifact_is_named_and_left_out(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_tracker(params_for(JOURNAL), "rank", SAME) as tracker:
        tracker.log_artifact(place / "absent.png")
    assert "absent.png is not logged" in caplog.text
    assert events("artifact") == []


def test_only_small_files_of_some_patterns_are_picked_out_of_a_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    models = place / "models"
    for name, size in {
        "a/model.json": 4,
        "a/gan.safetensors": 4,
        "b/deep/x.json": 4,
        "large.json": 5,
    }.items():
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).write_bytes(b"1" * size)
    monkeypatch.setattr("graftgan.tracker.MAX_PICKED_BYTES", 4)
    with caplog.at_level("INFO", "graftgan"), open_tracker(params_for(JOURNAL), "rank", SAME) as tracker:
        tracker.log_artifact(models, "finetune", ("**/*.json", "a/*.json"))
        tracker.log_artifact(models, "finetune", ("*.png",))
    (event,) = events("artifact")
    copied = journal_root() / "key" / event.data["path"]
    assert (copied.name, event.data["folder"]) == ("models", "finetune")
    files = sorted(path.relative_to(copied).as_posix() for path in copied.rglob("*") if path.is_file())
    assert files == ["a/model.json", "b/deep/x.json"]
    assert f"{models / 'large.json'} is not logged: it is larger than 4 bytes" in caplog.text


def test_system_use_is_sampled(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftgan.tracker.SYSTEM_EVERY_S", 0.0)
    with open_tracker(params_for(Track(mode="journal")), "rank", SAME) as tracker:
        tracker.log_metrics({"loss": 1.0}, 10)
        tracker.log_metrics({"loss": 1.0}, 20)
    samples = [e for e in events("metrics") if "system/process_memory_megabytes" in e.data["metrics"]]
    assert [sample.data["step"] for sample in samples] == [0, 1]
    assert all(0 < sample.data["metrics"]["system/process_memory_megabytes"] < 1e6 for sample in samples)
    assert events("end")[0].data["summary"] == {}


def test_the_stage_process_never_imports_the_client(place: Path) -> None:
    code = (
        "import sys\n"
        "import graftgan.tracker\n"
        "assert not {'mlflow', 'torch', 'pandas'} & set(sys.modules), 'heavy import'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
