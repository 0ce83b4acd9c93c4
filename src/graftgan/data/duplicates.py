"""Exact duplicates by the sha256 of the pixels, near duplicates by perceptual hash confirmed in pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

# Drawings on a white ground share perceptual hashes without being alike: among 2,000 avatars, thousands of
# pairs. The difference in pixels tells them from re-encoded copies (measured 1 to 7 levels).
NEAR_RMS = 8.0
THUMBNAIL_SIDE = 32
GIANT_SHARE = 0.05
GIANT_MIN_IMAGES = 10
_BLOCK_ROWS = 1024
_BLOCK_COLUMNS = 4096
_PAIRS_AT_ONCE = 4096

Pairs = npt.NDArray[np.intp]


class UnionFind:
    """Disjoint sets of the numbers 0 to n - 1; the smallest member stands for its set."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def find(self, item: int) -> int:
        """Return the smallest member of the set of `item`."""
        root = item
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[item] != root:
            self._parent[item], item = root, self._parent[item]
        return root

    def union(self, a: int, b: int) -> None:
        """Join the sets of `a` and `b`."""
        low, high = sorted((self.find(a), self.find(b)))
        self._parent[high] = low

    def roots(self) -> npt.NDArray[np.int32]:
        """Return the smallest member of the set of each number."""
        return np.array([self.find(item) for item in range(len(self._parent))], dtype=np.int32)


@dataclass(frozen=True)
class Duplicates:
    """What is equal or nearly equal to what, by row.

    Attributes:
        duplicate_of: First row with the same pixels, or -1 for the first itself, int32 [n].
        near_group: First row of the cluster of near duplicates; a row without any is its own, int32 [n].
        broken_up: Size of each chain of look-alikes that was too long and was cut around its leaders.
        links: Near duplicates that a cut put into different clusters, pairs of rows, int [m, 2].
    """

    duplicate_of: npt.NDArray[np.int32]
    near_group: npt.NDArray[np.int32]
    broken_up: tuple[int, ...] = ()
    links: Pairs = field(default_factory=lambda: np.empty((0, 2), dtype=np.intp))

    @property
    def exact(self) -> int:
        """Number of images that repeat an earlier one."""
        return int((self.duplicate_of >= 0).sum())

    @property
    def near_rows(self) -> npt.NDArray[np.bool_]:
        """Whether each row, not an exact duplicate, is nearly equal to an earlier one."""
        own = self.near_group == np.arange(len(self.near_group))
        return np.asarray(~own & (self.duplicate_of < 0))


def find_duplicates(
    sha256: Sequence[str], phash: Sequence[str], pixels: npt.NDArray[np.uint8], bits: int
) -> Duplicates:
    """Find exact and near duplicates.

    Two images are near duplicates if their perceptual hashes differ in at most `bits` bits and their pixels,
    averaged to at most 32 x 32, by at most `NEAR_RMS` levels (root mean square). Clusters are chains of such
    pairs. A chain of more than `GIANT_SHARE` of all images would make the split one-sided: it is cut into
    clusters whose members are all near duplicates of the cluster's first image. The pairs that a cut parts
    are kept as `links`, so that the split can leave out what would straddle it.

    Args:
        sha256: Hash of the pixels of each image.
        phash: Perceptual hash of each image as hex, all of one length.
        pixels: The images, uint8 [n, R, R, C]; may be memory-mapped.
        bits: Largest Hamming distance of near duplicates.
    """
    first: dict[str, int] = {}
    duplicate_of = np.full(len(sha256), -1, dtype=np.int32)
    for row, sha in enumerate(sha256):
        if first.setdefault(sha, row) != row:
            duplicate_of[row] = first[sha]
    distinct = np.flatnonzero(duplicate_of < 0)
    pairs = distinct[close_hashes(unpack_hashes([phash[row] for row in distinct.tolist()]), bits)]
    pairs = pairs[_confirmed(pairs, pixels)]
    limit = max(GIANT_MIN_IMAGES, int(GIANT_SHARE * len(distinct)))
    near_group, broken_up = cluster(len(sha256), pairs, limit)
    near_group = np.where(duplicate_of >= 0, near_group[duplicate_of], near_group)
    links = pairs[near_group[pairs[:, 0]] != near_group[pairs[:, 1]]]
    return Duplicates(duplicate_of, near_group.astype(np.int32), broken_up, links)


def unpack_hashes(hashes: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return hex hashes as bits, bool [n, bits]."""
    rows = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8).reshape(len(hashes), -1)
    return np.unpackbits(rows, axis=1).astype(np.bool_)


def close_hashes(hashes: npt.NDArray[np.bool_], bits: int) -> Pairs:
    """Return all pairs of rows (a < b) whose Hamming distance is at most `bits`, int [m, 2], sorted.

    With signs s in {-1, 1} the distance of two rows of k bits is (k - s_a . s_b) / 2, so that blocks of
    distances come from matrix products, exact in float32. Time grows with n squared: about 1 s for 20,000.
    """
    signs = np.where(hashes, 1, -1).astype(np.float32)
    least = hashes.shape[1] - 2 * bits - 0.5
    found = [np.empty((0, 2), dtype=np.intp)]
    for start in range(0, len(signs), _BLOCK_ROWS):
        block, parts = signs[start : start + _BLOCK_ROWS], []
        for across in range(start, len(signs), _BLOCK_COLUMNS):
            a, b = np.nonzero(block @ signs[across : across + _BLOCK_COLUMNS].T > least)
            pairs = np.stack([a + start, b + across], axis=1)
            parts.append(pairs[pairs[:, 0] < pairs[:, 1]])
        rows = np.concatenate(parts)
        # Stable: columns are in order already, block by block.
        found.append(rows[np.argsort(rows[:, 0], kind="stable")])
    return np.concatenate(found)


def cluster(n: int, pairs: Pairs, limit: int) -> tuple[npt.NDArray[np.int32], tuple[int, ...]]:
    """Return the cluster of each of `n` rows, named by its smallest row, and the sizes of those cut up.

    Args:
        n: Number of rows.
        pairs: Rows that belong together, int [m, 2].
        limit: Largest chain that is left whole.
    """
    sets = UnionFind(n)
    for a, b in pairs.tolist():
        sets.union(a, b)
    roots = sets.roots()
    sizes = np.bincount(roots, minlength=n)
    giants = np.flatnonzero(sizes > limit)
    near: dict[int, list[int]] = {}
    for a, b in pairs[np.isin(roots[pairs[:, 0]], giants)].tolist():
        near.setdefault(a, []).append(b)
    for members in (np.flatnonzero(roots == giant) for giant in giants):
        _cut_around_leaders(members, near, roots)
    return roots, tuple(int(size) for size in sizes[giants])


def _cut_around_leaders(members: Pairs, near: dict[int, list[int]], roots: npt.NDArray[np.int32]) -> None:
    """Make each row that no earlier leader took a leader, and give it its later neighbours still free."""
    taken: set[int] = set()
    for leader in members.tolist():
        if leader not in taken:
            followers = [row for row in near.get(leader, []) if row not in taken]
            roots[[leader, *followers]] = leader
            taken.update(followers, (leader,))


def _confirmed(pairs: Pairs, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    close = np.zeros(len(pairs), dtype=np.bool_)
    small: dict[int, npt.NDArray[np.float32]] = {}
    for start, part in _parts(pairs):
        small = {
            row: small[row] if row in small else thumbnail(pixels[row]) for row in np.unique(part).tolist()
        }
        a = np.stack([small[row] for row in part[:, 0].tolist()])
        b = np.stack([small[row] for row in part[:, 1].tolist()])
        close[start : start + len(part)] = ((a - b) ** 2).mean(axis=1) <= NEAR_RMS**2
    return close


def _parts(pairs: Pairs) -> Iterator[tuple[int, Pairs]]:
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        yield start, pairs[start : start + _PAIRS_AT_ONCE]


def thumbnail(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return an image averaged to at most 32 x 32 and flattened, float32 [side * side * C]."""
    side, _, channels = pixels.shape
    small = min(side, THUMBNAIL_SIDE)
    step = side // small
    # Sums of whole numbers are exact in any order; rows first is the order that machines are fast in.
    rows = pixels.reshape(small, step, side * channels).sum(axis=1, dtype=np.uint32)
    sums = rows.reshape(small, small, step, channels).sum(axis=2, dtype=np.uint32)
    return np.asarray(sums.astype(np.float32) / np.float32(step * step)).ravel()
