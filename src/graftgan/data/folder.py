"""Reads an image set from a folder, with class folders or a StyleGAN2-ADA `dataset.json` as labels."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graftgan.data.decoding import SNIFF_BYTES, looks_like_image
from graftgan.data.sources import (
    LABELS_FILE,
    LICENCE_BYTES,
    RawImage,
    clean_name,
    first_lines,
    folder_labels,
    has_image_suffix,
    is_hidden,
    is_licence,
    label_warnings,
    listed_labels,
    refuse_crowd,
)
from graftgan.errors import DataError


@dataclass(frozen=True)
class _File:
    name: str
    path: Path
    bad: str = ""


class FolderSource:
    """An image set in a folder and its sub-folders; symbolic links that leave the folder are never read.

    Args:
        path: The folder.
        max_file_bytes: Larger files are not read.

    Raises:
        DataError: If `dataset.json` is there but wrong.
    """

    def __init__(self, path: Path, max_file_bytes: int) -> None:
        self._root = path.resolve()
        self._limit = max_file_bytes
        self.ignored = 0
        self.licence = ""
        self._files = sorted(self._walk(), key=lambda file: file.name)
        refuse_crowd(path, len(self._files))
        self.total = len(self._files)
        names = [file.name for file in self._files]
        listed = self._listed()
        self._labels = folder_labels(names) if listed is None else listed
        self.warnings = label_warnings(listed, names) if listed is not None else []

    def images(self) -> Iterator[RawImage]:
        """Yield the images by name."""
        for file in self._files:
            label = self._labels.get(file.name)
            bad = file.bad
            data = b""
            if not bad:
                try:
                    size = file.path.stat().st_size
                    if size > self._limit:
                        bad = f"{size} bytes, more than data.max_file_bytes = {self._limit}"
                    else:
                        data = file.path.read_bytes()
                except OSError as error:
                    bad = f"cannot be read ({error.strerror})"
            yield RawImage(file.name, data, label, "", bad)

    def _walk(self) -> Iterator[_File]:
        for folder, folders, files in os.walk(self._root, onerror=_refuse):
            here = Path(folder)
            inside = "" if here == self._root else here.relative_to(self._root).as_posix() + "/"
            self.ignored += sum(is_hidden(name) for name in folders)
            folders[:] = [name for name in folders if not is_hidden(name)]
            for entry in [*files, *(name for name in folders if (here / name).is_symlink())]:
                path = here / entry
                name = clean_name(inside + entry)
                if is_licence(name) and path.is_file() and not path.is_symlink():
                    self.licence = self.licence or _licence(path)
                elif name != LABELS_FILE:
                    yield from self._candidate(name, path)

    def _candidate(self, name: str, path: Path) -> Iterator[_File]:
        bad = self._fault(path)
        if is_hidden(name) or not (
            has_image_suffix(name) or (bad and path.is_dir()) or self._sniff(path, bad)
        ):
            self.ignored += 1
        else:
            yield _File(name, path, bad)

    def _fault(self, path: Path) -> str:
        try:
            if path.is_symlink():
                target = path.resolve(strict=True)
                if not target.is_relative_to(self._root):
                    return "symbolic link that leaves the folder"
                if target.is_dir():
                    return "symbolic link to a folder"
            return "" if stat.S_ISREG(path.stat().st_mode) else "not a regular file"
        except (OSError, RuntimeError):
            return "symbolic link to nowhere"

    @staticmethod
    def _sniff(path: Path, bad: str) -> bool:
        if bad:
            return False
        try:
            with path.open("rb") as file:
                return looks_like_image(file.read(SNIFF_BYTES))
        except OSError:
            return False

    def _listed(self) -> dict[str, str] | None:
        path = self._root / LABELS_FILE
        if not path.is_file() or self._fault(path):
            return None
        try:
            raw = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not JSON: {error}", "correct or remove it") from None
        return listed_labels(raw, str(path.parent))


def _licence(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return first_lines(file.read(LICENCE_BYTES))
    except OSError:
        return ""


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be listed: {error.strerror}", "make it readable") from error
