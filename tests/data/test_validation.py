from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from graftgan.config import Data, Expectations
from graftgan.data import gx
from graftgan.data.validation import (
    Checked,
    Expectation,
    check,
    check_with_pandas,
    engine,
    expectations,
    outcome,
    plain_page,
    raise_failed,
    to_facts,
)
from graftgan.errors import DataError

LOG = logging.getLogger("test")


def tables(n: int = 20, facts: dict[str, Any] | None = None, **columns: Any) -> dict[str, pd.DataFrame]:
    images = {
        "name": [f"{i}.png" for i in range(n)],
        "sha256": [f"{i:064x}" for i in range(n)],
        "split": ["train", "test"] * (n // 2),
        "side": [64] * n,
        "duplicate": [False] * n,
        "near_duplicate": [False] * n,
        "blank": [False] * n,
    }
    single = {"bad_share": 0.0, "label_imbalance": 1.0, "channels": 3, "resolution": 32}
    return {"images": pd.DataFrame(images | columns), "facts": pd.DataFrame([single | (facts or {})])}


def first(n: int, value: Any, other: Any, total: int = 20) -> list[Any]:
    return [value] * n + [other] * (total - n)


FAULTS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("min_images", {"n": 4}, []),
    ("min_side_px", {"side": first(2, 15, 64)}, ["0.png", "1.png"]),
    ("max_duplicate_share", {"duplicate": first(3, True, False)}, ["0.png", "1.png", "2.png"]),
    ("max_near_duplicate_share", {"near_duplicate": first(11, True, False)}, [f"{i}.png" for i in range(11)]),
    ("max_blank_share", {"blank": first(1, True, False)}, ["0.png"]),
    ("unique_names", {"name": first(2, "same", "x")[:3] + [f"{i}" for i in range(17)]}, ["same", "same"]),
    ("sha256", {"sha256": first(1, "short", "f" * 64)}, ["0.png"]),
    ("split", {"split": first(1, "val", "train")}, ["0.png"]),
    ("max_bad_share", {"facts": {"bad_share": 0.21}}, ["broken.png"]),
    ("max_label_imbalance", {"facts": {"label_imbalance": 20.5}}, ["rare.png"]),
    ("channels", {"facts": {"channels": 1}}, []),
    ("resolution", {"facts": {"resolution": 64}}, []),
]


def wanted(**values: Any) -> list[Expectation]:
    return expectations(Data(expectations=Expectations(**values)), ["broken.png"], ["rare.png"])


def by_name(checked: Sequence[Checked]) -> dict[str, Checked]:
    return {c.expectation: c for c in checked}


@pytest.mark.parametrize(("name", "fault", "offending"), FAULTS, ids=[f[0] for f in FAULTS])
def test_pandas_finds_each_fault_and_nothing_else(
    name: str, fault: dict[str, Any], offending: list[str]
) -> None:
    data = tables(**fault)
    checked = [check_with_pandas(data[e.table], e) for e in wanted()]
    assert [c.expectation for c in checked if not c.success] == [name]
    assert by_name(checked)[name].offending == offending


AGREED: dict[str, dict[str, Any]] = {
    "good": {},
    "at the limits": {
        "facts": {"bad_share": 0.2, "label_imbalance": 20.0},
        "side": [16] * 20,
        "duplicate": first(2, True, False),
        "near_duplicate": first(10, True, False),
    },
    "all faults": {
        "facts": {"bad_share": 0.9, "label_imbalance": 99.0, "channels": 4, "resolution": 64},
        "name": ["same", "same", *(str(number) for number in range(18))],
        "sha256": first(1, "short", "f" * 64),
        "side": first(5, 3, 64),
        "blank": [True] * 20,
        "duplicate": first(3, True, False),
        "near_duplicate": first(11, True, False),
        "split": first(3, "no", "train"),
    },
    "too few": {"n": 4},
}


@pytest.mark.parametrize("case", AGREED)
def test_great_expectations_and_pandas_agree(tmp_path: Path, case: str) -> None:
    data = tables(**AGREED[case])
    checked = gx.check(data, wanted(), tmp_path)
    assert checked == [check_with_pandas(data[e.table], e) for e in wanted()]
    failures = {"good": 0, "at the limits": 0, "all faults": 11, "too few": 1}
    assert sum(not c.success for c in checked) == failures[case]


@pytest.mark.parametrize("looks", [True, False])
def test_importing_the_library_leaves_the_garbage_collector_as_it_was(looks: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if looks else gc.disable)()
        assert engine() is gx and gc.isenabled() == looks
    finally:
        (gc.enable if before else gc.disable)()


def test_data_docs_are_pages_that_name_the_images(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checked = check(tables(side=first(2, 3, 64)), wanted(), tmp_path, LOG)
    assert not by_name(checked)["min_side_px"].success
    assert (tmp_path / "index.html").is_file()
    pages = [page.read_text() for page in tmp_path.rglob("validations/**/*.html")]
    assert len(pages) == 2 and any("1.png" in page for page in pages)
    assert capfd.readouterr().err == ""


def test_without_the_library_pandas_checks_and_a_plain_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "great_expectations", None)
    checked = check(
        tables(name=["<script>", *map(str, range(19))], blank=first(1, True, False)), wanted(), tmp_path, LOG
    )
    assert [c.expectation for c in checked if not c.success] == ["max_blank_share"]
    assert "great_expectations is not installed" in caplog.text
    page = (tmp_path / "index.html").read_text()
    assert "&lt;script&gt;" in page and "<script>" not in page and page.count("FAILS") == 1
    assert page == plain_page(checked)


def test_limits_come_from_the_configuration() -> None:
    data = tables(side=first(2, 15, 64), blank=first(4, True, False), facts={"bad_share": 0.5})
    relaxed = wanted(min_images=20, max_images=20, min_side_px=15, max_blank_share=0.2, max_bad_share=0.5)
    assert all(check_with_pandas(data[e.table], e).success for e in relaxed)
    strict = wanted(min_images=21)
    assert not check_with_pandas(data["images"], strict[0]).success
    few = wanted(max_images=19, min_images=1)
    assert not check_with_pandas(data["images"], few[1]).success


@pytest.mark.parametrize("tenths", range(11))
def test_a_share_exactly_at_its_limit_holds(tenths: int) -> None:
    data = tables(n=10, blank=first(tenths, True, False, 10))["images"]
    assert check_with_pandas(data, wanted(max_blank_share=tenths / 10)[5]).success
    if tenths:
        assert not check_with_pandas(data, wanted(max_blank_share=(tenths - 1) / 10)[5]).success


def test_every_configured_limit_has_an_expectation_of_its_name() -> None:
    assert set(Expectations.model_fields) <= {e.name for e in wanted()}


def test_failure_names_expectation_observation_images_and_page() -> None:
    data = tables(side=first(7, 3, 64), facts={"label_imbalance": 30.0})
    checked = [check_with_pandas(data[e.table], e) for e in wanted()]
    with pytest.raises(DataError) as error:
        raise_failed(Path("my/set"), checked, Path("docs"))
    text = str(error.value)
    assert "my/set fails 2 expectations" in text and "docs/index.html" in text and "data.expectations" in text
    assert (
        "min_side_px" in text and "7 of 20 images do not: '0.png', " in text and "'4.png' and 2 more" in text
    )
    assert "max_label_imbalance" in text and "observed 30: 'rare.png'" in text
    raise_failed(Path("my/set"), [c for c in checked if c.success], Path("docs"))


def test_offending_images_are_counted_beyond_those_kept() -> None:
    data = tables(n=200, side=[3] * 200)
    found = check_with_pandas(data["images"], wanted()[2])
    assert len(found.offending) == 50 and found.offending_count == 200
    facts = to_facts([found])
    assert facts["success"] is False
    assert facts["results"][0] == {
        "expectation": "min_side_px",
        "what": "the shorter side of every original is at least 16 pixels",
        "success": False,
        "observed": "200 of 200 images do not",
        "offending": [f"{i}.png" for i in range(50)],
        "offending_count": 200,
    }


def test_single_values_keep_their_precision() -> None:
    expectation = wanted()[9]
    assert outcome(expectation, True, 1 / 3, 1, []).observed == "0.333333"
