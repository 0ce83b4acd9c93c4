"""Finds out what kind of image set a path holds, and opens it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from graftgan.data.archive import ZipSource
from graftgan.data.folder import FolderSource
from graftgan.data.sources import Source
from graftgan.data.table import ParquetSource
from graftgan.errors import DataError, MissingInput

PARQUET_MAGIC = b"PAR1"
REMEDY = (
    "give a folder of images, a zip of images, a StyleGAN2-ADA dataset zip or a parquet file as data.path"
)


def open_source(path: Path, max_file_bytes: int) -> Source:
    """Open an image set; what it is, is told by its content.

    Args:
        path: Folder, zip or parquet file.
        max_file_bytes: Larger image files are reported as bad instead of being read.

    Raises:
        MissingInput: If there is nothing at `path`.
        DataError: If it is of no known kind, unsafe, or holds no image.
    """
    if not path.exists():
        raise MissingInput(f"data.path: {path} does not exist", "correct data.path in the parameters")
    source = _open(path, max_file_bytes)
    if source.total == 0:
        others = f" ({source.ignored} other files)" if source.ignored else ""
        raise DataError(f"{path} holds no image{others}", REMEDY)
    return source


def _open(path: Path, max_file_bytes: int) -> Source:
    if path.is_dir():
        return FolderSource(path, max_file_bytes)
    if not path.is_file():
        raise DataError(f"{path} is neither a folder nor a regular file", REMEDY)
    with path.open("rb") as file:
        magic = file.read(len(PARQUET_MAGIC))
    if magic == PARQUET_MAGIC:
        return ParquetSource(path, max_file_bytes)
    if zipfile.is_zipfile(path):
        return ZipSource(path, max_file_bytes)
    raise DataError(f"{path} is neither a zip nor a parquet file", REMEDY)
