from __future__ import annotations

import os
from pathlib import Path

import pytest

from graftgan import digests
from graftgan.contract import digest_path
from graftgan.digests import DigestCache
from graftgan.errors import MissingInput


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read for their digest."""
    seen: list[str] = []
    real = digests.digest_file

    def noted(path: Path) -> str:
        seen.append(path.name)
        return real(path)

    monkeypatch.setattr(digests, "digest_file", noted)
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b/c.png", "b.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_text(name)
    return tmp_path / "set"


def test_digests_are_those_of_the_contract_for_a_file(folder: Path, tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "cache")
    assert cache.digest(folder / "a.png") == digest_path(folder / "a.png")


def test_digests_are_those_of_the_contract_for_a_folder(tmp_path: Path) -> None:
    for name in ("a/x", "a.png", "a-b", "a/b/c", "B", "ä"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_text(name)
    assert DigestCache(tmp_path / "cache").digest(tmp_path / "set") == digest_path(tmp_path / "set")


def test_a_large_output_is_read_once_and_a_small_one_always(
    folder: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DigestCache(tmp_path / "cache")
    whole = digest_path(folder)
    assert cache.digest_output(folder) == whole and not (tmp_path / "cache").exists() and reads == []
    monkeypatch.setattr(digests, "REMEMBER_FROM_BYTES", 5)
    assert cache.digest_output(folder) == cache.digest_output(folder) == whole
    assert sorted(reads) == ["a.png", "b.png", "c.png"]
    (folder / "b.png").write_text("longer")
    assert cache.digest_output(folder) == digest_path(folder) != whole and len(reads) == 4
    with pytest.raises(MissingInput):
        cache.digest_output(tmp_path / "absent")


def test_an_unchanged_set_is_not_read_again(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    first = DigestCache(tmp_path / "cache").digest(folder)
    assert sorted(reads) == ["a.png", "b.png", "c.png"]
    stored = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()}
    assert DigestCache(tmp_path / "cache").digest(folder) == first
    assert len(reads) == 3
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()} == stored


def test_only_what_changed_is_read_again(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    cache = DigestCache(tmp_path / "cache")
    before = cache.digest(folder)
    reads.clear()
    (folder / "b" / "c.png").write_text("other")
    changed = cache.digest(folder)
    assert reads == ["c.png"]
    (folder / "b" / "c.png").write_text("b/c.png")
    assert cache.digest(folder) == before != changed


def test_an_equal_size_is_not_enough(folder: Path, tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "cache")
    before = cache.digest(folder)
    stat = (folder / "a.png").stat()
    (folder / "a.png").write_text("A.png")
    os.utime(folder / "a.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert cache.digest(folder) != before


def test_a_time_that_was_set_back_hides_nothing(folder: Path, tmp_path: Path) -> None:
    """As copying with times and unpacking an archive do, over a file of the same size."""
    cache = DigestCache(tmp_path / "cache")
    before = cache.digest(folder)
    stat = (folder / "a.png").stat()
    (folder / "a.png").write_text("A.png")
    os.utime(folder / "a.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cache.digest(folder) != before


def test_renamed_removed_and_added_files_change_the_digest(folder: Path, tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "cache")
    seen = {cache.digest(folder)}
    (folder / "a.png").rename(folder / "z.png")
    seen.add(cache.digest(folder))
    (folder / "b.png").unlink()
    seen.add(cache.digest(folder))
    (folder / "new.png").write_text("")
    seen.add(cache.digest(folder))
    assert len(seen) == 4


def test_the_place_of_a_set_does_not_matter(folder: Path, tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "cache")
    before = cache.digest(folder)
    folder.rename(tmp_path / "moved")
    assert cache.digest(tmp_path / "moved") == before


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b'{"a.png": 3}', b'{"a.png": {}}'])
def test_a_damaged_cache_is_no_matter(folder: Path, tmp_path: Path, content: bytes) -> None:
    cache = DigestCache(tmp_path / "cache")
    before = cache.digest(folder)
    (store,) = (tmp_path / "cache").iterdir()
    store.write_bytes(content)
    assert cache.digest(folder) == before


def test_a_cache_that_cannot_be_written_is_no_matter(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert DigestCache(tmp_path / "file" / "cache").digest(folder) == DigestCache(tmp_path / "cache").digest(
        folder
    )


def test_what_is_absent_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="does not exist"):
        DigestCache(tmp_path / "cache").digest(tmp_path / "absent")


def test_names_that_are_no_utf8_have_digests_too(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    name = folder / os.fsdecode(b"gr\xf6sse.png")
    name.write_text("x")
    cache = DigestCache(tmp_path / "cache")
    before = cache.digest(folder)
    name.rename(folder / os.fsdecode(b"gr\xf7sse.png"))
    assert cache.digest(folder) != before
    reads.clear()
    cache.digest(folder)
    assert reads == []


def test_links_to_files_count_and_links_to_folders_do_not(folder: Path, tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "cache")
    before = cache.digest(folder)
    (folder / "linked").symlink_to(folder / "b")
    (folder / "nowhere.png").symlink_to("gone.png")
    os.mkfifo(folder / "pipe")
    assert cache.digest(folder) == before
    (folder / "again.png").symlink_to("a.png")
    assert cache.digest(folder) == digest_path(folder) != before


def test_what_the_writer_has_read_is_not_read_again(
    folder: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "REMEMBER_FROM_BYTES", 5)
    known = {"a.png": digest_path(folder / "a.png")}
    DigestCache(tmp_path / "cache", writes=False).remember(folder, known)
    assert not (tmp_path / "cache").exists()
    cache = DigestCache(tmp_path / "cache")
    cache.remember(folder, known)
    assert cache.digest_output(folder) == digest_path(folder) and sorted(reads) == ["b.png", "c.png"]
    (folder / "a.png").write_text("changed")
    assert cache.digest_output(folder) == digest_path(folder)
    monkeypatch.setattr(digests, "REMEMBER_FROM_BYTES", 1 << 20)
    DigestCache(tmp_path / "other").remember(folder, known)
    assert not (tmp_path / "other").exists()
