"""The images of an image-to-image task: pairs or two sets, read and split so that nothing leaks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from graftgan.contract import canonical_json, digest_text
from graftgan.data.decoding import BadImageError, DecodeOptions, decode
from graftgan.data.duplicates import Duplicates
from graftgan.data.importing import open_source
from graftgan.data.making import halves, make_input
from graftgan.data.sources import has_image_suffix
from graftgan.data.splitting import assign
from graftgan.errors import DataError, MissingInput
from graftgan.lifelong_config import TaskData

Images = npt.NDArray[np.uint8]

CHANNELS = 3
TONE = "-skin-tone"
"""Some emoji sets have this in names where others have not."""
SHOWN_NAMES = 3


@dataclass(frozen=True)
class Part:
    """Images of one split.

    Attributes:
        inputs: uint8 [N, R, R, 3].
        targets: uint8 [M, R, R, 3]; of a paired task, row i is what row i of `inputs` should become.
        names: Base name of each input.
        groups: Group of each input; inputs of a group show nearly the same.
    """

    inputs: Images
    targets: Images
    names: tuple[str, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True)
class TaskImages:
    """All images of a task.

    Attributes:
        data: What was asked for.
        parts: Splits that exist: train, and, unless they would be too small, validation and test.
        missing: Splits that do not, each with the reason.
        digest: sha256 over pixels, names and splits.
        warnings: Sentences for people.
        licences: Each set, by the name of its file or folder, with the first lines of its licence; empty
            where it states none.
    """

    data: TaskData
    parts: dict[str, Part]
    missing: dict[str, str]
    digest: str
    warnings: tuple[str, ...]
    licences: tuple[tuple[str, str], ...] = ()

    def part(self, name: str) -> Part:
        """Return a split.

        Raises:
            DataError: The task has too few images for it.
        """
        if name not in self.parts:
            reason = self.missing.get(name, "there is none")
            raise DataError(f"{self.data.target} has no {name} images: {reason}", "give the task more images")
        return self.parts[name]


@dataclass(frozen=True)
class _Set:
    """Decoded images by name."""

    where: str
    pixels: Images
    names: list[str]
    groups: list[str]
    licence: str = ""


def base_name(name: str) -> str:
    """Return what pairs the two images of a pair: the name without suffix and without ``-skin-tone``."""
    path = PurePosixPath(name)
    stem = path.with_suffix("").as_posix() if has_image_suffix(name) else name
    return stem.replace(TONE, "")


def load_task(data: TaskData) -> TaskImages:
    """Read, pair and split the images of a task.

    Images of one base name or group fall into one split, as do equal targets, by a hash of the name and
    `data.seed` alone: a picture held out of one task is held out of every task that has the same seed.

    Raises:
        MissingInput: `data.input` or `data.target` does not exist.
        DataError: Images cannot be read or paired, or none is left to train on.
    """
    if data.kind == "unpaired":
        return _unpaired(data)
    warnings: list[str] = []
    if data.make is None:
        inputs, targets, warnings = _matched(_read(data, "input"), _read(data, "target"), data)
    elif data.make in ("left", "right"):
        inputs, targets = _cut(_read(data, "target", 2), data.make == "left")
    else:
        targets = _read(data, "target")
        make, factor = data.make, data.lowres_factor
        made = np.stack([make_input(image, make, factor) for image in targets.pixels])
        inputs = replace(targets, pixels=made)
    rows, missing, told = _split(inputs, targets, data)
    parts = {
        name: Part(
            inputs.pixels[chosen], targets.pixels[chosen],
            tuple(inputs.names[i] for i in chosen), tuple(inputs.groups[i] for i in chosen),
        )
        for name, chosen in rows.items()
    }  # fmt: skip
    licences = _licences(inputs, targets)
    return TaskImages(data, parts, missing, _digest(parts), (*warnings, *told), licences)


def _unpaired(data: TaskData) -> TaskImages:
    first, second = _read(data, "input"), _read(data, "target")
    gone: dict[str, str] = {}
    for key, images in (("input", first), ("target", second)):
        gone |= {name: f"{key}: {reason}" for name, reason in _split(images, images, data)[1].items()}
    # What one set cannot hold out trains in both, so that neither loses images.
    shares = data.split.model_copy(update=dict.fromkeys(gone, 0.0))
    data = data.model_copy(update={"split": shares})
    (rows, _, told), (others, _, told_too) = (_split(images, images, data) for images in (first, second))
    parts = {
        name: Part(
            first.pixels[chosen], second.pixels[others[name]],
            tuple(first.names[i] for i in chosen), tuple(first.groups[i] for i in chosen),
        )
        for name, chosen in rows.items()
        if name in others
    }  # fmt: skip
    lacking = tuple(f"there is no {name} split: {reason}" for name, reason in gone.items())
    others_told = tuple(text for text in (*told, *told_too) if not text.startswith("there is no "))
    licences = _licences(first, second)
    return TaskImages(data, parts, gone, _digest(parts), (*lacking, *others_told), licences)


def _licences(*sets: _Set) -> tuple[tuple[str, str], ...]:
    return tuple(dict.fromkeys((Path(images.where).name, images.licence) for images in sets))


def _read(data: TaskData, key: str, enlarged: int = 1) -> _Set:
    """Decode all images at a place; with `enlarged`, so many times the resolution, stretched."""
    where = str(getattr(data, key))
    path = Path(where)
    if not path.exists():
        raise MissingInput(f"{key}: {path} does not exist", f"correct {key} in the task's description")
    options = DecodeOptions(
        data.resolution * enlarged, CHANNELS, "crop" if enlarged == 1 else "stretch", "lanczos",
        data.background, data.max_pixels, data.max_file_bytes,
    )  # fmt: skip
    pixels, names, groups = [], [], []
    source = open_source(path, data.max_file_bytes)
    for raw in source.images():
        if raw.bad:
            raise DataError(f"{key}: {path}: {raw.name}: {raw.bad}", "replace or remove this image")
        try:
            pixels.append(decode(raw.data, options).pixels)
        except BadImageError as error:
            raise DataError(f"{key}: {path}: {raw.name}: {error}", "replace or remove this image") from None
        names.append(base_name(raw.name))
        groups.append(raw.group or names[-1])
    _refuse_twins(names, key, where)
    return _Set(where, np.stack(pixels), names, groups, source.licence)


def _refuse_twins(names: Sequence[str], key: str, where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{key}: {where} has two images called {name}", "remove or rename one of them")
        seen.add(name)


def _matched(inputs: _Set, targets: _Set, data: TaskData) -> tuple[_Set, _Set, list[str]]:
    """Keep what both sets have, in the order of names."""
    at = {name: i for i, name in enumerate(inputs.names)}
    to = {name: i for i, name in enumerate(targets.names)}
    both = sorted(at.keys() & to.keys())
    if not both:
        examples = f"such as {min(at)!r} and {min(to)!r}"
        raise DataError(
            f"input {data.input} and target {data.target} have no name in common, {examples}",
            "give both images of a pair the same file name, or set kind: unpaired",
        )
    warnings = []
    for key, names in (("input", at), ("target", to)):
        alone = sorted(names.keys() - set(both))
        if alone:
            some = ", ".join(alone[:SHOWN_NAMES])
            warnings.append(f"{len(alone)} images of {key} {getattr(data, key)} have no partner: {some}")
    return _taken(inputs, [at[name] for name in both]), _taken(targets, [to[name] for name in both]), warnings


def _taken(images: _Set, rows: list[int]) -> _Set:
    names, groups = ([kept[i] for i in rows] for kept in (images.names, images.groups))
    return replace(images, pixels=images.pixels[rows], names=names, groups=groups)


def _cut(both: _Set, left_is_input: bool) -> tuple[_Set, _Set]:
    pairs = [halves(image) for image in both.pixels]
    left, right = (np.stack(side) for side in zip(*pairs, strict=True))
    first, second = (left, right) if left_is_input else (right, left)
    return replace(both, pixels=first), replace(both, pixels=second)


def _split(
    inputs: _Set, targets: _Set, data: TaskData
) -> tuple[dict[str, list[int]], dict[str, str], tuple[str, ...]]:
    """Return the rows of each split, why splits are missing, and warnings."""
    pairs = [_sha(a.tobytes() + b.tobytes()) for a, b in zip(inputs.pixels, targets.pixels, strict=True)]
    first = _first_equal(pairs)
    duplicate_of = np.where(first == np.arange(len(first)), np.int32(-1), first)
    alike = _first_equal([_sha(image.tobytes()) for image in targets.pixels])
    duplicates = Duplicates(duplicate_of, alike)
    given = assign(pairs, targets.groups, duplicates, data.split, data.seed, data.train_images)
    rows = {
        name: [i for i, found in enumerate(given.split) if found == name]
        for name in ("train", "validation", "test")
    }
    return {name: found for name, found in rows.items() if found}, dict(given.missing), given.warnings


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _first_equal(keys: Sequence[str]) -> npt.NDArray[np.int32]:
    """Return for each row the first row with the same key, which may be itself."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(key, row) for row, key in enumerate(keys)], dtype=np.int32)


def _digest(parts: dict[str, Part]) -> str:
    told = [
        [name, list(part.names), _sha(part.inputs.tobytes()), _sha(part.targets.tobytes())]
        for name, part in sorted(parts.items())
    ]
    return digest_text(canonical_json(told))
