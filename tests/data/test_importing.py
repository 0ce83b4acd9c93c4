from __future__ import annotations

from pathlib import Path

import pytest

from graftgan.data.archive import ZipSource
from graftgan.data.folder import FolderSource
from graftgan.data.importing import open_source
from graftgan.data.sources import (
    RawImage,
    Source,
    first_lines,
    folder_labels,
    label_order,
    label_warnings,
    listed_labels,
    refuse_bomb,
    refuse_crowd,
)
from graftgan.data.table import ParquetSource
from graftgan.errors import DataError, MissingInput

from .pictures import encode, smooth, write_folder, write_zip
from .test_table import write_table

PICTURE = encode(smooth(0))


def test_what_a_path_holds_is_told_by_its_content_not_its_name(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.parquet", {"x.png": PICTURE})
    write_table(tmp_path / "b.zip", image=[PICTURE])
    write_folder(tmp_path / "c.zip.d", 1)
    opened = [open_source(tmp_path / name, 10**8) for name in ("a.parquet", "b.zip", "c.zip.d")]
    assert [type(source) for source in opened] == [ZipSource, ParquetSource, FolderSource]


@pytest.mark.parametrize("source", ["folder", "zip", "parquet"])
def test_the_readers_agree(tmp_path: Path, source: str) -> None:
    names = ["cat/1.png", "cat/2.png", "dog/1.png"]
    pictures = [encode(smooth(seed)) for seed in range(3)]
    opened: Source
    if source == "folder":
        for name, data in zip(names, pictures, strict=True):
            (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / name).write_bytes(data)
        opened = open_source(tmp_path / "set", 10**8)
    elif source == "zip":
        members: dict[str, bytes | str] = dict(zip(names, pictures, strict=True))
        opened = open_source(write_zip(tmp_path / "set.zip", members), 10**8)
    else:
        labels = ["cat", "cat", "dog"]
        opened = open_source(write_table(tmp_path / "set", image=pictures, name=names, label=labels), 10**8)
    expected = [RawImage(name, data, name.split("/")[0]) for name, data in zip(names, pictures, strict=True)]
    assert list(opened.images()) == expected
    assert (opened.total, opened.ignored, opened.licence, opened.warnings) == (3, 0, "", [])


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"data\.path: .*nothing") as error:
        open_source(tmp_path / "nothing", 10**8)
    assert error.value.exit_code == 4


def test_empty_and_imageless_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no image") as error:
        open_source(tmp_path / "empty", 10**8)
    assert "data.path" in error.value.remedy
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    with pytest.raises(DataError, match=r"holds no image \(1 other files\)"):
        open_source(tmp_path / "empty", 10**8)
    with pytest.raises(DataError, match="holds no image"):
        open_source(write_zip(tmp_path / "e.zip", {}), 10**8)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(PICTURE)
    with pytest.raises(DataError, match="neither a zip nor a parquet"):
        open_source(tmp_path / "one.png", 10**8)
    with pytest.raises(DataError, match="neither a folder nor a regular file"):
        open_source(Path("/dev/null"), 10**8)


def test_labels_are_the_folders_below_the_shared_one() -> None:
    assert folder_labels(["a.png", "b.png"]) == {}
    assert folder_labels(["set/a.png", "set/b.png"]) == {}
    assert folder_labels(["set/cat/a.png", "set/dog/b.png"]) == {
        "set/cat/a.png": "cat",
        "set/dog/b.png": "dog",
    }
    assert folder_labels(["cat/big/a.png", "cat/b.png", "dog/c.png"]) == {
        "cat/big/a.png": "cat",
        "cat/b.png": "cat",
        "dog/c.png": "dog",
    }
    assert folder_labels(["a.png", "extra/b.png"]) == {"extra/b.png": "extra"}
    assert folder_labels(["only/deep/er/a.png"]) == {}
    assert folder_labels([]) == {}


def test_numeric_labels_are_ordered_by_value() -> None:
    assert label_order(["10", "9", "9", "100"]) == ["9", "10", "100"]
    assert label_order(["b", "10", "9"]) == ["10", "9", "b"]
    assert label_order(["1", "01"]) == ["01", "1"]
    assert label_order([]) == []


def test_listed_labels() -> None:
    assert listed_labels({"labels": [["00000/a.png", 3], ["b\\c.png", 0]]}, "x") == {
        "00000/a.png": "3",
        "b/c.png": "0",
    }
    assert listed_labels({"labels": None}, "x") == {}
    for wrong in ({}, [], {"labels": [["a.png", [0.5, 1]]]}, {"labels": [["a.png", -1]]}, {"labels": [3]}):
        with pytest.raises(DataError, match=r"x: dataset\.json has"):
            listed_labels(wrong, "x")


def test_label_warnings_name_an_example() -> None:
    absent, unlabelled = label_warnings({"gone.png": "1"}, ["here.png"])
    assert "'gone.png'" in absent and "'here.png'" in unlabelled
    assert label_warnings({}, ["here.png"]) == []


def test_bombs_are_told_by_ratio_and_size() -> None:
    refuse_bomb(Path("x"), "it", 1000, 10**6)
    refuse_bomb(Path("x"), "it", 10**9, 10**11)
    with pytest.raises(DataError, match=r"it unpacks from 1000000 to 1000000000 bytes \(1000:1\)"):
        refuse_bomb(Path("x"), "it", 10**6, 10**9)
    with pytest.raises(DataError, match="has 2000001 entries"):
        refuse_crowd(Path("x"), 2_000_001)


def test_first_lines_are_short_and_clean() -> None:
    assert first_lines(b"CC0 \r\nNo rights\r\n\n") == "CC0\nNo rights"
    assert len(first_lines(b"x" * 10**6)) == 2000
    assert len(first_lines(b"y\n" * 100).splitlines()) == 20
    assert first_lines(b"\xff\xfe") == "\ufffd\ufffd"
