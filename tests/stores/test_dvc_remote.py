"""`dvc push` and `dvc pull` with the object store as remote; credentials in the environment only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graftgan.contract import digest_path
from stores.services import Seaweed


@pytest.fixture
def repository(bucket: Seaweed, tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "images").mkdir(parents=True)
    for number in range(30):
        (root / "images" / f"{number}.bin").write_bytes(os.urandom(2000))
    run(root, "git", "init", "-q")
    dvc(root, "init", "-q")
    dvc(root, "remote", "add", "-d", "team", "s3://team/dvc")
    dvc(root, "add", "-q", "images")
    return root


def run(root: Path, *command: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    own = {
        "DVC_NO_ANALYTICS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(root.parent / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(root.parent / "system"),
        "DVC_SITE_CACHE_DIR": str(root.parent / "site"),
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    done = subprocess.run(
        command, cwd=root, env=os.environ | own | env, capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def dvc(root: Path, *arguments: str, **env: str) -> str:
    return run(root, sys.executable, "-m", "dvc", *arguments, **env).stdout


def test_what_was_pushed_is_pulled_on_another_machine(repository: Path, bucket: Seaweed) -> None:
    before = digest_path(repository / "images")
    dvc(repository, "push", "-q")
    assert len(bucket.keys("team", "dvc/")) == 31, "thirty files and their list"
    shutil.rmtree(repository / "images")
    shutil.rmtree(repository / ".dvc" / "cache")
    dvc(repository, "pull", "-q")
    assert digest_path(repository / "images") == before
    assert "in sync" in dvc(repository, "status", "-c")
    for path in repository.rglob("*"):
        if path.is_file():
            assert bucket.secret.encode() not in path.read_bytes(), path


def test_wrong_credentials_push_nothing(repository: Path, bucket: Seaweed) -> None:
    command = [sys.executable, "-m", "dvc", "push", "-q"]
    done = run(repository, *command, check=False, AWS_SECRET_ACCESS_KEY="wrong")
    assert done.returncode != 0 and "wrong" not in done.stdout + done.stderr
    assert bucket.keys("team", "dvc/") == []
