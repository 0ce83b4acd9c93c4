from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import resource
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from graftgan import contract
from graftgan.contract import (
    Entry,
    Outcome,
    Result,
    atomic_path,
    digest_file,
    digest_path,
    digest_text,
    read_json,
)
from graftgan.errors import DataError, Interrupted, MissingInput, TryAgain


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_canonical_json_is_one_text_for_equal_values() -> None:
    assert contract.canonical_json({"b": [1, 2.5, None], "a": "ö"}) == '{"a":"ö","b":[1,2.5,null]}'
    with pytest.raises(ValueError, match="JSON compliant"):
        contract.canonical_json(float("nan"))


def test_digests_are_sha256(tmp_path: Path) -> None:
    content = os.urandom(contract.CHUNK_BYTES + 7)
    (tmp_path / "f").write_bytes(content)
    assert digest_file(tmp_path / "f") == digest_path(tmp_path / "f") == hashlib.sha256(content).hexdigest()
    assert digest_text("größe") == hashlib.sha256("größe".encode()).hexdigest()


def test_a_folder_digest_sees_names_places_and_contents_but_not_times(tmp_path: Path) -> None:
    def digest(files: dict[str, str]) -> str:
        folder = tmp_path / digest_text(str(sorted(files.items())))[:8]
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return digest_path(folder)

    sets = [{"a": "1", "b": "2"}, {"a": "2", "b": "1"}, {"a": "1", "c": "2"}, {"a": "1", "d/b": "2"},
            {"a": "1"}, {"a": "1", "b": "2", "e": ""}]  # fmt: skip
    assert len({digest(files) for files in sets}) == len(sets)
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / "b").write_text("2")
    (folder / "a").write_text("1")
    os.utime(folder / "a", (1, 1))
    assert digest_path(folder) == digest(sets[0])
    lines = [f"{name}\0{hashlib.sha256(text.encode()).hexdigest()}" for name, text in sets[0].items()]
    assert digest_path(folder) == digest_text("\n".join(lines))


def test_what_is_absent_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="absent does not exist"):
        digest_path(tmp_path / "absent")


def test_sizes_are_of_all_files_below(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "d" / "b").write_bytes(b"123")
    assert contract.size_bytes(tmp_path / "a") == 5
    assert contract.size_bytes(tmp_path) == 8


def test_a_file_takes_the_place_of_a_file(tmp_path: Path) -> None:
    target = tmp_path / "new" / "f.txt"
    for text in ("one", "two"):
        with atomic_path(target) as temporary:
            temporary.write_text(text)
            assert not target.exists() or target.read_text() == "one"
        assert target.read_text() == text
    assert tree(tmp_path) == {"new/f.txt": b"two"}


def test_a_folder_takes_the_place_of_a_folder_whole(tmp_path: Path) -> None:
    target = tmp_path / "set"
    for names in (("a", "b"), ("b", "c/d")):
        with atomic_path(target) as temporary:
            for name in names:
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).write_text(names[0])
        assert set(tree(target)) == set(names)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError(errno.EIO, "x"), KeyboardInterrupt(), SystemExit(3)]
)
def test_a_failing_block_leaves_everything_as_it_was(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(type(error)), atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("half")
        raise error
    assert tree(tmp_path) == {"set/old": b"old"}
    with pytest.raises(type(error)), atomic_path(tmp_path / "fresh") as temporary:
        temporary.write_text("half")
        raise error
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("behind", [False, True])
def test_a_signal_between_the_renames_of_a_folder_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, behind: bool
) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "f").write_text("old")
    real, count = Path.rename, 0

    def rename(self: Path, to: Path) -> Path:
        nonlocal count
        count += 1
        if count == at and not behind:
            raise Interrupted("stopped by SIGTERM")
        found = real(self, to)
        if count == at:
            raise Interrupted("stopped by SIGTERM")
        return found

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(Interrupted), atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "f").write_text("new")
    # Only behind the second rename the new one is there; nothing is left beside it.
    assert tree(tmp_path) == {"set/f": b"new" if (at, behind) == (2, True) else b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_what_cannot_be_put_back_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "f").write_text("old")
    real, count = Path.rename, 0

    def rename(self: Path, to: Path) -> Path:
        nonlocal count
        count += 1
        if count > 1:
            raise OSError(errno.EIO, "Input/output error")
        return real(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    logging.getLogger("graftgan").addHandler(caplog.handler)
    with pytest.raises(OSError, match="Input/output"), atomic_path(target) as temporary:
        temporary.mkdir()
    logging.getLogger("graftgan").removeHandler(caplog.handler)
    (left,) = tmp_path.glob(".set.*/old/f")
    assert left.read_text() == "old"
    assert str(left.parent) in caplog.text
    monkeypatch.undo()
    contract.put_back(tmp_path, "s*")
    assert (target / "f").read_text() == "old"


def test_a_block_that_writes_nothing_fails_and_keeps_the_old(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "f"):
        pass
    assert tree(tmp_path) == {"f": b"old"}


def test_a_killed_process_leaves_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    code = (
        "import os, signal, sys; from pathlib import Path; from graftgan.contract import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "f")], check=False)
    assert done.returncode == -9
    assert (tmp_path / "f").read_text() == "old"


@pytest.mark.parametrize("kind", ["link to a folder", "dangling link", "file"])
def test_a_folder_takes_the_place_of_links_and_files(tmp_path: Path, kind: str) -> None:
    target, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    if kind == "link to a folder":
        elsewhere.mkdir()
        (elsewhere / "kept").write_text("kept")
    if kind == "file":
        target.write_text("old")
    else:
        target.symlink_to(elsewhere)
    with atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
    assert not target.is_symlink()
    assert tree(target) == {"new": b"new"}
    assert not elsewhere.exists() or tree(elsewhere) == {"kept": b"kept"}


def test_new_files_have_the_modes_that_the_umask_gives(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    contract.write_text(tmp_path / "atomic", "")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")}
    assert len(modes) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_means_try_again_and_leaves_nothing(small_disk: Path) -> None:
    target = small_disk / "f"
    contract.write_text(target, "old")
    with pytest.raises(TryAgain, match=r"no space left on the disk of .*disk/f") as caught:
        contract.write_text(target, "x" * 100_000)
    assert caught.value.exit_code == 75
    assert "free some space" in caught.value.remedy
    assert tree(small_disk) == {"f": b"old"}
    contract.write_text(target, "new")
    assert target.read_text() == "new"


def test_a_full_disk_is_recognised_in_the_words_of_other_libraries(small_disk: Path) -> None:
    import torch
    from safetensors.torch import save_file

    with pytest.raises(TryAgain), atomic_path(small_disk / "w.safetensors") as temporary:
        save_file({"w": torch.zeros(50_000)}, temporary)
    assert tree(small_disk) == {}


def test_a_file_size_limit_means_try_again(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(TryAgain):
            contract.write_text(tmp_path / "f", "x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "x"), True), (OSError(errno.EDQUOT, "x"), True),
        (OSError(errno.EACCES, "x"), False),
        (OSError("No space left on device (os error 28)"), True),
        (RuntimeError("No space left on device"), True),
        (RuntimeError("no"), False), (DataError("No space left on device"), False),
    ],
)  # fmt: skip
def test_which_errors_mean_a_full_disk(error: Exception, full: bool) -> None:
    assert contract.disk_is_full(error) is full


def test_json_is_sorted_indented_and_refuses_what_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    contract.write_json(path, {"b": 1, "a": "ö"})
    assert path.read_bytes() == '{\n  "a": "ö",\n  "b": 1\n}\n'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        contract.write_json(path, {"a": float("inf")})
    assert read_json(path) == {"a": "ö", "b": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"{'a': 1}"])
def test_unreadable_json_is_a_missing_input(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(MissingInput, match=r"x\.json is not valid JSON"):
        read_json(tmp_path / "x.json")
    with pytest.raises(MissingInput, match="does not exist"):
        read_json(tmp_path / "absent.json")


RESULT = Result("rank", "c", "d", {"i": "e"}, {"o": Entry("f", 3)}, {"recall": 0.5}, ("careful",))


def test_results_are_read_back_equal_and_equal_results_have_equal_bytes(tmp_path: Path) -> None:
    RESULT.write(tmp_path / "a")
    Result.read(tmp_path / "a").write(tmp_path / "b")
    assert Result.read(tmp_path / "b") == RESULT
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert Outcome() == Outcome({}, ())


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"outputs": None},
        {"outputs": {"o": {"digest": "f"}}},
        {"host": "x"},
        {"warnings": None},
    ],
)
def test_results_of_another_form_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    RESULT.write(tmp_path / "a")
    raw = json.loads((tmp_path / "a").read_text()) | change
    (tmp_path / "a").write_text(json.dumps(raw))
    with pytest.raises(MissingInput):
        Result.read(tmp_path / "a")


@pytest.mark.parametrize("text", ["[]", "3", '{"stage": "rank"}'])
def test_other_json_is_no_result(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(MissingInput, match="not a stage result"):
        Result.read(tmp_path / "a")


def test_what_a_killed_process_left_can_be_swept_away(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with atomic_path(tmp_path / "set") as temporary:
        temporary.mkdir()
        left = temporary.parent.name
        other = tmp_path / ".setting.abcdefgh"
        other.mkdir()
    (tmp_path / left / "set").mkdir(parents=True)
    contract.sweep(tmp_path / "set")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".setting.abcdefgh", "set"]


@pytest.mark.parametrize("write", [atomic_path, contract.shared_path])
def test_the_next_write_sweeps_away_what_nobody_writes_any_more(
    tmp_path: Path, write: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    dead, alive, late = (tmp_path / f".features.{name * 8}" for name in "abc")
    for holder in (dead, alive, late):
        (holder / "features").mkdir(parents=True)
        (holder / "features" / "part").write_text("half")
    past = time.time() - contract.IDLE_S - 60
    for path in (dead, *dead.rglob("*"), late, late / "features"):
        os.utime(path, (past, past))
    with write(tmp_path / "features") as temporary:
        temporary.write_text("whole")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [alive.name, late.name, "features"], "a long download still grows"


def test_hidden_folders_of_others_are_not_swept_away(tmp_path: Path) -> None:
    theirs = tmp_path / ".my.settings" / "colours"
    theirs.parent.mkdir()
    theirs.write_text("blue")
    past = time.time() - contract.IDLE_S - 60
    for path in (theirs, theirs.parent):
        os.utime(path, (past, past))
    contract.write_text(tmp_path / "my", "mine")
    contract.sweep(tmp_path / "my")
    assert theirs.read_text() == "blue"


def test_what_a_killed_process_had_moved_aside_is_there_again(tmp_path: Path) -> None:
    old = tmp_path / ".set.abcdefgh" / contract.MOVED / "f"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    contract.sweep(tmp_path / "set")
    assert tree(tmp_path) == {"set/f": b"old"} and not old.parents[1].exists()


def test_a_write_in_a_cache_sweeps_what_was_left_of_other_files_and_nothing_of_the_users(
    tmp_path: Path,
) -> None:
    dead, alive, users = (tmp_path / name for name in (".a.aaaaaaaa", ".b.bbbbbbbb", ".c.cccccccc"))
    for holder, content in ((dead, "a"), (alive, "b"), (users, "notes")):
        holder.mkdir()
        (holder / content).write_text("half")
    past = time.time() - contract.IDLE_S - 60
    for path in (dead, *dead.iterdir(), users, *users.iterdir()):
        os.utime(path, (past, past))
    with contract.shared_path(tmp_path / "features") as temporary:
        temporary.write_text("whole")
    # The file that it was to be may be there long since, and is then never written again.
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, users.name, "features"]


def test_a_folder_that_another_process_made_meanwhile_stays(tmp_path: Path) -> None:
    target = tmp_path / "snapshot"
    with contract.shared_path(target, there=target.exists) as temporary:
        temporary.mkdir()
        (target / "theirs").mkdir(parents=True)
        inode = target.stat().st_ino
    assert target.stat().st_ino == inode and (target / "theirs").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot"]


def test_a_disk_error_that_a_library_tells_in_words_is_an_oserror_with_the_place(tmp_path: Path) -> None:
    target = tmp_path / "weights"
    with pytest.raises(OSError, match="weights") as caught, atomic_path(target):
        raise RuntimeError("Error while serializing: I/O error: Input/output error (os error 5)")
    assert caught.value.errno == errno.EIO
    with pytest.raises(RuntimeError), atomic_path(target):
        raise RuntimeError("something else")
    assert list(tmp_path.iterdir()) == []


def test_what_kills_left_in_a_folder_goes_and_hidden_folders_of_others_stay(tmp_path: Path) -> None:
    kept = {".my.settings/colours", ".ab.cd/x", "unit.json", ".git/config"}
    left = {".unit.json.abc_d3f9/unit.json", ".weights.abcdefgh/old/a", ".empty.abcdefgh/"}
    for name in (*kept, *left):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.touch()
    contract.sweep_all(tmp_path)
    back = {"weights/a"}
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == kept | back
    assert not any((tmp_path / name.split("/")[0]).exists() for name in left)
