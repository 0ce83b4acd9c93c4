from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftgan.data.dataset import (
    IMAGES_FILE,
    MANIFEST_FILE,
    MANIFEST_SCHEMA,
    ImageSet,
    content_digest,
    order,
    write_manifest,
)
from graftgan.data.slots import PixelWriter
from graftgan.errors import MissingInput

from .pictures import noise

SPLIT = ["test", "train", "train", "validation", "unused"]


def manifest(n: int = 5) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "row": range(n),
            "name": [f"a/{i}.png" for i in range(n)],
            "split": SPLIT[:n],
            "label": [0, 1, -1, 0, 1][:n],
            "sha256": [f"{i:064x}" for i in range(n)],
            "width": 48,
            "height": 40,
            "mode": "RGB",
            "group": "",
            "phash": "0" * 16,
            "duplicate_of": -1,
            "near_group": range(n),
            "blank": False,
        }
    )


def write_set(folder: Path, pixels: np.ndarray, **facts: Any) -> Path:
    folder.mkdir(exist_ok=True)
    with PixelWriter(folder / IMAGES_FILE, pixels.shape[1], pixels.shape[3]) as writer:
        for image in pixels:
            writer.append(image)
    standard = {"digest": "d" * 64, "resolution": pixels.shape[1], "channels": pixels.shape[3]}
    standard |= {"missing": {"test": "too few"}, "labels": ["cat", "dog"]}
    write_manifest(folder, manifest(), standard | facts)
    return folder


@pytest.fixture
def pixels() -> np.ndarray:
    return np.stack([noise(seed, 32, 32) for seed in range(5)])


def test_what_was_written_is_read_back_as_a_memory_map(tmp_path: Path, pixels: np.ndarray) -> None:
    images = ImageSet.open(write_set(tmp_path / "set", pixels))
    assert isinstance(images.pixels, np.memmap) and not images.pixels.flags.writeable
    np.testing.assert_array_equal(images.pixels, pixels)
    np.testing.assert_array_equal(images.images("train"), pixels[1:3])
    assert images.images("train").dtype == np.uint8 and images.images("train").flags.writeable
    assert images.labels("train").tolist() == [1, -1] and images.labels("train").dtype == np.int32
    assert images.names("validation") == ["a/3.png"]
    assert images.rows("unused").tolist() == [4] and images.size("test") == 1
    assert (images.resolution, images.channels, images.digest) == (32, 3, "d" * 64)
    assert images.missing == {"test": "too few"} and images.label_names == ["cat", "dog"]


def test_manifest_has_the_stated_columns_and_equal_bytes(tmp_path: Path, pixels: np.ndarray) -> None:
    a, b = write_set(tmp_path / "a", pixels), write_set(tmp_path / "b", pixels)
    for file in (IMAGES_FILE, MANIFEST_FILE, "dataset.json"):
        assert (a / file).read_bytes() == (b / file).read_bytes()
    read = ImageSet.open(a).manifest
    assert list(read) == MANIFEST_SCHEMA.names
    assert read["label"].dtype == np.int32 and read["blank"].dtype == bool


@pytest.mark.parametrize("file", [IMAGES_FILE, MANIFEST_FILE, "dataset.json"])
@pytest.mark.parametrize("damage", ["remove", "cut", "junk"])
def test_damaged_sets_are_missing_inputs_that_name_the_remedy(
    tmp_path: Path, pixels: np.ndarray, file: str, damage: str
) -> None:
    folder = write_set(tmp_path / "set", pixels)
    path = folder / file
    content = path.read_bytes()
    path.unlink()
    if damage != "remove":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"\x00junk")
    with pytest.raises(MissingInput) as error:
        ImageSet.open(folder)
    assert "set" in error.value.message and error.value.remedy


def test_arrays_that_do_not_fit_the_manifest_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    folder = write_set(tmp_path / "set", pixels[:4])
    with pytest.raises(MissingInput, match="manifest"):
        ImageSet.open(folder)
    with pytest.raises(MissingInput, match="manifest"):
        ImageSet.open(write_set(tmp_path / "other", pixels, channels=1))


def test_pickled_arrays_are_never_loaded(tmp_path: Path, pixels: np.ndarray) -> None:
    folder = write_set(tmp_path / "set", pixels)
    np.save(folder / IMAGES_FILE, np.array([{"a": 1}], dtype=object))
    with pytest.raises(MissingInput):
        ImageSet.open(folder)


def test_unknown_split_is_named(tmp_path: Path, pixels: np.ndarray) -> None:
    with pytest.raises(KeyError, match="'val'"):
        ImageSet.open(write_set(tmp_path / "set", pixels)).images("val")


@pytest.mark.parametrize("column", ["name", "sha256", "split", "label"])
def test_digest_sees_every_column_that_matters_and_no_other(column: str) -> None:
    table = manifest()
    before = content_digest(table, 32, 3, ["cat"])
    assert content_digest(table.assign(width=99, phash="f" * 16), 32, 3, ["cat"]) == before
    assert content_digest(table, 64, 3, ["cat"]) != before
    assert content_digest(table, 32, 1, ["cat"]) != before
    assert content_digest(table, 32, 3, ["dog"]) != before
    assert content_digest(table.assign(**{column: table[column].to_numpy()[::-1]}), 32, 3, ["cat"]) != before


@given(n=st.integers(1, 40), seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6))
def test_every_epoch_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    assert sorted(order(n, seed, epoch * n, n).tolist()) == list(range(n))


@given(
    n=st.integers(1, 30),
    seed=st.integers(0, 99),
    start=st.integers(0, 200),
    sizes=st.lists(st.integers(0, 50)),
)
def test_resumed_slices_equal_the_uninterrupted_stream(
    n: int, seed: int, start: int, sizes: list[int]
) -> None:
    whole = order(n, seed, start, sum(sizes)).tolist()
    parts: list[int] = []
    for size in sizes:
        parts += order(n, seed, start + len(parts), size).tolist()
    assert parts == whole


def test_order_is_fixed_for_ever_and_changes_with_seed_and_epoch() -> None:
    assert order(8, 0, 0, 16).tolist() == EXPECTED
    assert order(8, 1, 0, 16).tolist() != EXPECTED
    assert EXPECTED[:8] != EXPECTED[8:]


def test_first_places_are_uniform_over_seeds() -> None:
    counts = np.bincount([int(order(10, seed, 0, 1)[0]) for seed in range(5000)], minlength=10)
    # Chi-square with 9 degrees of freedom; 27.9 is its 0.999 quantile.
    assert ((counts - 500) ** 2 / 500).sum() < 27.9


@pytest.mark.parametrize("arguments", [(0, 0, 0, 1), (3, -1, 0, 1), (3, 0, -1, 1), (3, 0, 0, -1)])
def test_order_refuses_nonsense(arguments: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="order needs"):
        order(*arguments)


def test_callers_cannot_change_the_stream() -> None:
    first = order(5, 3, 0, 5)
    first[:] = 0
    assert sorted(order(5, 3, 0, 5).tolist()) == [0, 1, 2, 3, 4]


EXPECTED = [0, 2, 1, 5, 4, 3, 6, 7, 5, 3, 7, 2, 4, 1, 0, 6]
