"""Assigns images to train, validation and test by content hash, so that nothing alike straddles a split."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from graftgan.config import Split
from graftgan.data.duplicates import Duplicates, UnionFind
from graftgan.errors import DataError

# Fewer images than these measure nothing: a KID on 4 images has an interval wider than any difference.
MIN_IMAGES = {"test": 10, "validation": 5}
# A cluster may be at most so many times the share of the split it falls into; larger ones train.
OVERSIZE = 2.0


@dataclass(frozen=True)
class Assignment:
    """Which image goes where.

    Attributes:
        split: "train", "validation", "test" or "unused" for each image.
        missing: Splits that do not exist, each with the reason.
        warnings: Sentences for people.
    """

    split: list[str]
    missing: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def count(self, name: str) -> int:
        """Return the number of images of a split."""
        return self.split.count(name)


def place(key: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on the key and the seed alone, uniform over keys."""
    word = hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:8]
    return (int.from_bytes(word, "big") >> 11) / (1 << 53)


def clusters(groups: Sequence[str], duplicates: Duplicates) -> npt.NDArray[np.int32]:
    """Return which images must stay together: exact and near duplicates and equal groups, by smallest row."""
    sets = UnionFind(len(groups))
    first: dict[str, int] = {}
    for row, (group, near) in enumerate(zip(groups, duplicates.near_group.tolist(), strict=True)):
        sets.union(row, near)
        if group:
            sets.union(row, first.setdefault(group, row))
    return sets.roots()


def cluster_keys(
    sha256: Sequence[str], groups: Sequence[str], together: npt.NDArray[np.int32]
) -> dict[int, str]:
    """Return a key for each cluster that does not depend on the order or number of other images.

    It is the smallest of the members' keys, where an image's key is its group, or its sha256 without a group.
    """
    keys: dict[int, str] = {}
    for sha, group, root in zip(sha256, groups, together.tolist(), strict=True):
        key = f"group {group}" if group else f"image {sha}"
        keys[root] = min(key, keys.get(root, key))
    return keys


def assign(
    sha256: Sequence[str],
    groups: Sequence[str],
    duplicates: Duplicates,
    shares: Split,
    seed: int,
    train_images: int | None = None,
) -> Assignment:
    """Split an image set.

    Every cluster of look-alikes has a place in [0, 1) by hash of its key and the seed. Below `shares.test`
    it is test, below `shares.test + shares.validation` validation, else train. So added images never move
    others, unless they join their cluster; the shares hold on average, not exactly. A split too small to be
    useful is declared missing and its images train. Exact duplicates are kept once, the rest is unused. So
    are held-out images of a cut chain that have a near duplicate in another split: none ever straddle.

    Args:
        sha256: Hash of the pixels of each image.
        groups: Group of each image, empty for none.
        duplicates: As `find_duplicates` found them.
        shares: Shares of validation and test.
        seed: Seed of the split.
        train_images: Number of training images to keep; None keeps all.

    Raises:
        DataError: If no image is left to train on.
    """
    kept = [of < 0 for of in duplicates.duplicate_of.tolist()]
    together = clusters(groups, duplicates)
    split, oversize = _by_place(sha256, groups, together, kept, shares, seed)
    missing = _drop_small(split, kept, shares)
    if left_out := straddling(split, duplicates.links.tolist()):
        kept = [keep and row not in left_out for row, keep in enumerate(kept)]
        missing |= _drop_small(split, kept, shares, missing)
    split = [name if keep else "unused" for name, keep in zip(split, kept, strict=True)]
    warnings = (
        list(oversize)
        + _left_out(left_out)
        + [f"there is no {name} split: {reason}" for name, reason in missing.items()]
    )
    if "train" not in split:
        raise DataError(
            "no image is left to train on",
            "lower data.split.validation and data.split.test, or change data.seed, or use finer groups",
        )
    warnings += _limit_training(split, sha256, seed, train_images)
    return Assignment(split, missing, tuple(warnings))


def _by_place(
    sha256: Sequence[str],
    groups: Sequence[str],
    together: npt.NDArray[np.int32],
    kept: Sequence[bool],
    shares: Split,
    seed: int,
) -> tuple[list[str], list[str]]:
    keys = cluster_keys(sha256, groups, together)
    sizes = np.bincount(together[np.array(kept)], minlength=len(kept))
    total = max(sum(kept), 1)
    names: dict[int, str] = {}
    warnings = []
    for root, key in keys.items():
        at = place(key, seed)
        name = (
            "test" if at < shares.test else "validation" if at < shares.test + shares.validation else "train"
        )
        share = {"test": shares.test, "validation": shares.validation, "train": 1.0}[name]
        if sizes[root] > 1 and sizes[root] > OVERSIZE * share * total:
            warnings.append(
                f"{sizes[root]} images that belong together are too many for {name} and train instead"
            )
            name = "train"
        names[root] = name
    return [names[root] for root in together.tolist()], warnings


def straddling(split: Sequence[str], links: Sequence[Sequence[int]]) -> set[int]:
    """Return the rows that must go so that no link joins two splits.

    Images that train stay. A test image goes if it is linked to one of them, and a validation image if it is
    linked to one of them or to a test image that stays.

    Args:
        split: Where each image is.
        links: Pairs of rows that must not be in different splits.
    """
    gone: set[int] = set()
    for leaving, staying in (("test", ("train",)), ("validation", ("train", "test"))):
        for pair in links:
            for row, other in (pair, pair[::-1]):
                if split[row] == leaving and split[other] in staying and other not in gone:
                    gone.add(row)
    return gone


def _left_out(rows: Collection[int]) -> list[str]:
    if not rows:
        return []
    return [
        f"{len(rows)} held-out images are unused, since they have near duplicates in another split; "
        "lower data.near_duplicate_bits if they are meant to differ"
    ]


def _drop_small(
    split: list[str], kept: Sequence[bool], shares: Split, gone: Collection[str] = ()
) -> dict[str, str]:
    missing = {}
    for name, least in ((name, least) for name, least in MIN_IMAGES.items() if name not in gone):
        count = sum(found == name and keep for found, keep in zip(split, kept, strict=True))
        share = getattr(shares, name)
        if count >= least:
            continue
        missing[name] = f"data.split.{name} is 0"
        if share > 0:
            missing[name] = (
                f"{count} of {sum(kept)} images fell to it and it needs {least}; they train instead"
            )
        split[:] = ["train" if found == name else found for found in split]
    return missing


def _limit_training(split: list[str], sha256: Sequence[str], seed: int, limit: int | None) -> list[str]:
    rows = [row for row, name in enumerate(split) if name == "train"]
    if limit is None or len(rows) <= limit:
        few = limit is not None and len(rows) < limit
        return [f"data.train_images is {limit}, but only {len(rows)} images train"] if few else []
    rows.sort(key=lambda row: hashlib.sha256(f"{seed}\0train\0{sha256[row]}".encode()).digest())
    for row in rows[limit:]:
        split[row] = "unused"
    return []
