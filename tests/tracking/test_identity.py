from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from graftgan.identity import git_revision, resolve_identity, safe_name
from graftgan.params import resolve

EVERYTHING = {
    "GRAFTGAN_RUN_ID": "mine",
    "MLFLOW_RUN_ID": "a" * 32,
    "KFP_RUN_ID": "1f-2e",
    "DVC_EXP_NAME": "puny-ape",
    "DVC_EXP_BASELINE_REV": "0123456789abcdef",
}


@pytest.mark.parametrize(
    ("missing", "origin", "key"),
    [
        ((), "explicit", "mine"),
        (("GRAFTGAN_RUN_ID",), "mlflow", "a" * 32),
        (("GRAFTGAN_RUN_ID", "MLFLOW_RUN_ID"), "kfp", "1f-2e"),
        (("GRAFTGAN_RUN_ID", "MLFLOW_RUN_ID", "KFP_RUN_ID"), "dvc", "puny-ape-0123456789ab"),
    ],
)
def test_first_match_wins(place: Path, missing: tuple[str, ...], origin: str, key: str) -> None:
    environ = {name: value for name, value in EVERYTHING.items() if name not in missing}
    identity = resolve_identity(resolve({}, "test"), environ)
    assert (identity.origin, identity.key) == (origin, key)
    assert identity.parent_id == ("a" * 32 if origin == "mlflow" else "")
    assert identity.kfp_run == ("1f-2e" if origin in ("mlflow", "kfp") else "")


def test_content_identity_follows_parameters_and_images_alone(place: Path) -> None:
    images = place / "set.zip"
    images.write_bytes(b"one")

    def key(**sections: object) -> str:
        return resolve_identity(resolve({"data": {"path": str(images)}, **sections}, "test"), {}).key

    first = key()
    assert key() == first
    assert key(track={"mode": "off"}, runtime={"threads": 3}) == first
    assert key(evaluate={"seed": 1}) != first
    images.write_bytes(b"other")
    assert key() != first
    images.unlink()
    assert key() != first


def test_names_become_file_names_without_falling_together() -> None:
    assert safe_name("run_1.a") == "run_1.a"
    names = {safe_name(text) for text in ("a/b", "a:b", "../a-b", "a-b", "x" * 200, "x" * 201)}
    assert len(names) == 6
    assert all("/" not in name and not name.startswith(".") and len(name) < 100 for name in names)


def test_git_revision_tells_a_changed_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_revision({}) == ""
    assert git_revision({"GRAFTGAN_GIT_REVISION": "abc"}) == "abc"
    (tmp_path / "file").write_text("1")
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "file"], [*author, "commit", "-qm", "x"]):
        subprocess.run(["git", *arguments], check=True, cwd=tmp_path)
    head = git_revision({})
    assert len(head) == 40
    (tmp_path / "file").write_text("2")
    assert git_revision({}) == f"{head}-dirty"
