from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graftgan.data.sources import RawImage
from graftgan.data.table import ParquetSource
from graftgan.errors import DataError

from .pictures import encode, smooth

PICTURES = [encode(smooth(seed)) for seed in range(3)]


def write_table(path: Path, metadata: dict[str, str] | None = None, **columns: Any) -> Path:
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata) if metadata else table, path)
    return path


def read(path: Path, limit: int = 10**8) -> list[RawImage]:
    return list(ParquetSource(path, limit).images())


@contextmanager
def counted() -> Iterator[Any]:
    """Give a pool that tells the most memory that pyarrow held at once."""
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    try:
        yield pool
    finally:
        pa.set_memory_pool(usual)


def test_all_columns(tmp_path: Path) -> None:
    path = write_table(
        tmp_path / "a.parquet",
        image=PICTURES,
        name=["b", "a/ü.png", "new\nline"],
        group=["g", None, ""],
        label=["cat", None, "dog"],
    )
    assert read(path) == [
        RawImage("b", PICTURES[0], "cat", "g"),
        RawImage("a/ü.png", PICTURES[1], None, ""),
        RawImage("new\nline", PICTURES[2], "dog", ""),
    ]


def test_image_column_alone(tmp_path: Path) -> None:
    names = [image.name for image in read(write_table(tmp_path / "a.parquet", image=PICTURES))]
    assert names == ["row-0000000", "row-0000001", "row-0000002"]


def test_more_rows_than_a_batch_keep_their_order(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", image=[bytes([i]) for i in range(200)])
    assert [image.data[0] for image in read(path)] == list(range(200))


def test_hugging_face_structs_and_class_names(tmp_path: Path) -> None:
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    path = write_table(
        tmp_path / "a.parquet",
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
        image=[{"bytes": data, "path": None} for data in PICTURES],
        label=[1, 0, -1],
    )
    assert [(image.data, image.label) for image in read(path)] == [
        (PICTURES[0], "dog"),
        (PICTURES[1], "cat"),
        (PICTURES[2], None),
    ]


def test_integer_labels_without_names(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", image=PICTURES, label=np.array([7, 0, 7]), group=[1, 2, 2])
    assert [(image.label, image.group) for image in read(path)] == [("7", "1"), ("0", "2"), ("7", "2")]


def test_large_binary(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", image=pa.array(PICTURES, pa.large_binary()))
    assert [image.data for image in read(path)] == PICTURES


def test_rows_without_bytes_or_with_too_many_are_bad(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", image=[None, b"", PICTURES[0]])
    assert [image.bad for image in read(path, 50)] == [
        "no image bytes",
        "no image bytes",
        f"{len(PICTURES[0])} bytes, more than data.max_file_bytes = 50",
    ]


def test_missing_column_names_those_that_are_there(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", picture=PICTURES, title=["a", "b", "c"])
    with pytest.raises(DataError, match="no column 'image', only picture, title") as error:
        read(path)
    assert "'image'" in error.value.remedy


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": ["text"]}, "column 'image' is of type string"),
        ({"image": [{"path": "x"}]}, "column 'image' is of type struct"),
        ({"image": [b"x"], "name": [3]}, "column 'name' is of type int64"),
        ({"image": [b"x"], "label": [0.5]}, "column 'label' is of type double"),
        ({"image": [b"x"], "group": [b"g"]}, "column 'group' is of type binary"),
        ({"image": [b"x", b"y"], "name": ["a", "a"]}, "the name 'a' twice"),
        ({"image": [b"x", b"y"], "name": ["a", None]}, "a row without name"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write_table(tmp_path / "a.parquet", **columns))


@pytest.mark.parametrize("key", ["licence", "license"])
def test_licence_in_the_metadata(tmp_path: Path, key: str) -> None:
    path = write_table(tmp_path / "a.parquet", metadata={key: "CC BY 4.0, by A. N. Other\n"}, image=PICTURES)
    assert ParquetSource(path, 10**8).licence == "CC BY 4.0, by A. N. Other"


def test_damaged_files(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", image=PICTURES)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a readable parquet"):
        read(path)
    path.write_bytes(whole[:20] + bytes(60) + whole[80:])
    with pytest.raises(DataError, match="row 0 or later is damaged"):
        read(path)


def test_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    pages = pa.chunked_array([pa.array([bytes(1 << 20)] * 100, pa.large_binary())] * 3)
    pq.write_table(pa.table({"image": pages}), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match=r"row group 0 unpacks from .* decompression bomb"):
        ParquetSource(path, 10**8)


def test_pages_that_unpack_to_a_hundred_megabytes_are_refused_in_a_file_of_a_few(tmp_path: Path) -> None:
    noise, path = np.random.default_rng(0).bytes(3 << 20), tmp_path / "bomb.parquet"
    table = pa.table({"image": [noise, *[bytes(1 << 20)] * 100]})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 4 << 20
    with pytest.raises(DataError, match=r"row group 0 unpacks from .* decompression bomb"):
        ParquetSource(path, 10**8)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("nested", [False, True])
def test_a_large_image_that_many_rows_name_takes_its_place_once(
    tmp_path: Path, nested: bool, kind: pa.DataType
) -> None:
    rows, size = 24, 16 << 20
    values = pa.array([PICTURES[0], bytes(size)], kind)
    images = pa.DictionaryArray.from_arrays(pa.array([0] + [1] * (rows - 1), pa.int32()), values)
    if nested:
        images = pa.StructArray.from_arrays([images, pa.array([""] * rows)], ["bytes", "path"])
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"image": images}), path, store_schema=False, compression="zstd")
    assert path.stat().st_size < 20_000
    for limit, bad in ((size - 1, f"{size} bytes, more than data.max_file_bytes = {size - 1}"), (size, "")):
        with counted() as pool:
            found = [(len(image.data), image.bad) for image in ParquetSource(path, limit).images()]
        assert found == [(len(PICTURES[0]), "")] + [(0 if bad else size, bad)] * (rows - 1)
        assert pool.max_memory() < 4.5 * size


def test_missing_structs_and_missing_bytes_in_them_are_rows_without_image(tmp_path: Path) -> None:
    kind = pa.struct([("path", pa.string()), ("bytes", pa.binary())])
    rows = [
        {"path": "", "bytes": PICTURES[0]},
        None,
        {"path": "x", "bytes": None},
        {"path": "", "bytes": b""},
    ]
    path = write_table(tmp_path / "a.parquet", image=pa.array(rows, kind))
    assert [(image.data, image.bad) for image in read(path)] == [
        (PICTURES[0], ""), *[(b"", "no image bytes")] * 3
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("column", ["name", "group", "label"])
def test_a_long_text_that_many_rows_name_is_refused_before_it_unpacks(
    tmp_path: Path, column: str, kind: pa.DataType
) -> None:
    rows, place = 3000, tmp_path / "bomb.parquet"
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * 500_000], kind))
    pq.write_table(pa.table({"image": pa.array([b"P"] * rows), column: texts}), place, store_schema=False)
    if kind == pa.large_string():
        # As a writer that keeps its own types leaves it.
        short = pa.table({"image": pa.array([b"P"]), column: pa.array(["x" * 5000], kind)})
        pq.write_table(short, place)
    with (
        counted() as pool,
        pytest.raises(DataError, match=f"column '{column}' holds a text of .* more than 1024"),
    ):
        ParquetSource(place, 10**8)
    assert pool.max_memory() < 64 << 20
