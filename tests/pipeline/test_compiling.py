"""How containers are held, and which engines are refused; `test_image.py` runs them on a real one."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kfp.local import DockerRunner

from graftgan.errors import ConfigError
from pipelines import base, compiling, lifelong, transfer
from pipelines.profiles import USER

ROOT = Path(__file__).parents[2]


@contextmanager
def engine(component: str) -> Iterator[str]:
    """Answer as an engine does that is asked for its version; a test double, it runs nothing."""
    told = {"ApiVersion": "1.41", "Version": "4.3.1", "Components": [{"Name": component}]}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_kfp_takes_every_bound_of_a_container() -> None:
    bounds = compiling.hardening()
    assert DockerRunner(**bounds).container_run_args == bounds
    assert bounds["user"] == f"{os.getuid() or USER}:0" and not bounds["user"].startswith("0:")
    assert (bounds["read_only"], bounds["network_mode"], bounds["cap_drop"]) == (True, "none", ["ALL"])
    assert set(bounds["tmpfs"]) == {"/tmp", "/home/graftgan"}
    assert bounds["environment"]["GRAFTGAN_HOME"].startswith("/home/graftgan/")


def test_podman_is_refused_for_kfp_takes_failed_tasks_there_for_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine("Podman Engine") as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        with pytest.raises(ConfigError, match="podman answers"):
            compiling.run(base.compiled_path("transfer"), {}, tmp_path / "root", docker=True)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("pipeline", [transfer, lifelong], ids=lambda module: module.__name__)
def test_without_an_engine_the_command_says_so(
    pipeline: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    params = ROOT / ("params.yaml" if pipeline is transfer else "lifelong/params.yaml")
    words = ["run", "--docker", "--params", str(params), "--root", str(tmp_path / "root")]
    assert pipeline.main(words) == 2  # type: ignore[attr-defined]
    error = capsys.readouterr().err
    assert "no Docker Engine answers" in error and "DOCKER_HOST" in error


def test_a_list_of_tasks_that_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lifelong.main(["config", "--params", str(tmp_path / "none.yaml")]) == 4
    assert "none.yaml" in capsys.readouterr().err


def test_what_is_made_for_containers_is_so_only_while_they_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o022)
    try:
        with engine("Engine") as address:
            monkeypatch.setenv("DOCKER_HOST", address)
            with pytest.raises(FileNotFoundError):
                compiling.run(tmp_path / "none.yaml", {}, tmp_path / "root", docker=True)
        assert os.umask(0o022) == 0o022
        assert (tmp_path / "root").stat().st_mode & 0o070 == 0o070
    finally:
        os.umask(before)
