"""Reads an image set from a parquet file with encoded images in a column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from graftgan.data.sources import RawImage, first_lines, refuse_bomb, refuse_crowd
from graftgan.errors import DataError

# Few, for each may bring an image of its own.
BATCH_ROWS = 8
# Below those of single files: pages are unpacked whole and copied up to five times, and images in them are
# packed already.
BOMB_RATIO = 20
BOMB_MIN_BYTES = 64 << 20
TEXT_ROWS = 1 << 14
MAX_TEXT_BYTES = 1024
# What pyarrow raises for damaged files, text that is not UTF-8 included.
UNREADABLE = (pa.ArrowException, OSError, ValueError, RuntimeError, TypeError, LookupError)
LICENCE_KEYS = (b"licence", b"license")
REMEDY = "give a parquet file with a column 'image' of encoded images; 'name', 'group', 'label' are optional"


class ParquetSource:
    """An image set in a parquet file, in the order of its rows.

    The column `image` holds the bytes, or a struct with a field `bytes` as Hugging Face datasets write it.
    Optional columns: `name` (unique text), `group` (images of one group are never split), `label` (text or
    integer). A key `licence` of the schema metadata holds the licence.

    Args:
        path: The parquet file.
        max_file_bytes: Larger images are not read.

    Raises:
        DataError: If it is damaged, a bomb, has no image column or clashing names.
    """

    ignored = 0

    def __init__(self, path: Path, max_file_bytes: int) -> None:
        self._path = path
        self._limit = max_file_bytes
        self.warnings: list[str] = []
        with self._open() as file, self._readable("the table"):
            schema = file.schema_arrow
            self._check_schema(schema)
            self._image = "image.bytes" if pa.types.is_struct(schema.field("image").type) else "image"
            self._check_size(file.metadata)
            self.total = int(file.metadata.num_rows)
            metadata = schema.metadata or {}
            licences = [metadata[key] for key in LICENCE_KEYS if key in metadata]
            self.licence = first_lines(licences[0]) if licences else ""
            self._columns = [c for c in ("image", "name", "group", "label") if c in schema.names]
            self._label_names = _class_names(metadata)
            self._check_texts([name for name in self._columns[1:] if _is_text(schema.field(name).type)])
            self._check_names(file)

    def images(self) -> Iterator[RawImage]:
        """Yield the images by row."""
        row = 0
        with self._open([self._image]) as file:
            batches = file.iter_batches(batch_size=BATCH_ROWS, columns=self._columns)
            while True:
                with self._readable(f"row {row} or later"):
                    batch = next(batches, None)
                    if batch is None:
                        return
                    others = {name: batch.column(name).to_pylist() for name in self._columns[1:]}
                    # Each value once, as in the file: one that all rows name does not take its place in each.
                    stored = _stored(batch.column("image"))
                for number in range(batch.num_rows):
                    record = {name: values[number] for name, values in others.items()}
                    yield self._raw(row, stored, number, record)
                    row += 1

    @contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        try:
            yield
        except UNREADABLE as error:
            why = " ".join(str(error).split())
            raise DataError(f"{self._path}: {what} is damaged: {why}", "make the file again") from None

    def _open(self, dictionaries: Sequence[str] = ()) -> Any:
        try:
            return pq.ParquetFile(self._path, read_dictionary=list(dictionaries))
        except UNREADABLE as error:
            raise DataError(
                f"{self._path} is not a readable parquet file: {error}", "make the file again"
            ) from None

    def _check_schema(self, schema: Any) -> None:
        if "image" not in schema.names:
            raise DataError(f"{self._path} has no column 'image', only {', '.join(schema.names)}", REMEDY)
        kind = schema.field("image").type
        if pa.types.is_struct(kind):
            kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else kind
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise DataError(f"{self._path}: column 'image' is of type {kind}, not binary", REMEDY)
        for name, allowed in (("name", _is_text), ("group", _is_key), ("label", _is_key)):
            if name in schema.names and not allowed(schema.field(name).type):
                found = schema.field(name).type
                raise DataError(f"{self._path}: column {name!r} is of type {found}", REMEDY)

    def _check_size(self, metadata: Any) -> None:
        refuse_crowd(self._path, metadata.num_rows)
        size = self._path.stat().st_size
        for group in range(metadata.num_row_groups):
            # Not column by column: for a damaged one pyarrow ends the whole process.
            unpacked = metadata.row_group(group).total_byte_size
            refuse_bomb(self._path, f"row group {group}", size, unpacked, BOMB_RATIO, BOMB_MIN_BYTES)

    def _check_texts(self, columns: list[str]) -> None:
        """Refuse long texts: one that a million rows name takes its place in the file once."""
        if not columns:
            return
        with self._open(columns) as file:
            for batch in file.iter_batches(batch_size=TEXT_ROWS, columns=columns):
                for name in columns:
                    # As it is stored, each value once.
                    values = batch.column(name).dictionary
                    longest = pc.max(pc.binary_length(values)).as_py() or 0
                    if longest > MAX_TEXT_BYTES:
                        raise DataError(
                            f"{self._path}: column {name!r} holds a text of {longest} bytes, more than "
                            f"{MAX_TEXT_BYTES}",
                            "give shorter texts, or drop the column",
                        )

    def _check_names(self, file: Any) -> None:
        if "name" not in self._columns:
            return
        seen = set()
        for batch in file.iter_batches(batch_size=TEXT_ROWS, columns=["name"]):
            for name in batch.column("name").to_pylist():
                if not name or name in seen:
                    fault = f"the name {name!r} twice" if name else "a row without name"
                    raise DataError(
                        f"{self._path} has {fault}", "give every row its own name, or drop the column"
                    )
                seen.add(name)

    def _raw(self, row: int, stored: Any, number: int, record: dict[str, Any]) -> RawImage:
        place = stored.indices[number].as_py()
        value: Any = None if place is None else stored.dictionary[place].as_buffer()
        size = 0 if value is None else value.size
        bad = "" if size else "no image bytes"
        if size > self._limit:
            bad = f"{size} bytes, more than data.max_file_bytes = {self._limit}"
        label, group = record.get("label"), record.get("group")
        return RawImage(
            name=record.get("name") or f"row-{row:07}",
            data=b"" if bad else value.to_pybytes(),
            label=None if label is None or label == -1 else self._label_name(label),
            group="" if group is None else str(group),
            bad=bad,
        )

    def _label_name(self, label: str | int) -> str:
        if isinstance(label, int) and 0 <= label < len(self._label_names):
            return self._label_names[label]
        return str(label)


def _stored(column: Any) -> Any:
    """Return the images of a batch as indices into what is stored."""
    if pa.types.is_struct(column.type):
        # A whole struct may be missing too, which `field` would not tell.
        column = column.flatten()[column.type.get_field_index("bytes")]
    # A damaged page may name what is not stored.
    column.validate(full=True)
    return column


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_key(kind: Any) -> bool:
    return _is_text(kind) or bool(pa.types.is_integer(kind))


def _class_names(metadata: dict[bytes, bytes]) -> list[str]:
    """Return the names of integer labels that Hugging Face datasets keep in the schema metadata."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
        return [str(name) for name in names]
    except (KeyError, TypeError, ValueError, RecursionError):
        return []
