"""What the readers of folders, archives and tables share: raw images, labels, and limits against bombs."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from graftgan.data.decoding import SUFFIXES
from graftgan.errors import DataError

LICENCE_STEMS = ("licence", "license", "notice", "copying")
LICENCE_LINES = 20
LICENCE_CHARACTERS = 2000
LICENCE_BYTES = 4 * LICENCE_CHARACTERS
LABELS_FILE = "dataset.json"

# Deflate cannot pack better than 1032:1. A flat drawing comes near that, so only large contents are judged.
BOMB_RATIO = 200
BOMB_MIN_BYTES = 256 << 20
MAX_ENTRIES = 2_000_000


@dataclass(frozen=True)
class RawImage:
    """One image file as it was found.

    Attributes:
        name: Path inside the source with forward slashes, or the name column of a table; unique.
        data: The whole file; empty if `bad`.
        label: Name of its class, or None.
        group: Images of one group are never split; empty for none.
        bad: Why it could not be read, or empty.
    """

    name: str
    data: bytes
    label: str | None = None
    group: str = ""
    bad: str = ""


class Source(Protocol):
    """An opened image set, not yet decoded.

    Attributes:
        total: Number of images that `images` will yield.
        ignored: Number of hidden and other files that are no images.
        licence: First lines of its licence, or empty.
        warnings: Sentences for people.
    """

    total: int
    ignored: int
    licence: str
    warnings: list[str]

    def images(self) -> Iterator[RawImage]:
        """Yield the images in the order of the manifest, reading each only when asked."""


def is_hidden(name: str) -> bool:
    """Tell whether a path is hidden, or is the bookkeeping of an operating system."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def has_image_suffix(name: str) -> bool:
    """Tell whether a name claims to be an image."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def is_licence(name: str) -> bool:
    """Tell whether a path is a licence or notice at the top of an image set."""
    path = PurePosixPath(name)
    return len(path.parts) == 1 and path.stem.lower() in LICENCE_STEMS and not has_image_suffix(name)


def first_lines(text: bytes) -> str:
    """Return the first lines of a licence text."""
    lines = text[:LICENCE_BYTES].decode("utf-8", "replace").splitlines()
    return "\n".join(line.rstrip() for line in lines[:LICENCE_LINES]).strip()[:LICENCE_CHARACTERS]


def clean_name(name: str) -> str:
    """Return a file name as text that can be stored: bytes that are not UTF-8 become escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def fold(name: str) -> str:
    """Return what a file system without case and with normalised Unicode makes of a name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def folder_labels(names: Iterable[str]) -> dict[str, str]:
    """Return the label of each name: the first folder below the folder that all names share.

    Names right in the shared folder have no label; without any sub-folder there are no labels at all.
    """
    parents = {name: PurePosixPath(name).parent.parts for name in names}
    if not parents:
        return {}
    first, last = min(parents.values()), max(parents.values())
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return {name: parts[shared] for name, parts in parents.items() if len(parts) > shared}


def listed_labels(raw: Any, origin: str) -> dict[str, str]:
    """Return the labels of a StyleGAN2-ADA `dataset.json`: `{"labels": [[name, integer], ...]}` or null.

    Raises:
        DataError: If it has another form.
    """
    remedy = 'write {"labels": [["folder/name.png", 0], ...]} or {"labels": null}'
    if not isinstance(raw, Mapping) or "labels" not in raw:
        raise DataError(f"{origin}: {LABELS_FILE} has no key 'labels'", remedy)
    labels = {}
    for entry in raw["labels"] or []:
        match entry:
            case [str(name), int(label)] if label >= 0:
                labels[name.replace("\\", "/")] = str(label)
            case _:
                raise DataError(
                    f"{origin}: {LABELS_FILE} has the label {entry!r:.80}, not [name, integer]", remedy
                )
    return labels


def label_warnings(labels: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """Return warnings about names that `dataset.json` lists but nobody has, or that it leaves out."""
    known = set(names)
    absent, unlabelled = sorted(set(labels) - known), sorted(known - set(labels))
    warnings = []
    if absent:
        warnings.append(
            f"{LABELS_FILE} labels {len(absent)} images that are not there, such as {absent[0]!r}"
        )
    if labels and unlabelled:
        warnings.append(
            f"{LABELS_FILE} leaves {len(unlabelled)} images without label, such as {unlabelled[0]!r}"
        )
    return warnings


def label_order(labels: Iterable[str]) -> list[str]:
    """Return the distinct labels in order: by value if all are whole numbers, else by code points."""
    distinct = set(labels)
    if all(label.isascii() and label.isdigit() for label in distinct):
        return sorted(distinct, key=lambda label: (int(label), label))
    return sorted(distinct)


def refuse_bomb(
    path: Path, what: str, packed: int, unpacked: int, ratio: int = BOMB_RATIO, least: int = BOMB_MIN_BYTES
) -> None:
    """Refuse contents that unpack to far more than they take up.

    Raises:
        DataError: If `unpacked` bytes are more than `least`, and more than `ratio` times `packed`.
    """
    if unpacked > least and unpacked > ratio * max(packed, 1):
        found = unpacked // max(packed, 1)
        raise DataError(
            f"{path}: {what} unpacks from {packed} to {unpacked} bytes ({found}:1), a decompression bomb",
            "do not open files from this source; if you trust it, unpack it and give the folder as data.path",
        )


def refuse_crowd(path: Path, entries: int) -> None:
    """Refuse more entries than any image set has.

    Raises:
        DataError: If there are more than `MAX_ENTRIES`.
    """
    if entries > MAX_ENTRIES:
        raise DataError(f"{path} has {entries} entries, more than {MAX_ENTRIES}", "split the image set")
