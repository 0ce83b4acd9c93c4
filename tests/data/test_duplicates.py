from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from graftgan.data.duplicates import (
    GIANT_MIN_IMAGES,
    NEAR_RMS,
    Duplicates,
    UnionFind,
    close_hashes,
    cluster,
    find_duplicates,
    thumbnail,
    unpack_hashes,
)
from graftgan.data.packing import Packed, pack_one
from graftgan.data.sources import RawImage
from scripts import loaded

from .pictures import encode, options, smooth

measuring: Any = loaded("measuring")


def find(files: list[bytes], bits: int = 2, resolution: int = 32) -> Duplicates:
    packed = [
        pack_one(RawImage(str(i), data), options(resolution=resolution)) for i, data in enumerate(files)
    ]
    return find_packed(packed, bits)


def find_packed(packed: list[Packed], bits: int = 2) -> Duplicates:
    pixels = np.stack([p.pixels for p in packed if p.pixels is not None])
    return find_duplicates([p.sha256 for p in packed], [p.phash for p in packed], pixels, bits)


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40))
def test_union_find_is_the_transitive_closure(pairs: list[tuple[int, int]]) -> None:
    sets = UnionFind(20)
    reach = np.eye(20, dtype=bool)
    for a, b in pairs:
        sets.union(a, b)
        reach[a, b] = reach[b, a] = True
    for _ in range(5):
        reach = reach @ reach
    assert sets.roots().tolist() == [int(np.flatnonzero(row)[0]) for row in reach]


@settings(deadline=None)
@given(n=st.integers(1, 60), bits=st.integers(0, 16), seed=st.integers(0, 99), flips=st.floats(0.0, 0.5))
def test_close_hashes_are_those_of_a_plain_count(n: int, bits: int, seed: int, flips: float) -> None:
    rng = np.random.default_rng(seed)
    hashes = (rng.random(64) < 0.5) ^ (rng.random((n, 64)) < flips)
    expected = [(a, b) for a in range(n) for b in range(a + 1, n) if (hashes[a] ^ hashes[b]).sum() <= bits]
    assert [tuple(pair) for pair in close_hashes(hashes, bits).tolist()] == expected


def test_close_hashes_across_blocks() -> None:
    hashes = np.random.default_rng(0).random((2500, 64)) < 0.5
    hashes[2499] = hashes[3]
    hashes[2499, 5] ^= True
    assert close_hashes(hashes, 1).tolist() == [[3, 2499]]
    assert close_hashes(hashes, 0).tolist() == []


def test_close_hashes_are_sorted_across_blocks_of_columns() -> None:
    hashes = np.random.default_rng(0).random((9000, 64)) < 0.5
    alike = [3, 5, 2000, 4200, 8999]
    hashes[alike] = hashes[3]
    expected = [[a, b] for at, a in enumerate(alike) for b in alike[at + 1 :]]
    assert close_hashes(hashes, 1).tolist() == expected


def test_memory_of_the_search_does_not_grow_with_the_square_of_the_images() -> None:
    hashes = np.random.default_rng(0).random((16_000, 64)) < 0.5
    close_hashes(hashes[:100], 1)
    # The signs, a block and its comparison; all columns at once would take 80 MiB.
    assert measuring.extra_mib(lambda: close_hashes(hashes, 1)) < 45


def test_hashes_unpack_from_hex() -> None:
    bits = unpack_hashes(["8000000000000001", "ffffffffffffffff"])
    assert bits.shape == (2, 64) and np.flatnonzero(bits[0]).tolist() == [0, 63] and bits[1].all()


def test_exact_duplicates_are_told_by_pixels_not_by_files() -> None:
    found = find(
        [encode(smooth(0, 32)), encode(smooth(1, 32)), encode(smooth(0, 32), "BMP"), encode(smooth(0, 32))]
    )
    assert found.duplicate_of.tolist() == [-1, -1, 0, 0]
    assert found.near_group.tolist() == [0, 1, 0, 0]
    assert found.exact == 2 and not found.near_rows.any()


@pytest.mark.parametrize("resolution", [32, 64])
def test_encoded_again_or_slightly_brighter_is_near(resolution: int) -> None:
    original = smooth(3)
    again = [encode(original, "JPEG", quality=75), encode(original, "WEBP", quality=70)]
    brighter = encode(Image.fromarray(np.clip(np.asarray(original).astype(int) + 3, 0, 255).astype(np.uint8)))
    found = find([encode(original), encode(smooth(4)), *again, brighter], resolution=resolution)
    assert found.near_group.tolist() == [0, 1, 0, 0, 0] and found.exact == 0
    assert found.near_rows.tolist() == [False, False, True, True, True]


def drawing(shirt: tuple[int, int, int], eyes: int) -> Image.Image:
    """A figure on white; the perceptual hash sees little but its outline."""
    image = Image.new("RGB", (32, 32), "white")
    image.paste(shirt, (8, 20, 24, 32))
    image.paste((230, 190, 160), (10, 6, 22, 20))
    image.paste((0, 0, 0), (13, 10 + eyes, 15, 12 + eyes))
    image.paste((0, 0, 0), (18, 10 + eyes, 20, 12 + eyes))
    return image


def test_drawings_that_share_a_hash_are_not_near_duplicates() -> None:
    colours = [(r, g, 90) for r in (0, 120, 240) for g in (0, 120, 240)]
    packed = [pack_one(RawImage(str(c), encode(drawing(c, 0))), options(resolution=32)) for c in colours]
    pixels = np.stack([p.pixels for p in packed if p.pixels is not None])
    hashes = unpack_hashes([p.phash for p in packed])
    assert len(close_hashes(hashes, 2)) > 5
    assert find_packed(packed).near_group.tolist() == list(range(len(colours)))
    assert len(pixels) == len(colours)


def test_confirmation_in_pixels_is_the_stated_limit() -> None:
    base = np.random.default_rng(0).integers(20, 200, (32, 32, 3)).astype(np.uint8)
    pixels = np.stack([base, base + int(NEAR_RMS), base + int(NEAR_RMS) + 1])
    found = find_duplicates(["a", "b", "c"], ["0" * 16] * 3, pixels, 0)
    assert found.near_group.tolist() == [0, 0, 0]
    assert find_duplicates(["a", "c"], ["0" * 16] * 2, pixels[[0, 2]], 0).near_group.tolist() == [0, 1]


def test_zero_bits_still_needs_equal_hashes() -> None:
    pixels = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    assert find_duplicates(["a", "b"], ["0" * 16, "0" * 15 + "1"], pixels, 0).near_group.tolist() == [0, 1]
    assert find_duplicates(["a", "b"], ["0" * 16, "0" * 15 + "1"], pixels, 1).near_group.tolist() == [0, 0]


def chain(length: int) -> tuple[list[str], np.ndarray]:
    """Images that each are like the next, while the ends are far apart."""
    pixels = np.zeros((length, 32, 32, 1), dtype=np.uint8)
    pixels += (np.arange(length) * 6).astype(np.uint8)[:, None, None, None]
    return ["0" * 16] * length, pixels


def test_short_chains_stay_whole() -> None:
    phash, pixels = chain(GIANT_MIN_IMAGES)
    found = find_duplicates([str(i) for i in range(len(phash))], phash, pixels, 2)
    assert set(found.near_group.tolist()) == {0} and found.broken_up == () and found.links.shape == (0, 2)


def test_giant_chains_are_cut_around_leaders() -> None:
    phash, pixels = chain(30)
    found = find_duplicates([str(i) for i in range(30)], phash, pixels, 2)
    assert found.broken_up == (30,)
    # Steps of 6 levels and a limit of 8: each leader reaches only its next neighbour.
    assert found.near_group.tolist() == [i - i % 2 for i in range(30)]
    assert found.links.tolist() == [[i, i + 1] for i in range(1, 29, 2)]


@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=60), st.integers(1, 30))
def test_after_the_cut_each_member_is_near_its_leader(raw: list[tuple[int, int]], limit: int) -> None:
    pairs = np.array(sorted({(min(p), max(p)) for p in raw if p[0] != p[1]}), dtype=np.intp).reshape(-1, 2)
    roots, broken_up = cluster(30, pairs, limit)
    whole = UnionFind(30)
    for a, b in pairs.tolist():
        whole.union(a, b)
    sizes = np.bincount(whole.roots(), minlength=30)
    assert sorted(broken_up) == sorted(int(size) for size in sizes if size > limit)
    known = {tuple(pair) for pair in pairs.tolist()}
    for row, (root, before) in enumerate(zip(roots.tolist(), whole.roots().tolist(), strict=True)):
        assert roots[root] == root <= row
        if sizes[before] > limit:
            assert root == row or (root, row) in known
        else:
            assert root == before


def test_thumbnail_averages() -> None:
    image = np.arange(64 * 64 * 2, dtype=np.int64).reshape(64, 64, 2) % 251
    small = thumbnail(image.astype(np.uint8)).reshape(32, 32, 2)
    assert small[3, 5, 1] == image[6:8, 10:12, 1].mean()


def test_no_pairs_at_all() -> None:
    found = find([encode(smooth(0))])
    assert found.duplicate_of.tolist() == [-1] and found.near_group.tolist() == [0]


@pytest.mark.parametrize("side", [8, 32, 64, 1024])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_thumbnails_are_means_to_the_last_bit(side: int, channels: int) -> None:
    image = np.random.default_rng(side).integers(0, 256, (side, side, channels), dtype=np.uint8)
    small = min(side, 32)
    cells = image.reshape(small, side // small, small, side // small, channels)
    for array in (cells, np.full_like(cells, 255)):
        means = array.mean(axis=(1, 3), dtype=np.float64).astype(np.float32)
        found = thumbnail(array.reshape(image.shape))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, means.ravel())
