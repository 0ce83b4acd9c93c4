"""What `graftgan doctor` finds out about real files and real, if simple, servers."""

from __future__ import annotations

import base64
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from graftgan.config import Track
from graftgan.tracking_check import Obstacle, find_obstacle
from tracking.support import free_port

Replies = dict[str, tuple[int, bytes]]


@contextmanager
def web(replies: Replies, seen: list[tuple[str, str]], to: str = "") -> Iterator[str]:
    """A server that answers 404 to all it has no reply for, and notes paths and credentials."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("Authorization", "")))
            status, body = replies.get(self.path, (404, b"nothing here"))
            self.send_response(status)
            if to:
                self.send_header("Location", to)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("MLFLOW_TRACKING_") or n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def obstacle(uri: str, **more: object) -> Obstacle:
    found = find_obstacle(Track(timeout_s=5).model_copy(update={"uri": uri, **more}))
    assert found is not None and found.remedy
    return found


@pytest.mark.parametrize(
    ("prefix", "replies"),
    [
        ("", {"/health": (200, b"OK")}),
        ("", {"/version": (200, b"3.17.2\n")}),
        ("/ml", {"/ml/health": (200, b"OK")}),
    ],
)
def test_what_answers_as_mlflow_is_taken(prefix: str, replies: Replies) -> None:
    with web(replies, []) as address:
        assert find_obstacle(Track(uri=f"{address}{prefix}/", timeout_s=5)) is None


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        ({}, "/health: 404, /version: 404"),
        (
            {"/health": (200, b"<html>OK</html>"), "/version": (200, b"welcome")},
            "/health: 200, /version: 200",
        ),
        ({"/health": (500, b"OK")}, "/health: 500, /version: 404"),
    ],
)
def test_another_service_is_told_apart(replies: Replies, said: str) -> None:
    with web(replies, []) as address:
        found = obstacle(address)
    assert found.text.startswith(f"{address} does not answer as MLflow does ({said})")
    assert "track.uri" in found.remedy


def test_a_redirect_is_not_followed() -> None:
    seen: list[tuple[str, str]] = []
    with web({"/health": (200, b"OK")}, seen) as goal:
        moved = {"/health": (302, b""), "/version": (302, b"")}
        with web(moved, [], f"{goal}/health") as address:
            assert "/health: 302, /version: 302" in obstacle(address).text
    assert seen == []


def test_a_server_that_lets_nobody_in_names_the_credentials() -> None:
    with web({"/health": (401, b""), "/version": (403, b"")}, []) as address:
        assert "MLFLOW_TRACKING_TOKEN" in obstacle(address).remedy


def test_credentials_are_sent_and_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []
    with web({}, seen) as address:
        text = str(obstacle(address.replace("://", "://me:s3cr3t@")))
        assert "s3cr3t" not in text and address in text
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0k3n")
        assert "t0k3n" not in str(obstacle(address))
    basic = "Basic " + base64.b64encode(b"me:s3cr3t").decode()
    assert seen == [("/health", basic), ("/version", basic)] + [
        (path, "Bearer t0k3n") for path in ("/health", "/version")
    ]


def test_a_listener_that_speaks_no_http_is_told_apart() -> None:
    with web({}, []) as address:
        found = obstacle(address.replace("http:", "https:"))
    assert "does not answer as MLflow does" in found.text and "scheme" in found.remedy


def test_a_server_that_is_away_is_named() -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    assert obstacle(uri, timeout_s=1.0).text.startswith(f"{uri} does not answer within 1 s")


def test_a_store_that_can_be_made_or_written_is_taken_and_nothing_is_made(
    tmp_path: Path, empty_store: Path
) -> None:
    track = Track(uri=f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}", artifacts=str(tmp_path / "new" / "a"))
    assert find_obstacle(track) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "new").mkdir()
    shutil.copy(empty_store, tmp_path / "new" / "mlflow.db")
    assert find_obstacle(track) is None
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["mlflow.db"]


def _file_for_folder(place: Path) -> None:
    (place / "store").write_text("")


def _file_for_artifacts(place: Path) -> None:
    (place / "store").mkdir()
    (place / "store" / "artifacts").write_text("")


def _folder_for_database(place: Path) -> None:
    (place / "store" / "mlflow.db").mkdir(parents=True)


def _letter_for_database(place: Path) -> None:
    (place / "store").mkdir()
    (place / "store" / "mlflow.db").write_text("Dear editor, this is not a database.")


@pytest.mark.parametrize(
    ("arrange", "said"),
    [
        (_file_for_folder, "store is no folder"),
        (_file_for_artifacts, "artifacts is no folder"),
        (_folder_for_database, "mlflow.db is no file"),
        (_letter_for_database, "mlflow.db is no SQLite database"),
    ],
)
def test_a_place_that_cannot_be_used_is_named(
    tmp_path: Path, arrange: Callable[[Path], None], said: str
) -> None:
    arrange(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = obstacle(f"sqlite:///{tmp_path}/store/mlflow.db", artifacts=str(tmp_path / "store" / "artifacts"))
    assert said in found.text and "journalled" in found.text
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("which", ["store", "artifacts"])
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path, which: str) -> None:
    for name in ("store", "artifacts"):
        (tmp_path / name).mkdir()
    (tmp_path / which).chmod(0o500)
    try:
        found = obstacle(f"sqlite:///{tmp_path}/store/mlflow.db", artifacts=str(tmp_path / "artifacts" / "a"))
    finally:
        (tmp_path / which).chmod(0o700)
    assert f"{which} may not be written" in found.text
