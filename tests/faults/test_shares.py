"""Sweeps too long for one night are dealt out to several; together they leave nothing out."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.harness import NIGHTS, SHARE, share_of, try_all


def test_the_parts_together_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = list(range(1, 101))
    parts = [share_of(faults, f"{part}/{NIGHTS}") for part in range(1, NIGHTS + 1)]
    assert sorted(fault for part in parts for fault in part) == faults
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert share_of(faults, "all") == faults
    monkeypatch.setenv(SHARE, "3/4")
    assert share_of(faults) == faults[2::4]
    monkeypatch.delenv(SHARE)
    assert share_of(faults) in parts, "without a word it is the part of the day"


@pytest.mark.parametrize("text", ["0/8", "9/8", "half", "1/", "/8", "-1/8"])
def test_a_part_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        share_of([1], text)


def test_what_fails_does_not_end_a_sweep_and_is_told_at_its_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(SHARE, "all")
    seen = []

    def check(fault: int, place: Path) -> None:
        place.mkdir()
        seen.append(fault)
        assert fault % 2, "even"

    with pytest.raises(AssertionError, match="2 of 4 failed") as told:
        try_all([1, 2, 3, 4], tmp_path, check)
    assert seen == [1, 2, 3, 4] and not list(tmp_path.iterdir())
    assert "2: even" in str(told.value) and "4: even" in str(told.value)
    assert try_all([1, 3], tmp_path, check) == "2 of 2"
