from __future__ import annotations

from pathlib import Path

import pytest

from graftgan.errors import MissingInput
from graftgan.reporting.facts import Facts, read_facts
from graftgan.reporting.sources import data_facts, observed, shortened, source_rows, splits
from reporting.synthetic import edit


def test_rows_mark_the_choice_and_the_worst(facts: Facts) -> None:
    rows = source_rows(facts)
    assert [(r.raw["name"], r.chosen, r.worst) for r in rows] == [
        ("portraits", True, False),
        ("cartoons faces", False, False),
        ("flowers", False, True),
        ("scratch", False, False),
    ]
    assert rows[0].facts == "faces, drawings · 400 kimg · 32 px · 1.2 M weights"
    assert (rows[0].recall, rows[0].interval) == ("0.710", "0.660 to 0.760")
    assert rows[0].bar is not None and rows[1].bar is not None and rows[0].bar.dot > rows[1].bar.dot
    assert rows[0].values == {
        "precision": "0.500", "density": "0.400", "coverage": "0.300", "kid": "0.0500", "fd": "12.5",
    }  # fmt: skip
    assert all(row.picture for row in rows)


def test_sparse_rows_are_fine(inputs: dict[str, Path]) -> None:
    sparse = {"name": "a", "rank": 1, "domain": None, "kimg": None, "parameters": None, "sheet": None}
    edit(inputs["ranking"] / "ranking.json", rows=[sparse])
    row = source_rows(read_facts(inputs))[0]
    assert (row.facts, row.recall, row.bar, row.picture) == ("", "–", None, None)


def test_a_sheet_outside_the_folder_is_refused(inputs: dict[str, Path]) -> None:
    edit(inputs["ranking"] / "ranking.json", rows=[{"name": "a", "rank": 1, "sheet": "../scores/real.png"}])
    with pytest.raises(MissingInput, match="outside"):
        source_rows(read_facts(inputs))


def test_splits_tell_shares_and_reasons(inputs: dict[str, Path]) -> None:
    edit(
        inputs["dataset"] / "dataset.json",
        splits={"train": 30, "validation": 10, "test": 0},
        missing={"test": "few"},
    )
    found = splits(read_facts(inputs))
    assert [(s.name, s.images, s.share, s.missing) for s in found] == [
        ("train", "30", 75.0, ""),
        ("validation", "10", 25.0, ""),
        ("test", "0", 0.0, "few"),
    ]


def test_data_facts_in_words(facts: Facts) -> None:
    found = dict(data_facts(facts))
    assert found["Packed as"] == "32 × 32 px, RGB"
    assert found["Exact duplicates"] == "1 (2 %)"
    assert found["Classes"] == "round, faces"
    assert found["Unreadable files"] == "1"


def test_names_are_shortened() -> None:
    names = [str(i) for i in range(15)]
    assert shortened(names[:12]) == ", ".join(names[:12])
    assert shortened(names) == ", ".join(names[:12]) + " and 3 more"
    assert shortened(["a"], 9) == "a and 8 more"


def test_observations_in_words() -> None:
    assert observed(None) == "–"
    assert observed(0.123456) == "0.1235"
    assert observed([1, 2.5]) == "1, 2.5"
    assert observed({"a": 1}) == "a: 1"
    assert observed("3 of 4") == "3 of 4"
