"""A database with its tables, places for a test's files, and a real MLflow server."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from ports import free_port

from graftgan.config import Params, Track
from graftgan.params import resolve
from graftgan.tracking import Connection


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    Connection(Track(uri=f"sqlite:///{folder / 'mlflow.db'}", artifacts=str(folder / "artifacts")))
    return folder / "mlflow.db"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own, with no identity in the environment."""
    for name in ("GRAFTGAN_RUN_ID", "MLFLOW_RUN_ID", "KFP_RUN_ID", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GRAFTGAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GRAFTGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GRAFTGAN_GIT_REVISION", "0123abc-dirty")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def store(place: Path, empty_store: Path) -> Track:
    """A local store whose tables exist."""
    shutil.copy(empty_store, place / "mlflow.db")
    return Track(
        uri=f"sqlite:///{place / 'mlflow.db'}", artifacts=str(place / "artifacts"), system_metrics=False
    )


def params_for(track: Track, **sections: dict[str, Any]) -> Params:
    return resolve({"track": track.model_dump(), **sections}, "test")


def run_as_documented(place: Path, example: str) -> dict[str, Any]:
    """Run an example where the default store lies, while MLflow itself would look elsewhere.

    Args:
        place: The working folder, with the store's `mlflow.db`.
        example: The very text.

    Returns:
        The names that it leaves behind.
    """
    # MLflow keeps a database open by its address, and a relative one is another file in every test.
    assert "sqlite:///.graftgan/" in example
    example = example.replace("sqlite:///.graftgan/", f"sqlite:///{place}/")
    mlflow.set_registry_uri(None)
    mlflow.set_tracking_uri(f"sqlite:///{place / 'elsewhere.db'}")
    names: dict[str, Any] = {}
    exec(example, names)
    return names


def python_examples(text: str) -> list[str]:
    """Return the blocks of Python in a Markdown text."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


class Server:
    """A real `mlflow server` on the loopback interface that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self.folder / "served")]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@contextmanager
def server_on(folder: Path, empty_store: Path) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_store, folder / "mlflow.db")
    server = Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
