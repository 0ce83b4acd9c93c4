from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from graftgan.config import Track
from graftgan.errors import TryAgain
from graftgan.identity import RunIdentity
from graftgan.journal import Journal, journals, pending_bytes, read_events, read_marker, write_marker
from graftgan.sync import Sender, sync
from graftgan.tracker import journal_root, open_registry, open_tracker
from graftgan.tracking import Connection, RefusedError
from tracking.support import free_port, params_for

SAME = RunIdentity("key", "name", "explicit")


def journalled(track: Track) -> Track:
    return track.model_copy(update={"mode": "journal"})


def write_run(track: Track, place: Path, stage: str = "rank") -> None:
    (place / "sheet.png").write_bytes(b"png")
    (place / "sheets").mkdir(exist_ok=True)
    (place / "sheets" / "a.png").write_bytes(b"a")
    with open_tracker(params_for(journalled(track)), stage, SAME) as tracker:
        tracker.log_params({"extra": 1})
        tracker.log_dataset("micah", "ab" * 32, "micah.parquet", "training")
        for step in range(1, 40):
            tracker.log_metrics({"loss": 1 / step, "kid": float("nan")}, 100 * step)
        tracker.log_artifact(place / "sheet.png", "pictures")
        tracker.log_artifact(place / "sheets")
        tracker.log_metrics({"recall": 0.5})
        tracker.set_tags({"note": "fine"})


def all_runs(track: Track) -> dict[str, Run]:
    client = MlflowClient(track.uri)
    experiment = client.get_experiment_by_name(track.experiment)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    named = {run.info.run_name: run for run in runs}
    assert len(named) == len(runs), "a run was made twice"
    return named


def test_a_run_arrives_whole_and_only_once(store: Track, place: Path) -> None:
    write_run(store, place)
    first = sync(journal_root(), store)
    assert first.complete and first.journals == 1 and first.refused == ()
    # As if the process had been killed after sending and before noting it.
    (path,) = journals(journal_root())
    marker = read_marker(path)
    write_marker(path, type(marker)(target=marker.target))
    again = sync(journal_root(), store)
    assert [text for text in again.refused if "gone" not in text] == []
    assert sync(journal_root(), store).events == 0

    runs, client = all_runs(store), MlflowClient(store.uri)
    assert set(runs) == {"name", "rank"}
    stage, parent = runs["rank"], runs["name"]
    assert stage.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert stage.data.tags["note"] == "fine"
    assert (stage.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    assert stage.data.params["rank.samples"] == "1000" and stage.data.params["extra"] == "1"
    assert parent.data.params["finetune.seed"] == "0"
    assert parent.data.metrics == {"rank.recall": 0.5}
    assert parent.data.tags["graftgan.git_revision"] == "0123abc-dirty"
    history = client.get_metric_history(stage.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(100 * s, 1 / s) for s in range(1, 40)]
    dataset = stage.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest, dataset.source) == ("micah", ("ab" * 32)[:36], "micah.parquet")
    assert len(stage.inputs.dataset_inputs) == 1
    (given,) = parent.inputs.dataset_inputs
    assert given.dataset.to_dictionary() == dataset.to_dictionary(), (
        "the parent has it once, as the stage has"
    )
    names = [item.path for item in client.list_artifacts(stage.info.run_id)]
    assert names == ["pictures", "sheets"]
    assert str(place / "artifacts") in stage.info.artifact_uri
    assert not list(journal_root().rglob("*.artifacts")), "copies that arrived are to be removed"


def test_stages_of_one_pipeline_run_join_one_parent(store: Track, place: Path) -> None:
    for stage in ("prepare", "rank"):
        write_run(store, place, stage)
        sync(journal_root(), store)
    runs = all_runs(store)
    assert set(runs) == {"name", "prepare", "rank"}
    assert set(runs["name"].data.metrics) == {"prepare.recall", "rank.recall"}


def test_given_parent_run_is_used(store: Track, place: Path) -> None:
    connection = Connection(store)
    experiment = connection.experiment(store.experiment)
    outer = connection.client.create_run(experiment, run_name="outer").info.run_id
    identity = RunIdentity(outer, outer, "mlflow", parent_id=outer)
    with open_tracker(params_for(journalled(store)), "rank", identity):
        pass
    sync(journal_root(), store)
    assert all_runs(store)["rank"].data.tags["mlflow.parentRunId"] == outer


def test_kubeflow_run_joins_the_run_of_its_plugin(store: Track, place: Path) -> None:
    connection = Connection(store)
    experiment = connection.experiment(store.experiment)
    tags = {"kfp.pipeline_run_id": "1f-2e"}
    plugin = connection.client.create_run(experiment, tags=tags, run_name="plugin").info.run_id
    with open_tracker(
        params_for(journalled(store)), "rank", RunIdentity("1f-2e", "kfp", "kfp", kfp_run="1f-2e")
    ):
        pass
    sync(journal_root(), store)
    runs = all_runs(store)
    assert set(runs) == {"plugin", "rank"}
    assert runs["rank"].data.tags["mlflow.parentRunId"] == plugin


def test_changed_parameter_is_refused_by_name_and_the_rest_arrives(store: Track, place: Path) -> None:
    with open_tracker(params_for(journalled(store)), "rank", SAME) as tracker:
        tracker.log_params({"a": 1})
        tracker.log_params({"a": 2})
        tracker.set_tags({"after": "yes"})
    report = sync(journal_root(), store)
    assert report.complete
    assert len(report.refused) == 1 and "params" in report.refused[0]
    run = all_runs(store)["rank"]
    assert run.data.params["a"] == "1" and run.data.tags["after"] == "yes"


def test_unknown_and_orphaned_events_do_not_block_the_queue(store: Track, place: Path) -> None:
    journal = Journal(journal_root() / "key" / "rank-1.jsonl")
    journal.append("tags", tags={"a": "b"})
    journal.append("novelty")
    journal.close()
    report = sync(journal_root(), store)
    assert report.complete and len(report.refused) == 2


def test_server_away_leaves_everything_and_says_so(place: Path) -> None:
    track = Track(uri=f"http://127.0.0.1:{free_port()}", timeout_s=2, system_metrics=False)
    write_run(track, place)
    started = time.monotonic()
    report = sync(journal_root(), track)
    assert time.monotonic() - started < 10
    assert not report.complete and report.pending > 0
    assert "does not answer" in report.trouble and track.uri in str(report)


def test_nothing_to_send_needs_no_server(place: Path) -> None:
    track = Track(uri=f"http://127.0.0.1:{free_port()}")
    assert sync(journal_root(), track).complete


def test_killed_stage_is_shown_as_killed_and_continued_in_the_same_run(store: Track, place: Path) -> None:
    code = (
        "import os, signal\n"
        "from graftgan.params import resolve\n"
        "from graftgan.identity import RunIdentity\n"
        "from graftgan.tracker import open_tracker\n"
        "params = resolve({'track': {'mode': 'journal', 'system_metrics': False}}, 'x')\n"
        "with open_tracker(params, 'rank', RunIdentity('key', 'name', 'explicit')) as tracker:\n"
        "    tracker.log_metrics({'loss': 1.0}, 100)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    (path,) = journals(journal_root())
    with path.open("ab") as file:
        file.write(b'{"id": "cut')
    assert sync(journal_root(), store).complete
    assert all_runs(store)["rank"].info.status == "KILLED"
    with open_tracker(params_for(journalled(store)), "rank", SAME) as tracker:
        tracker.log_metrics({"loss": 1.0}, 100)
        tracker.log_metrics({"loss": 0.5}, 200)
    assert sync(journal_root(), store).complete
    run = all_runs(store)["rank"]
    assert run.info.status == "FINISHED"
    history = MlflowClient(store.uri).get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in history] == [100, 200]


def test_running_stage_is_shown_as_running(store: Track, place: Path) -> None:
    with open_tracker(params_for(journalled(store)), "rank", SAME) as tracker:
        tracker.log_metrics({"loss": 1.0}, 100)
        sync(journal_root(), store)
        assert {run.info.status for run in all_runs(store).values()} == {"RUNNING"}
    sync(journal_root(), store)
    assert {run.info.status for run in all_runs(store).values()} == {"FINISHED"}


def test_half_sent_run_starts_again_on_another_server(store: Track, place: Path, empty_store: Path) -> None:
    import shutil

    shutil.copy(empty_store, place / "other.db")
    other = store.model_copy(update={"uri": f"sqlite:///{place / 'other.db'}"})
    with open_tracker(params_for(journalled(store)), "rank", SAME) as tracker:
        tracker.log_metrics({"loss": 1.0}, 100)
        sync(journal_root(), store)
        tracker.log_metrics({"loss": 0.5}, 200)
    assert sync(journal_root(), other).complete
    run = all_runs(other)["rank"]
    history = MlflowClient(other.uri).get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in history] == [100, 200]
    write_run(store, place)
    sync(journal_root(), store)
    assert sync(journal_root(), other).events == 0, "what arrived whole is not sent elsewhere"


def _sync_in_child(folder: str, track: str, home: str) -> None:
    os.environ["GRAFTGAN_HOME"] = home
    report = sync(Path(folder), Track.model_validate_json(track))
    assert report.complete, str(report)


def test_parallel_first_use_of_a_new_local_store(place: Path) -> None:
    track = Track(
        uri=f"sqlite:///{place / 'new' / 'mlflow.db'}",
        artifacts=str(place / "new" / "artifacts"),
        timeout_s=60,
        system_metrics=False,
    )
    for stage in ("prepare", "rank", "report"):
        with open_tracker(params_for(journalled(track)), stage, SAME) as tracker:
            tracker.log_metrics({"loss": 1.0}, 100)
    spawn = multiprocessing.get_context("spawn")
    arguments = (str(journal_root()), track.model_dump_json(), os.environ["GRAFTGAN_HOME"])
    children = [spawn.Process(target=_sync_in_child, args=arguments) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert set(all_runs(track)) == {"name", "prepare", "rank", "report"}


def test_registry_is_there_only_in_live_mode_with_a_server(
    store: Track, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = params_for(journalled(store))
    with open_tracker(params, "rank", SAME) as tracker:
        assert open_registry(params, tracker) is None
        away = params_for(store.model_copy(update={"uri": f"http://127.0.0.1:{free_port()}"}))
        assert open_registry(away, tracker) is None
        assert "no model registry" in caplog.text
        registry = open_registry(params_for(store), tracker)
        assert registry is not None and registry.available()


def test_live_mode_without_the_client_is_journalled(store: Track, place: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['mlflow'] = None\n"
        "from graftgan.params import resolve\n"
        "from graftgan.follower import drain\n"
        "from graftgan.identity import RunIdentity\n"
        "from graftgan.tracker import open_registry, open_tracker\n"
        "params = resolve({'track': {'uri': sys.argv[1]}}, 'x')\n"
        "with open_tracker(params, 'rank', RunIdentity('key', 'name', 'explicit')) as tracker:\n"
        "    assert open_registry(params, tracker) is None\n"
        "drain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, store.uri], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("mlflow is not installed") == 2
    assert len(journals(journal_root())) == 1


def test_deleted_experiment_is_named_with_the_remedy(store: Track, place: Path) -> None:
    connection = Connection(store)
    connection.client.delete_experiment(connection.experiment(store.experiment))
    write_run(store, place)
    report = sync(journal_root(), store)
    assert not report.complete and "is deleted" in report.trouble and "track.experiment" in report.trouble


def test_journal_without_a_start_has_no_run(store: Track, place: Path) -> None:
    journal = Journal(place / "rank-1.jsonl")
    journal.append("tags", tags={"a": "b"})
    sender = Sender(journal.path, Connection(store))
    with pytest.raises(TryAgain, match="holds no run"):
        sender.run_id()


def test_server_words_are_sorted_into_refusals_and_trouble(store: Track) -> None:
    connection = Connection(store)
    with pytest.raises(RefusedError):
        connection.set_tags("0" * 32, {"a": "b"})
    assert not list(read_events(Path("none"))) and pending_bytes(Path("none")) == 0
