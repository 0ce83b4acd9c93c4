from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from graftgan.config import Split
from graftgan.data.duplicates import Duplicates, UnionFind, cluster
from graftgan.data.splitting import MIN_IMAGES, Assignment, assign, clusters, place, straddling
from graftgan.errors import DataError

SHARES = Split(validation=0.1, test=0.2)


def shas(n: int, salt: str = "") -> list[str]:
    return [hashlib.sha256(f"{salt}{i}".encode()).hexdigest() for i in range(n)]


def distinct(n: int) -> Duplicates:
    return Duplicates(np.full(n, -1, dtype=np.int32), np.arange(n, dtype=np.int32))


def split(n: int, shares: Split = SHARES, seed: int = 0, **how: int) -> Assignment:
    return assign(shas(n), [""] * n, distinct(n), shares, seed, **how)


@dataclass(frozen=True)
class Set:
    sha256: list[str]
    groups: list[str]
    duplicates: Duplicates


@st.composite
def sets(draw: st.DrawFn) -> Set:
    """Images with groups, exact duplicates and near clusters that cut across each other."""
    n = draw(st.integers(1, 120))
    salt = str(draw(st.integers(0, 10**6)))
    copies = draw(st.lists(st.integers(0, n - 1), min_size=n, max_size=n))
    share = draw(st.sampled_from([0.0, 0.1, 0.5]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    sha256 = shas(n, salt)
    for row, other in enumerate(copies):
        if rng.random() < share:
            sha256[row] = sha256[other]
    first: dict[str, int] = {}
    duplicate_of = [first.setdefault(sha, row) for row, sha in enumerate(sha256)]
    near = UnionFind(n)
    for row, original in enumerate(duplicate_of):
        near.union(row, original)
        if rng.random() < share:
            near.union(row, int(rng.integers(n)))
    groups = [f"g{rng.integers(n // 3 + 1)}" if rng.random() < share else "" for _ in range(n)]
    own = np.array([-1 if of == row else of for row, of in enumerate(duplicate_of)], dtype=np.int32)
    return Set(sha256, groups, Duplicates(own, near.roots()))


@settings(max_examples=200, deadline=None)
@given(images=sets(), seed=st.integers(0, 1000), test=st.floats(0, 0.6), validation=st.floats(0, 0.39))
def test_nothing_alike_straddles_a_split(images: Set, seed: int, test: float, validation: float) -> None:
    shares = Split(validation=validation, test=test)
    try:
        found = assign(images.sha256, images.groups, images.duplicates, shares, seed)
    except DataError:
        # A handful of images may all fall to the test split.
        reject()
    seen: dict[int, str] = {}
    for root, name in zip(clusters(images.groups, images.duplicates).tolist(), found.split, strict=True):
        if name != "unused":
            assert seen.setdefault(root, name) == name
    for column in (images.sha256, [g for g in images.groups if g]):
        for value in set(column):
            where = {n for v, n in zip(images.sha256, found.split, strict=True) if v == value} - {"unused"}
            assert len(where) <= 1
    kept = [
        name for name, of in zip(found.split, images.duplicates.duplicate_of.tolist(), strict=True) if of < 0
    ]
    assert "unused" not in kept and len(kept) == len(set(images.sha256))
    assert found.split.count("unused") == images.duplicates.exact
    for name, least in MIN_IMAGES.items():
        assert (found.count(name) == 0) == (name in found.missing)
        assert found.count(name) == 0 or found.count(name) >= least
    assert found.count("train") > 0


def sides(found: Assignment, links: list[list[int]]) -> list[set[str]]:
    return [{found.split[a], found.split[b]} - {"unused"} for a, b in links]


@settings(max_examples=200, deadline=None)
@given(
    n=st.integers(30, 150), width=st.integers(1, 5), seed=st.integers(0, 99), limit=st.integers(1, 30),
    test=st.floats(0.1, 0.5), validation=st.floats(0.05, 0.4),
)  # fmt: skip
def test_no_near_duplicates_straddle_even_where_a_chain_was_cut(
    n: int, width: int, seed: int, limit: int, test: float, validation: float
) -> None:
    rng = np.random.default_rng(seed)
    pairs = [(a, b) for a in range(n) for b in range(a + 1, min(a + width + 1, n)) if rng.random() < 0.7]
    array = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    near, broken_up = cluster(n, array, limit)
    links = array[near[array[:, 0]] != near[array[:, 1]]]
    duplicates = Duplicates(np.full(n, -1, dtype=np.int32), near, broken_up, links)
    shares = Split(validation=validation, test=test)
    try:
        found = assign(shas(n), [""] * n, duplicates, shares, seed)
    except DataError:
        # A few clusters may all fall to the held-out splits.
        reject()
    assert all(len(names) <= 1 for names in sides(found, array.tolist()))
    unused = [row for row, name in enumerate(found.split) if name == "unused"]
    assert bool(unused) == any("near duplicates in another split" in text for text in found.warnings)
    for name, least in MIN_IMAGES.items():
        assert (found.count(name) == 0) == (name in found.missing)
        assert found.count(name) == 0 or found.count(name) >= least


def test_held_out_images_give_way() -> None:
    split = ["train", "test", "validation", "test", "validation", "test", "test"]
    assert straddling(split, [[0, 1], [2, 0]]) == {1, 2}
    # A test image stays before a validation image, unless it has to go itself.
    assert straddling(split, [[3, 4]]) == straddling(split, [[4, 3]]) == {4}
    assert straddling(split, [[3, 4], [3, 0]]) == {3}
    assert straddling(split, [[5, 6]]) == straddling(split, []) == set()


def test_a_split_that_shrinks_too_much_is_missing() -> None:
    n = 60
    whole = assign(shas(n), [""] * n, distinct(n), SHARES, 7)
    held_out = [row for row, name in enumerate(whole.split) if name == "test"]
    others = [row for row, name in enumerate(whole.split) if name == "train"]
    links = [[row, others[k]] for k, row in enumerate(held_out)]
    cut = Duplicates(
        np.full(n, -1, dtype=np.int32), np.arange(n, dtype=np.int32), (n,), np.array(links, dtype=np.intp)
    )
    found = assign(shas(n), [""] * n, cut, SHARES, 7)
    assert len(held_out) >= MIN_IMAGES["test"] and found.count("test") == 0
    assert found.missing["test"].startswith("0 of ") and found.count("unused") == len(held_out)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.randoms())
def test_the_order_of_the_images_does_not_matter(seed: int, order: object) -> None:
    names = shas(150)
    before = dict(zip(names, assign(names, [""] * 150, distinct(150), SHARES, seed).split, strict=True))
    order.shuffle(names)  # type: ignore[attr-defined]
    after = dict(zip(names, assign(names, [""] * 150, distinct(150), SHARES, seed).split, strict=True))
    assert before == after


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), added=st.integers(1, 300))
def test_added_images_never_move_others(seed: int, added: int) -> None:
    before, after = split(300, seed=seed).split, split(300 + added, seed=seed).split
    assert after[:300] == before


def test_added_members_of_a_group_follow_it() -> None:
    names, groups = shas(300), [f"g{i % 100}" for i in range(300)]
    before = assign(names[:200], groups[:200], distinct(200), SHARES, 0).split
    after = assign(names, groups, distinct(300), SHARES, 0).split
    assert after[:200] == before and after[200:] == after[:100]


@pytest.mark.parametrize(
    "shares", [SHARES, Split(validation=0.3, test=0.5), Split(validation=0.02, test=0.01)]
)
def test_shares_hold_within_chance(shares: Split) -> None:
    found = split(20_000, shares, seed=3)
    for name, share in (("test", shares.test), ("validation", shares.validation)):
        # Four standard deviations of a binomial.
        assert abs(found.count(name) - 20_000 * share) < 4 * (20_000 * share * (1 - share)) ** 0.5
    assert sum(map(found.count, ("train", "test", "validation"))) == 20_000
    assert found.missing == {} and found.warnings == ()


def test_the_seed_changes_the_split() -> None:
    a, b = split(1000, seed=0).split, split(1000, seed=1).split
    agree = sum(x == y for x, y in zip(a, b, strict=True)) / 1000
    # Independent draws agree in 0.7^2 + 0.2^2 + 0.1^2 = 0.54.
    assert abs(agree - 0.54) < 0.08


def test_places_are_uniform() -> None:
    counts = np.histogram([place(f"{i}", 5) for i in range(10_000)], bins=10, range=(0, 1))[0]
    # Chi-square with 9 degrees of freedom; 27.9 is its 0.999 quantile.
    assert counts.sum() == 10_000 and ((counts - 1000) ** 2 / 1000).sum() < 27.9


@pytest.mark.parametrize("n", [1, 3, 25])
def test_splits_too_small_to_measure_are_missing_and_train(n: int) -> None:
    found = split(n)
    assert found.missing.keys() == {"test", "validation"}
    assert found.split == ["train"] * n
    assert "it needs 10; they train instead" in found.missing["test"]
    assert len(found.warnings) == 2 and "there is no test split" in found.warnings[0]


def test_a_share_of_zero_is_a_missing_split() -> None:
    found = split(1000, Split(validation=0.0, test=0.2))
    assert found.missing == {"validation": "data.split.validation is 0"}
    assert found.count("validation") == 0 and found.count("test") > 100


def test_a_cluster_too_large_for_its_split_trains() -> None:
    for seed in range(30):
        groups = ["huge"] * 500 + [""] * 500
        found = assign(shas(1000), groups, distinct(1000), SHARES, seed)
        assert set(found.split[:500]) == {"train"}
        assert found.count("test") < 200
        assert bool(found.warnings) == (place("group huge", seed) < 0.3)


def test_coarse_groups_can_still_be_tested_on() -> None:
    groups = [f"person {i % 5}" for i in range(500)]
    seeds = [assign(shas(500), groups, distinct(500), SHARES, seed) for seed in range(20)]
    assert any(found.count("test") >= 100 for found in seeds)


def test_training_images_are_the_first_by_hash_and_nested() -> None:
    whole, hundred, ten = split(1000), split(1000, train_images=100), split(1000, train_images=10)
    rows = {
        k: {i for i, name in enumerate(s.split) if name == "train"}
        for k, s in ((0, whole), (1, hundred), (2, ten))
    }
    assert rows[2] < rows[1] < rows[0] and len(rows[1]) == 100 and len(rows[2]) == 10
    assert hundred.count("unused") == len(rows[0]) - 100
    assert [n for n in hundred.split if n in ("test", "validation")] == [
        n for n in whole.split if n in ("test", "validation")
    ]
    other = split(1000, train_images=10, seed=1).split
    assert {i for i, name in enumerate(other) if name == "train"} != rows[2]


def test_too_few_training_images_are_said() -> None:
    found = split(100, train_images=5000)
    assert found.count("unused") == 0
    assert any("data.train_images is 5000, but only" in warning for warning in found.warnings)
