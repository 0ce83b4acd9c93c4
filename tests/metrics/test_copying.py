"""The rows of the memorisation table: new samples, copies, jittered copies, five images repeated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from graftgan.metrics.copying import copy_report

DIM = 24


def draw(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, DIM))


TRAIN, HELD_OUT = draw(100, 0), draw(200, 1)


def copies(jitter: float, among: int = 100, n: int = 400) -> np.ndarray:
    return TRAIN[np.random.default_rng(2).integers(0, among, n)] + jitter * draw(n, 3)


def test_new_samples_are_honest() -> None:
    report = copy_report(draw(400, 5), TRAIN, HELD_OUT)
    assert report.copying is not None and report.close_share is not None
    assert report.copying.low < 0.5 < report.copying.high
    assert report.close_share.low < 0.05 < report.close_share.high
    assert report.authenticity.value > 0.3
    assert report.reason == ""


@pytest.mark.parametrize(("jitter", "among"), [(0.0, 100), (0.05, 100), (0.05, 5)])
def test_copies_are_caught(jitter: float, among: int) -> None:
    report = copy_report(copies(jitter, among), TRAIN, HELD_OUT)
    assert report.copying is not None and report.close_share is not None
    assert report.copying.value == 1.0
    assert report.close_share.value == 1.0
    assert report.authenticity.value == 0.0


def test_a_few_copies_show_in_the_share_and_in_the_gallery() -> None:
    fake = np.vstack([draw(380, 5), copies(0.01, n=20)])
    report = copy_report(fake, TRAIN, HELD_OUT, pairs=8)
    assert report.close_share is not None
    assert report.close_share.low > 0.05
    assert len(report.pairs) == 8
    assert all(pair.fake >= 380 for pair in report.pairs)
    assert len({pair.train for pair in report.pairs}) == 8
    distances = cdist(fake, TRAIN)
    for pair in report.pairs:
        assert pair.distance == pytest.approx(distances[pair.fake].min(), rel=1e-9)
        assert pair.train == distances[pair.fake].argmin()
    assert [p.distance for p in report.pairs] == sorted(p.distance for p in report.pairs)


def test_mirrored_copies_are_found_only_when_looked_for() -> None:
    mirrored = TRAIN[:, ::-1]
    fake = mirrored[:60] + 0.01 * draw(60, 7)
    blind = copy_report(fake, TRAIN, HELD_OUT)
    seeing = copy_report(fake, TRAIN, HELD_OUT, mirrored=mirrored)
    assert blind.copying is not None and seeing.copying is not None
    assert blind.copying.high < 0.7
    assert seeing.copying.value == 1.0
    assert all(pair.mirrored and pair.train == pair.fake for pair in seeing.pairs)
    with pytest.raises(ValueError, match="99 mirrored rows for 100"):
        copy_report(fake, TRAIN, HELD_OUT, mirrored=mirrored[:99])


def test_rank_test_is_scipys() -> None:
    fake = 0.95 * draw(90, 8)
    report = copy_report(fake, TRAIN, HELD_OUT)
    near, unseen = cdist(fake, TRAIN).min(axis=1), cdist(HELD_OUT, TRAIN).min(axis=1)
    u = stats.mannwhitneyu(unseen, near).statistic
    assert report.copying is not None
    assert report.copying.value == pytest.approx(u / (len(near) * len(unseen)), abs=1e-12)


def test_intervals_cover_the_honest_values() -> None:
    hits, close_hits = [], []
    for t in range(200):
        report = copy_report(draw(100, 2 * t + 50), TRAIN, draw(80, 2 * t + 51), pairs=0)
        assert report.copying is not None and report.close_share is not None
        hits.append(report.copying.low <= 0.5 <= report.copying.high)
        close_hits.append(report.close_share.low <= 0.05 <= report.close_share.high)
    assert 0.9 <= np.mean(hits) <= 0.99
    assert 0.9 <= np.mean(close_hits) <= 1.0


@pytest.mark.parametrize("held_out", [None, HELD_OUT[:19]])
def test_without_held_out_images_the_test_is_missing_with_a_reason(held_out: np.ndarray | None) -> None:
    report = copy_report(copies(0.0), TRAIN, held_out, pairs=3)
    assert report.copying is None and report.close_share is None
    assert "20 held-out images" in report.reason
    assert report.authenticity.value == 0.0
    assert len(report.pairs) == 3
