"""The packed image set: one memory-mappable uint8 array, a parquet manifest and a JSON file of facts."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from graftgan.contract import canonical_json, digest_text, read_json, write_json
from graftgan.errors import MissingInput

SPLITS = ("train", "validation", "test", "unused")
IMAGES_FILE = "images.npy"
MANIFEST_FILE = "manifest.parquet"
FACTS_FILE = "dataset.json"

MANIFEST_SCHEMA = pa.schema(
    [
        ("row", pa.int32()),
        ("name", pa.string()),
        ("split", pa.string()),
        ("label", pa.int32()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),
        ("group", pa.string()),
        ("phash", pa.string()),
        ("duplicate_of", pa.int32()),
        ("near_group", pa.int32()),
        ("blank", pa.bool_()),
    ]
)


class ImageSet:
    """Reader of the folder that `prepare` writes.

    Attributes:
        folder: Where it lies.
        pixels: All images, a read-only memory map, uint8 [N, R, R, C], rows as in `manifest`.
        manifest: One row an image; columns as in `MANIFEST_SCHEMA`.
        facts: Content of `dataset.json`.
    """

    def __init__(
        self, folder: Path, pixels: npt.NDArray[np.uint8], manifest: pd.DataFrame, facts: dict[str, Any]
    ) -> None:
        self.folder = folder
        self.pixels = pixels
        self.manifest = manifest
        self.facts = facts

    @classmethod
    def open(cls, folder: Path) -> ImageSet:
        """Open a packed image set; no image is read yet.

        Raises:
            MissingInput: If a file is absent, unreadable, or does not fit the others.
        """
        remedy = "run `graftgan prepare`"
        facts = read_json(folder / FACTS_FILE)
        if not isinstance(facts, dict):
            raise MissingInput(f"{folder / FACTS_FILE} is not a JSON object", remedy)
        try:
            pixels = np.load(folder / IMAGES_FILE, mmap_mode="r", allow_pickle=False)
            manifest = pq.read_table(folder / MANIFEST_FILE).to_pandas()
        except FileNotFoundError as error:
            raise MissingInput(f"{error.filename or folder} does not exist", remedy) from None
        except (OSError, ValueError, EOFError, pa.ArrowException) as error:
            raise MissingInput(f"{folder} is not a packed image set: {error}", remedy) from None
        shape = (len(manifest), facts.get("resolution"), facts.get("resolution"), facts.get("channels"))
        if pixels.shape != shape or pixels.dtype != np.uint8 or set(MANIFEST_SCHEMA.names) - set(manifest):
            found = f"{pixels.dtype} {pixels.shape}"
            raise MissingInput(f"{folder}: images are {found}, the manifest says uint8 {shape}", remedy)
        return cls(folder, pixels, manifest, facts)

    def rows(self, split: str) -> npt.NDArray[np.intp]:
        """Return the row numbers of a split, ascending.

        Raises:
            KeyError: If `split` is none of `SPLITS`.
        """
        if split not in SPLITS:
            raise KeyError(f"no split {split!r}; the splits are {', '.join(SPLITS)}")
        return np.flatnonzero(self.manifest["split"].to_numpy() == split)

    def images(self, split: str) -> npt.NDArray[np.uint8]:
        """Return a copy of the images of a split, uint8 [n, R, R, C]; n is 0 for a missing split."""
        return np.asarray(self.pixels[self.rows(split)])

    def labels(self, split: str) -> npt.NDArray[np.int32]:
        """Return the label of each image of a split, int32 [n]; -1 means none."""
        return self.manifest["label"].to_numpy(dtype=np.int32)[self.rows(split)]

    def names(self, split: str) -> list[str]:
        """Return the name of each image of a split."""
        return [str(name) for name in self.manifest["name"].to_numpy()[self.rows(split)]]

    def size(self, split: str) -> int:
        """Return the number of images of a split."""
        return len(self.rows(split))

    @property
    def digest(self) -> str:
        """The sha256 over pixels, names, splits and labels."""
        return str(self.facts["digest"])

    @property
    def missing(self) -> dict[str, str]:
        """The splits that do not exist, each with the reason."""
        return dict(self.facts["missing"])

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return int(self.facts["resolution"])

    @property
    def channels(self) -> int:
        """Channels: 1 grey, 3 RGB, 4 RGBA."""
        return int(self.facts["channels"])

    @property
    def label_names(self) -> list[str]:
        """Name of each label; empty without labels."""
        return [str(name) for name in self.facts["labels"]]


def content_digest(manifest: pd.DataFrame, resolution: int, channels: int, labels: list[str]) -> str:
    """Return the sha256 over shape, label names, and name, pixels, split and label of each image."""
    columns = [manifest[key].tolist() for key in ("name", "sha256", "split", "label")]
    return digest_text(canonical_json([resolution, channels, labels, list(zip(*columns, strict=True))]))


def write_manifest(folder: Path, manifest: pd.DataFrame, facts: dict[str, Any]) -> None:
    """Write manifest and facts into a folder that already holds the pixels; equal input, equal bytes."""
    columns = [pa.array(manifest[f.name].to_numpy(), type=f.type, from_pandas=False) for f in MANIFEST_SCHEMA]
    table = pa.Table.from_arrays(columns, schema=MANIFEST_SCHEMA)
    pq.write_table(table, folder / MANIFEST_FILE, compression="zstd")
    write_json(folder / FACTS_FILE, facts)


@functools.lru_cache(maxsize=4)
def _epoch_order(n: int, seed: int, epoch: int) -> npt.NDArray[np.intp]:
    # Raw words, unlike Generator.permutation, are promised to stay the same across numpy versions.
    words = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(n)
    order = np.argsort(words, kind="stable")
    order.setflags(write=False)
    return order


def order(n: int, seed: int, start: int, count: int) -> npt.NDArray[np.intp]:
    """Return which image comes at places `start` to `start + count` of an endless stream of epochs.

    Each epoch is a permutation of all `n` images. The answer depends on the arguments alone, so training that
    goes on at `start` images seen needs no saved state of the sampler.

    Args:
        n: Number of images.
        seed: Seed of the stream.
        start: Images seen before.
        count: Images wanted.

    Returns:
        Indices in [0, n), shape [count].

    Raises:
        ValueError: If `n` is not positive, or `seed`, `start` or `count` is negative.
    """
    if n < 1 or min(seed, start, count) < 0:
        raise ValueError(f"order needs n >= 1 and no negative number, not {(n, seed, start, count)}")
    places = np.arange(start, start + count)
    indices = np.empty(count, dtype=np.intp)
    for epoch in range(start // n, -(-(start + count) // n)):
        inside = places // n == epoch
        indices[inside] = _epoch_order(n, seed, epoch)[places[inside] % n]
    return indices
