from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from graftgan.data.folder import FolderSource
from graftgan.data.sources import RawImage
from graftgan.errors import DataError

from .pictures import encode, smooth, write_folder

PICTURE = encode(smooth(0))


def read(folder: Path, limit: int = 10**8) -> dict[str, RawImage]:
    source = FolderSource(folder, limit)
    images = list(source.images())
    assert len(images) == source.total
    return {image.name: image for image in images}


def test_order_is_by_name_whatever_the_order_of_writing(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "c/a.png", "B.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PICTURE)
    assert list(read(tmp_path)) == ["B.png", "a.png", "b.png", "c/a.png"]


@pytest.mark.parametrize(
    "name", ["with space.png", "quote'\".png", "new\nline.png", "größe 猫 🐈.png", "-rf.png", "%s$(x).png"]
)
def test_awkward_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PICTURE)
    assert read(tmp_path)[name].data == PICTURE


def test_names_that_are_not_utf8_can_be_stored(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(PICTURE)
    (image,) = read(tmp_path).values()
    assert image.data == PICTURE and image.name.encode() == b"caf\\xe9.png"


def test_images_are_told_by_content_and_claims_by_suffix(tmp_path: Path) -> None:
    (tmp_path / "picture.dat").write_bytes(PICTURE)
    (tmp_path / "claims.JPG").write_bytes(b"nothing of the kind")
    (tmp_path / "notes.txt").write_bytes(b"notes")
    (tmp_path / "picture").write_bytes(PICTURE)
    source = FolderSource(tmp_path, 10**8)
    assert [image.name for image in source.images()] == ["claims.JPG", "picture", "picture.dat"]
    assert source.ignored == 1


def test_hidden_files_are_ignored_and_counted(tmp_path: Path) -> None:
    write_folder(tmp_path, 2)
    (tmp_path / "._000.png").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "a.png").write_bytes(PICTURE)
    (tmp_path / "__MACOSX").mkdir()
    source = FolderSource(tmp_path, 10**8)
    assert source.total == 2 and source.ignored == 3


def test_links_that_leave_the_folder_are_never_read(tmp_path: Path) -> None:
    outside = write_folder(tmp_path / "outside", 2)
    inside = write_folder(tmp_path / "inside", 1)
    (inside / "link.png").symlink_to(outside / "001.png")
    (inside / "up.png").symlink_to("../outside/000.png")
    (inside / "folder").symlink_to(outside)
    (inside / "notes.txt").symlink_to("/etc/hostname")
    (inside / "gone.png").symlink_to("nowhere.png")
    (inside / "loop.png").symlink_to("loop.png")
    images = read(inside)
    assert {name: image.bad for name, image in images.items()} == {
        "000.png": "",
        "folder": "symbolic link that leaves the folder",
        "gone.png": "symbolic link to nowhere",
        "link.png": "symbolic link that leaves the folder",
        "loop.png": "symbolic link to nowhere",
        "up.png": "symbolic link that leaves the folder",
    }
    assert all(not image.data for image in images.values() if image.bad)


def test_a_sibling_with_the_same_prefix_is_outside(tmp_path: Path) -> None:
    inside, sibling = write_folder(tmp_path / "set", 1), write_folder(tmp_path / "set-other", 1)
    (inside / "link.png").symlink_to(sibling / "000.png")
    assert read(inside)["link.png"].bad


def test_links_within_the_folder_are_read_and_folder_links_are_not_walked(tmp_path: Path) -> None:
    write_folder(tmp_path, 1, subfolder="a")
    (tmp_path / "again.png").symlink_to("a/000.png")
    (tmp_path / "b").symlink_to("a")
    images = read(tmp_path)
    assert images["again.png"].data == images["a/000.png"].data
    assert images["b"].bad == "symbolic link to a folder"
    assert "b/000.png" not in images


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    write_folder(tmp_path / "real", 1)
    (tmp_path / "link").symlink_to("real")
    assert read(tmp_path / "link")["000.png"].bad == ""


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    source = FolderSource(tmp_path, 10**8)
    assert [image.bad for image in source.images()] == ["not a regular file"]
    assert source.ignored == 1


def test_large_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PICTURE)
    image = read(tmp_path, limit=100)["a.png"]
    assert image.data == b"" and image.bad == f"{len(PICTURE)} bytes, more than data.max_file_bytes = 100"


def test_files_that_vanish_are_bad(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PICTURE)
    source = FolderSource(tmp_path, 10**8)
    (tmp_path / "a.png").unlink()
    assert [image.bad for image in source.images()] == ["cannot be read (No such file or directory)"]


def test_listed_labels_replace_folders(tmp_path: Path) -> None:
    write_folder(tmp_path, 3, subfolder="00000")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["00000/000.png", 4], ["gone.png", 1]]}))
    source = FolderSource(tmp_path, 10**8)
    assert [image.label for image in source.images()] == ["4", None, None]
    assert len(source.warnings) == 2 and source.ignored == 0
    (tmp_path / "dataset.json").write_text('{"labels": null}')
    assert [image.label for image in FolderSource(tmp_path, 10**8).images()] == [None] * 3
    for text in ("{", "[" * 100_000):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(DataError, match=r"dataset\.json is not JSON"):
            FolderSource(tmp_path, 10**8)


@pytest.mark.parametrize("name", ["LICENSE", "licence.txt", "NOTICE.md", "COPYING"])
def test_licence_in_the_folder(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path / "set", 1)
    (tmp_path / "set" / name).write_text("CC0 1.0\nby nobody\n")
    source = FolderSource(tmp_path / "set", 10**8)
    assert source.licence == "CC0 1.0\nby nobody" and source.ignored == 0


def test_a_licence_beside_the_folder_is_not_taken_for_its_own(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", 1)
    (tmp_path / "LICENSE").write_text("of the project")
    assert FolderSource(tmp_path / "set", 10**8).licence == ""
