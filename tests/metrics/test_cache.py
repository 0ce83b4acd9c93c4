from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graftgan.errors import CheckpointError, ProtocolMismatch
from graftgan.metrics.cache import FeatureCache, load_features, save_features

PROTOCOL = "efflite0@224/bicubic-aa/0123456789ab"
FEATURES = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def test_computes_once_and_keeps_every_bit(tmp_path: Path) -> None:
    cache, calls = FeatureCache(tmp_path / "features"), []

    def compute() -> np.ndarray:
        calls.append(1)
        return FEATURES

    first = cache.get_or_compute("digest", PROTOCOL, compute)
    second = cache.get_or_compute("digest", PROTOCOL, compute)
    assert len(calls) == 1
    assert first.tobytes() == second.tobytes() == FEATURES.tobytes()
    assert second.dtype == np.float32


def test_other_content_or_protocol_is_another_entry(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put("digest", PROTOCOL, FEATURES)
    assert cache.get("other", PROTOCOL) is None
    assert cache.get("digest", "inception@299/tf1-bilinear/00") is None


def test_a_file_under_another_protocol_is_refused(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    written = cache.put("digest", PROTOCOL, FEATURES)
    wrong = cache.path("digest", "inception@299/tf1-bilinear/00")
    wrong.parent.mkdir(parents=True, exist_ok=True)
    written.rename(wrong)
    with pytest.raises(ProtocolMismatch, match=r"protocol is efflite0.*expected inception"):
        cache.get("digest", "inception@299/tf1-bilinear/00")
    with pytest.raises(ProtocolMismatch, match="content is digest, expected other"):
        load_features(wrong, PROTOCOL, "other")
    np.testing.assert_array_equal(load_features(wrong, PROTOCOL), FEATURES)


def test_a_cut_file_is_reported_and_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = FeatureCache(tmp_path)
    path = cache.put("digest", PROTOCOL, FEATURES)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="not a feature file"):
        load_features(path, PROTOCOL)
    with caplog.at_level(logging.WARNING):
        again = cache.get_or_compute("digest", PROTOCOL, lambda: FEATURES)
    assert "computing again" in caplog.text
    np.testing.assert_array_equal(again, FEATURES)
    np.testing.assert_array_equal(load_features(path, PROTOCOL, "digest"), FEATURES)


def test_a_cache_that_cannot_be_read_or_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder can be made below it")
    cache = FeatureCache(tmp_path / "file" / "features")
    np.testing.assert_array_equal(cache.get_or_compute("digest", PROTOCOL, lambda: FEATURES), FEATURES)
    assert "what was computed is not kept" in caplog.text
    with pytest.raises(OSError, match="file"):
        cache.put("digest", PROTOCOL, FEATURES)


def test_a_folder_that_may_not_be_entered_counts_as_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    assert FeatureCache(tmp_path).get("digest", PROTOCOL) is None
    assert "Permission denied" in caplog.text


def test_what_a_killed_process_left_goes_once_nobody_can_be_writing_it(tmp_path: Path) -> None:
    path = FeatureCache(tmp_path).path("digest", PROTOCOL)
    script = """
import os, pathlib, sys
from graftgan.contract import shared_path
with shared_path(pathlib.Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os._exit(9)
"""
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    (left,) = path.parent.iterdir()
    for part in (left, *left.iterdir()):
        os.utime(part, (0, 0))
    FeatureCache(tmp_path).put("digest", PROTOCOL, FEATURES)
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_features(tmp_path / "a.safetensors", FEATURES, PROTOCOL, "digest")
    assert list(tmp_path.iterdir()) == []


def test_equal_features_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_features(tmp_path / name, FEATURES, PROTOCOL, "digest")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_writers_and_readers_at_once_see_whole_files(tmp_path: Path) -> None:
    script = """
import sys, pathlib, numpy as np
from graftgan.metrics.cache import FeatureCache
cache = FeatureCache(pathlib.Path(sys.argv[1]))
features = np.full((400, 300), 7, dtype=np.float32)
for _ in range(20):
    cache.put("digest", "p@1/r/0", features)
    found = cache.get("digest", "p@1/r/0")
    assert found is not None and found.shape == (400, 300) and (found == 7).all()
"""
    workers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    outcomes = [worker.communicate()[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], outcomes
    assert len(list(tmp_path.rglob("*"))) == 2
