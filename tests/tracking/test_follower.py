"""The follower against real local stores, a real server that is killed, closed ports and silent hosts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from graftgan import follower
from graftgan.config import Track
from graftgan.errors import ConfigError
from graftgan.follower import check_uri, drain, located, reachable
from graftgan.identity import RunIdentity
from graftgan.journal import journals, pending_bytes
from graftgan.sync import sync
from graftgan.tracker import journal_root, open_registry, open_tracker
from graftgan.tracking import Connection
from graftgan.tracking_check import find_obstacle
from tracking.support import Server, free_port, params_for, server_on
from tracking.test_sync import all_runs

SAME = RunIdentity("key", "name", "explicit")
SLACK_S = 16.0


@pytest.fixture
def server(place: Path, empty_store: Path) -> Iterator[Server]:
    with server_on(place / "server", empty_store) as running:
        yield running


def wait_until_sent(path: Path, patience_s: float = 60) -> None:
    deadline = time.monotonic() + patience_s
    while pending_bytes(path):
        assert time.monotonic() < deadline, (path.parent / "follower.log").read_text()
        time.sleep(0.1)


def test_live_runs_arrive_in_a_local_store_by_one_follower(
    store: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client itself would join any run named here.
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    for stage in ("prepare", "rank"):
        with open_tracker(params_for(store), stage, SAME) as tracker:
            tracker.log_metrics({"recall": 0.5})
        assert len(follower._followers) == 1
    assert drain()
    assert follower._followers == {}
    assert set(all_runs(store)) == {"name", "prepare", "rank"}
    assert drain(), "nothing is left to drain"


def test_process_that_forgets_to_drain_drains_at_its_end(store: Track, place: Path) -> None:
    code = (
        "import sys\n"
        "from graftgan.params import resolve\n"
        "from graftgan.identity import RunIdentity\n"
        "from graftgan.tracker import open_tracker\n"
        "params = resolve({'track': {'uri': sys.argv[1]}}, 'x')\n"
        "with open_tracker(params, 'rank', RunIdentity('key', 'name', 'explicit')) as tracker:\n"
        "    tracker.log_metrics({'recall': 0.5})\n"
    )
    subprocess.run([sys.executable, "-c", code, store.uri], check=True)
    assert all_runs(store)["rank"].data.metrics["recall"] == 0.5


def test_closed_port_costs_no_stage_more_than_the_timeout(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = params_for(Track(uri=f"http://127.0.0.1:{free_port()}", timeout_s=2, system_metrics=False))
    started = time.monotonic()
    with open_tracker(params, "rank", SAME) as tracker:
        for step in range(100):
            tracker.log_metrics({"loss": 1.0}, step)
        assert open_registry(params, tracker) is None
    assert time.monotonic() - started < 5, "the stage itself must not wait"
    assert not drain()
    assert time.monotonic() - started < 2 + SLACK_S
    assert caplog.text.count("graftgan sync") == 1


def test_host_that_takes_connections_and_says_nothing_is_given_up(place: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        params = params_for(
            Track(uri=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=1, system_metrics=False)
        )
        started = time.monotonic()
        with open_tracker(params, "rank", SAME) as tracker:
            tracker.log_metrics({"loss": 1.0}, 1)
        assert not drain()
        assert time.monotonic() - started < 1 + SLACK_S + 5


def test_server_killed_in_the_middle_and_synced_later(
    server: Server, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    track = Track(uri=server.uri, timeout_s=3, system_metrics=False)
    (place / "sheet.png").write_bytes(b"png")
    with open_tracker(params_for(track), "rank", SAME) as tracker:
        (path,) = journals(journal_root())
        for step in range(1, 20):
            tracker.log_metrics({"loss": 1 / step}, step)
        wait_until_sent(path)
        assert find_obstacle(track) is None
        server.kill()
        started = time.monotonic()
        for step in range(20, 40):
            tracker.log_metrics({"loss": 1 / step}, step)
        tracker.log_artifact(place / "sheet.png", "pictures")
        assert time.monotonic() - started < 2
    started = time.monotonic()
    assert not drain()
    assert time.monotonic() - started < 3 + SLACK_S
    assert caplog.text.count("graftgan sync") == 1
    assert not sync(journal_root(), track).complete

    server.start()
    report = sync(journal_root(), track)
    assert report.complete and report.refused == (), str(report)
    assert sync(journal_root(), track).events == 0
    run = all_runs(track)["rank"]
    client = MlflowClient(server.uri)
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(s, 1 / s) for s in range(1, 40)]
    assert run.info.status == "FINISHED"
    fetched = client.download_artifacts(run.info.run_id, "pictures/sheet.png", str(place))
    assert Path(fetched).read_bytes() == b"png"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")


def test_follower_outlives_a_killed_stage_and_reports_it(store: Track, place: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from graftgan.params import resolve\n"
        "from graftgan.identity import RunIdentity\n"
        "from graftgan.tracker import open_tracker\n"
        "params = resolve({'track': {'uri': sys.argv[1]}}, 'x')\n"
        "with open_tracker(params, 'rank', RunIdentity('key', 'name', 'explicit')) as tracker:\n"
        "    tracker.log_metrics({'recall': 0.5})\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, store.uri], check=False)
    assert done.returncode == -signal.SIGKILL
    (path,) = journals(journal_root())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not pending_bytes(path) and not follower.read_marker(path).open:
            break
        time.sleep(0.2)
    run = all_runs(store)["rank"]
    assert run.data.metrics["recall"] == 0.5
    assert run.info.status == "KILLED"


def test_reachable_keeps_to_its_time() -> None:
    assert reachable("sqlite:///x.db", 1)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert reachable(f"http://127.0.0.1:{listener.getsockname()[1]}", 2)
    started = time.monotonic()
    assert not reachable(f"http://127.0.0.1:{free_port()}", 1)
    assert not reachable("http://name.invalid", 1)
    assert time.monotonic() - started < 4


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "/tmp/mlruns", "file:///tmp/mlruns", "C:\\mlruns"])
def test_folder_addresses_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"track\.uri"):
        check_uri(uri)


@pytest.mark.parametrize("uri", ["sqlite:///a.db", "http://host:5000", "https://host", "postgresql://u@h/db"])
def test_real_addresses_are_taken(uri: str) -> None:
    check_uri(uri)


def test_the_default_address_gives_way_to_the_environment() -> None:
    given = {"MLFLOW_TRACKING_URI": "http://server:5000"}
    assert located(Track(), given).uri == "http://server:5000"
    assert located(Track(timeout_s=9), given) == Track(timeout_s=9, uri="http://server:5000")
    assert located(Track(uri="http://chosen"), given).uri == "http://chosen"
    assert located(Track(), {}) == located(Track(), {"MLFLOW_TRACKING_URI": ""}) == Track()


def test_a_connection_leaves_the_address_in_the_environment_alone(
    store: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Connection(store)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://the-user-s")
    Connection(store)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://the-user-s"


def test_live_runs_go_where_the_environment_says(store: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    with open_tracker(params_for(Track(system_metrics=False)), "rank", SAME) as tracker:
        tracker.log_metrics({"recall": 0.5})
    assert drain()
    assert all_runs(store)["rank"].data.metrics["recall"] == 0.5
