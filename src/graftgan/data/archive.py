"""Reads an image set from a zip file, member by member; nothing is ever unpacked to disk."""

from __future__ import annotations

import json
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from graftgan.data.decoding import SNIFF_BYTES, looks_like_image
from graftgan.data.sources import (
    LABELS_FILE,
    RawImage,
    first_lines,
    fold,
    folder_labels,
    has_image_suffix,
    is_hidden,
    is_licence,
    label_warnings,
    listed_labels,
    refuse_bomb,
    refuse_crowd,
)
from graftgan.errors import DataError

MAX_LABELS_BYTES = 256 << 20
ENCRYPTED = 0x1
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


class ZipSource:
    """An image set in a zip file: class folders, or a StyleGAN2-ADA `dataset.json`, give labels.

    Args:
        path: The zip file.
        max_file_bytes: Larger members are not read.

    Raises:
        DataError: If it is damaged, a bomb, or has member names that reach outside or clash.
    """

    def __init__(self, path: Path, max_file_bytes: int) -> None:
        self._path = path
        self._limit = max_file_bytes
        self.ignored = 0
        self.licence = ""
        with self._open() as archive:
            members = archive.infolist()
            self._check(members)
            self._members = sorted(self._candidates(archive, members), key=lambda m: m.filename)
            names = [member.filename for member in self._members]
            listed = self._listed(archive, members)
        self.total = len(self._members)
        self._labels = folder_labels(names) if listed is None else listed
        self.warnings = label_warnings(listed, names) if listed is not None else []

    def images(self) -> Iterator[RawImage]:
        """Yield the images by name."""
        with self._open() as archive:
            for member in self._members:
                data, bad = self._read(archive, member, self._limit)
                yield RawImage(member.filename, data, self._labels.get(member.filename), "", bad)

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self._path)
        except _UNREADABLE as error:
            raise DataError(
                f"{self._path} is not a readable zip file: {error}", "make the archive again"
            ) from None

    def _check(self, members: list[zipfile.ZipInfo]) -> None:
        refuse_crowd(self._path, len(members))
        seen: dict[str, str] = {}
        for member in members:
            if fault := _fault(member):
                raise DataError(
                    f"{self._path}: member {member.orig_filename!r} {fault}",
                    "make the archive again from plain files with relative names",
                )
            refuse_bomb(self._path, f"member {member.filename!r}", member.compress_size, member.file_size)
            key = fold(member.filename)
            if key in seen:
                raise DataError(
                    f"{self._path}: members {seen[key]!r} and {member.filename!r} have the same name "
                    "where case and Unicode form do not count",
                    "rename one and make the archive again",
                )
            seen[key] = member.filename
        packed, unpacked = sum(m.compress_size for m in members), sum(m.file_size for m in members)
        size = self._path.stat().st_size
        refuse_bomb(self._path, "the archive", size, unpacked)
        if packed > size:
            raise DataError(
                f"{self._path}: members overlap; this is a decompression bomb", "do not open this file"
            )

    def _candidates(
        self, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]
    ) -> Iterator[zipfile.ZipInfo]:
        for member in members:
            name = member.filename
            if member.is_dir() or name == LABELS_FILE:
                continue
            if is_licence(name):
                self.licence = self.licence or first_lines(self._read(archive, member, self._limit)[0])
            elif is_hidden(name) or not (has_image_suffix(name) or self._sniff(archive, member)):
                self.ignored += 1
            else:
                yield member

    @staticmethod
    def _sniff(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
        try:
            with archive.open(member) as file:
                return looks_like_image(file.read(SNIFF_BYTES))
        except _UNREADABLE:
            return False

    @staticmethod
    def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> tuple[bytes, str]:
        if member.flag_bits & ENCRYPTED:
            return b"", "encrypted"
        if member.file_size > limit:
            return b"", f"{member.file_size} bytes, more than data.max_file_bytes = {limit}"
        try:
            with archive.open(member) as file:
                # The size in the directory is a claim; the reader stops at it, and the checksum then fails.
                return file.read(limit + 1), ""
        except _UNREADABLE as error:
            return b"", f"damaged in the archive ({' '.join(str(error).split())[:80]})"

    def _listed(self, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> dict[str, str] | None:
        member = next((m for m in members if m.filename == LABELS_FILE), None)
        if member is None:
            return None
        data, bad = self._read(archive, member, MAX_LABELS_BYTES)
        try:
            if bad:
                raise ValueError(bad)
            raw = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{self._path}: {LABELS_FILE} is not JSON: {error}", "make the archive again"
            ) from None
        return listed_labels(raw, str(self._path))


def _fault(member: zipfile.ZipInfo) -> str:
    raw = member.orig_filename.replace("\\", "/")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if not member.filename:
        return "has no name"
    if "\0" in raw:
        return "has a zero byte in its name"
    if raw.startswith("/") or re.match(r"[A-Za-z]:", raw):
        return "has an absolute name"
    if ".." in PurePosixPath(raw).parts:
        return "reaches outside the archive with '..'"
    if stat.S_ISLNK(kind):
        return "is a symbolic link"
    return "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "is a special file"
