"""Local stores that another process has locked, for real: nobody goes on without the lock, nothing lost."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock
from mlflow import MlflowClient

from graftgan.config import Track
from graftgan.context import Context, Registry, Tracker
from graftgan.contract import digest_path
from graftgan.errors import TryAgain
from graftgan.follower import drain, reachable
from graftgan.identity import RunIdentity
from graftgan.journal import CHAMPION, KEY_TAG, journals, pending_bytes, read_marker
from graftgan.local_store import database_file, held, knock, make_tables, unfinished_database
from graftgan.stages.register import Candidate, Decision, Verdict, settle
from graftgan.sync import Sender, sync
from graftgan.tracker import journal_root, open_registry, open_tracker
from graftgan.tracking import Connection
from tracking.support import free_port, params_for
from tracking.test_sync import all_runs, journalled
from tracking.test_versions import package

SAME = RunIdentity("key", "name", "explicit")
# Far less than what MLflow (20 s a call, 100 s to open) or a lock (for ever) would wait.
MOST_S = 15.0


@pytest.fixture
def hasty(store: Track) -> Track:
    return store.model_copy(update={"timeout_s": 0.5})


@contextmanager
def locked(track: Track) -> Iterator[None]:
    """Hold the database as a writer does that is just about to write."""
    database = database_file(track.uri)
    assert database
    line = sqlite3.connect(database, isolation_level=None)
    line.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        line.execute("ROLLBACK")
        line.close()


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def write_run(track: Track) -> Path:
    with open_tracker(params_for(journalled(track)), "rank", SAME) as tracker:
        tracker.log_metrics({"loss": 1.0}, 100)
    (path,) = journals(journal_root())
    return path


def settled(registry: Registry | None, tracker: Tracker, folder: Path, place: Path) -> Decision:
    """Let the register stage decide about a package; no other model is there to compare it with."""
    ctx = Context(place / "state", place / "cache", tracker=tracker, registry=registry)
    candidate = Candidate("rooms", "enforce", folder, digest_path(folder), {"graftgan.family": "x"})
    return settle(candidate, lambda _: Verdict(CHAMPION, "it is the first model of this name"), ctx)


@pytest.mark.parametrize("lock", ["mlflow.db.lock", ".runs.lock", "database"])
def test_what_another_process_has_locked_keeps_the_journal_and_is_sent_later(
    hasty: Track, place: Path, lock: str
) -> None:
    path = write_run(hasty)
    with locked(hasty) if lock == "database" else FileLock(place / lock), at_most(MOST_S):
        report = sync(journal_root(), hasty)
    assert not report.complete and report.events == 0
    assert report.pending == pending_bytes(path) > 0
    assert ("database is locked" if lock == "database" else lock) in report.trouble
    assert "graftgan sync" in report.trouble
    assert sync(journal_root(), hasty).complete
    runs = all_runs(hasty)
    assert set(runs) == {"name", "rank"} and runs["rank"].info.status == "FINISHED"


def test_a_journal_that_another_process_sends_is_left_to_it(hasty: Track) -> None:
    path = write_run(hasty)
    with FileLock(path.with_suffix(".sending")), at_most(MOST_S):
        report = sync(journal_root(), hasty)
    assert not report.complete and "rank-1.sending" in report.trouble
    assert sync(journal_root(), hasty).complete


def test_the_run_of_a_journal_is_known_while_another_process_sends_it(hasty: Track) -> None:
    path = write_run(hasty)
    assert sync(journal_root(), hasty).complete
    with FileLock(path.with_suffix(".sending")):
        assert Sender(path, Connection(hasty)).run_id() == read_marker(path).run_id


@pytest.mark.parametrize("locked_before", [True, False])
def test_a_model_waits_for_a_locked_store_in_the_journal(
    hasty: Track, place: Path, monkeypatch: pytest.MonkeyPatch, locked_before: bool
) -> None:
    monkeypatch.setattr("graftgan.tracker.follow", lambda *_: None)
    folder = package(place, 1, 0.3)
    params = params_for(hasty)
    with open_tracker(params, "register", SAME) as tracker:
        if locked_before:
            with locked(hasty), at_most(MOST_S):
                registry = open_registry(params, tracker)
                decision = settled(registry, tracker, folder, place)
            assert registry is None
        else:
            registry = open_registry(params, tracker)
            with locked(hasty), at_most(MOST_S):
                decision = settled(registry, tracker, folder, place)
            assert registry is not None and "database is locked" in decision.reason
    assert (decision.alias, decision.applied, decision.version) == ("", False, "")
    assert "`graftgan sync` registers it later" in decision.reason
    (path,) = journals(journal_root())
    (copy,) = path.with_suffix(".artifacts").glob("*/*")
    assert digest_path(copy) == digest_path(folder) and pending_bytes(path) > 0
    client = MlflowClient(hasty.uri, hasty.uri)
    assert client.search_registered_models() == []
    report = sync(journal_root(), hasty)
    assert report.complete and report.refused == (), str(report)
    (version,) = client.search_model_versions("name = 'rooms'")
    assert client.get_model_version_by_alias("rooms", CHAMPION).version == version.version
    assert version.tags[KEY_TAG] == digest_path(folder)


def test_drain_leaves_what_a_locked_store_does_not_take(
    hasty: Track, caplog: pytest.LogCaptureFixture
) -> None:
    with locked(hasty):
        with open_tracker(params_for(hasty), "rank", SAME) as tracker:
            tracker.log_metrics({"loss": 1.0}, 100)
        with at_most(60):
            assert not drain()
    assert caplog.text.count("graftgan sync") == 1
    log = (journal_root() / "key" / "follower.log").read_text()
    assert "Traceback" not in log
    assert sync(journal_root(), hasty).complete
    assert all_runs(hasty)["rank"].info.status == "FINISHED"


def test_a_lock_is_waited_for_while_its_holder_gets_on(tmp_path: Path) -> None:
    lock, sign = tmp_path / "x.lock", tmp_path / "sign"
    taken, over = threading.Event(), threading.Event()

    def work() -> None:
        with FileLock(lock):
            taken.set()
            for turn in range(12):
                sign.write_text(str(turn))
                time.sleep(0.25)
            over.set()

    thread = threading.Thread(target=work)
    thread.start()
    taken.wait()
    with held(lock, 1.5, sign):
        assert over.is_set(), "the lock was to be waited for"
    thread.join()


def test_a_lock_that_cannot_be_made_is_waited_for_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TryAgain, match="cannot be locked"), held(tmp_path / "file" / "x.lock", 0.1):
        raise AssertionError("nobody works without the lock")


def test_a_trouble_inside_the_block_is_no_trouble_of_the_lock(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mine"), held(tmp_path / "x.lock", 0.1):
        raise FileNotFoundError("mine")
    with held(tmp_path / "x.lock", 0.1):
        pass


def test_what_is_no_database_does_not_stop_a_stage(place: Path) -> None:
    track = Track(uri=f"sqlite:///{place / 'mlflow.db'}", artifacts=str(place / "artifacts"), timeout_s=0.5)
    path = write_run(track)
    (place / "mlflow.db").write_text("a letter to the editor, which is long enough to be looked at" * 20)
    with at_most(MOST_S):
        assert "not a database" in sync(journal_root(), track).trouble
    (place / "mlflow.db").unlink()
    (place / "mlflow.db").mkdir()
    with at_most(MOST_S):
        assert "unable to open" in sync(journal_root(), track).trouble
    assert pending_bytes(path) > 0


def test_a_database_server_that_is_away_costs_the_timeout_only(place: Path) -> None:
    track = Track(uri=f"postgresql://me:s3cr3t@127.0.0.1:{free_port()}/mlflow", timeout_s=0.5)
    with at_most(MOST_S), pytest.raises(TryAgain, match="does not answer") as error:
        Connection(track)
    assert "s3cr3t" not in str(error.value)
    assert reachable("postgresql:///mlflow", 0.5), "a socket file is not looked for"
    assert reachable("mssql+pyodbc://name-of-a-source", 0.5)


def test_a_knock_makes_no_database_and_takes_no_lock(hasty: Track, tmp_path: Path) -> None:
    with pytest.raises(TryAgain, match="unable to open"):
        knock(tmp_path / "none.db", 0.1)
    assert not (tmp_path / "none.db").exists()
    database = database_file(hasty.uri)
    assert database
    knock(database, 0.1)
    with locked(hasty):
        assert not reachable(hasty.uri, 0.1)
    assert reachable(hasty.uri, 0.1)


def test_new_stores_of_two_working_folders_have_tables_each(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (place / name).mkdir()
        monkeypatch.chdir(place / name)
        made: list[str] = []
        make_tables(Path("mlflow.db"), lambda uri, made=made: made.append(uri) or connect(uri).close())
        assert made == [f"sqlite:///{place / name / 'mlflow.db.new'}"]
        assert [p.name for p in (place / name).iterdir()] == ["mlflow.db"]


def connect(uri: str) -> sqlite3.Connection:
    line = sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)
    line.execute("CREATE TABLE a (b)")
    return line


def test_tables_cut_short_leave_no_broken_database(tmp_path: Path, empty_store: Path) -> None:
    database = tmp_path / "a b" / "mlflow.db"
    database.parent.mkdir()
    code = (
        "import os, signal, sqlite3, sys\n"
        "from pathlib import Path\n"
        "from graftgan.local_store import make_tables\n"
        "def make(uri):\n"
        "    line = sqlite3.connect(uri.removeprefix('sqlite:///'), isolation_level=None)\n"
        "    line.execute('CREATE TABLE _alembic_tmp_metrics (a)')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "make_tables(Path(sys.argv[1]), make)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(database)], check=False).returncode == -9
    assert unfinished_database(database).exists() and not database.exists()

    def make(uri: str) -> None:
        assert not Path(uri.removeprefix("sqlite:///")).exists(), "the rest was to be thrown away"
        shutil.copy(empty_store, uri.removeprefix("sqlite:///"))

    make_tables(database, make)
    assert [p.name for p in database.parent.iterdir()] == ["mlflow.db"]
    assert Connection(Track(uri=f"sqlite:///{database}", artifacts=str(tmp_path / "artifacts"))).client
    make_tables(database, lambda uri: pytest.fail("it is there"))


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:///.graftgan/mlflow.db", ".graftgan/mlflow.db"),
        ("sqlite:////tmp/a.db?timeout=3", "/tmp/a.db"),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
        ("postgresql://u@h/db", None),
        ("https://host", None),
    ],
)
def test_the_file_of_a_store(uri: str, path: str | None) -> None:
    assert database_file(uri) == (Path(path) if path else None)
