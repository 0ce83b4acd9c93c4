from __future__ import annotations

import ast
import gc
import logging
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
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


HOSTILE = [
    "<img src=x onerror=alert(1)>.png",
    "</td><script>alert(2)</script>",
    "a&lt;b&amp;$x{{7*7}}'\".png",
]


class Cells(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(sorted(attrs))))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_names_in_the_data_docs_are_text_and_nothing_else(tmp_path: Path) -> None:
    """Where names are those of offenders, and where they are the values that offend."""

    def shown(names: Sequence[str], docs: Path) -> Cells:
        twice = [*names, *names]
        faults = {"name": [*twice, *map(str, range(14))], "duplicate": first(6, True, False)}
        checked = by_name(gx.check(tables(**faults), wanted(), docs))
        assert sorted(checked["max_duplicate_share"].offending) == sorted(twice)
        assert sorted(checked["unique_names"].offending) == sorted(twice)
        (page,) = docs.rglob("validations/**/*images.html")
        return Cells(page.read_text())

    plain = shown(["a.png", "b.png", "c.png"], tmp_path / "plain")
    hostile = shown(HOSTILE, tmp_path / "hostile")
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    assert not [attrs for _, attrs in hostile.elements if "onerror" in dict(attrs)]
    assert all(name in hostile.text for name in HOSTILE)


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


def test_failure_names_expectation_observation_images_and_page(tmp_path: Path) -> None:
    data = tables(side=first(7, 3, 64), facts={"label_imbalance": 30.0})
    checked = [check_with_pandas(data[e.table], e) for e in wanted()]
    with pytest.raises(DataError) as error:
        raise_failed(Path("my/set"), checked, tmp_path)
    text = str(error.value)
    assert "my/set fails 2 expectations" in text and "data.expectations" in text
    assert str(tmp_path / "index.html") in text and f"are named in {tmp_path / 'offending.txt'}" in text
    assert (
        "min_side_px" in text and "7 of 20 images do not: '0.png', " in text and "'4.png' and 2 more" in text
    )
    assert "max_label_imbalance" in text and "observed 30: 'rare.png'" in text
    raise_failed(Path("my/set"), [c for c in checked if c.success], tmp_path / "absent")


def test_a_failure_of_no_single_image_names_the_page_alone(tmp_path: Path) -> None:
    checked = [check_with_pandas(tables(n=4)["images"], wanted()[0])]
    with pytest.raises(DataError) as error:
        raise_failed(Path("my/set"), checked, tmp_path)
    assert str(tmp_path / "index.html") in error.value.remedy and "offending" not in error.value.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("library", [True, False])
def test_every_one_of_200_offenders_is_listed(tmp_path: Path, library: bool) -> None:
    names = ["two\nlines: 'x'.png", "größe.png", "rtl\u202egnp.exe", "a\r\0b.png"]
    names += [f"{i}.png" for i in range(len(names), 200)]
    data = tables(n=200, name=names, side=[3] * 200, facts={"bad_share": 0.5, "label_imbalance": 99.0})
    bad, rare = [f"bad{i}\udc80.png" for i in range(200)], [f"rare{i}\n.png" for i in range(200)]
    checks = expectations(Data(), bad, rare)
    if library:
        checked = gx.check(data, checks, tmp_path)
    else:
        checked = [check_with_pandas(data[e.table], e) for e in checks]
    with pytest.raises(DataError) as error:
        raise_failed(Path("my/set"), checked, tmp_path)
    listed = tmp_path / "offending.txt"
    assert str(listed) in error.value.remedy
    lines = [line.split(": ", 1) for line in listed.read_text("ascii").split("\n")[:-1]]
    found: dict[str, list[str]] = {}
    for expectation, literal in lines:
        found.setdefault(expectation, []).append(ast.literal_eval(literal))
    assert found == {"min_side_px": names, "max_bad_share": bad, "max_label_imbalance": rare}
    assert "200 of 200 images do not" in str(error.value) and "and 195 more" in str(error.value)


def test_offending_images_are_counted_beyond_those_kept() -> None:
    data = tables(n=200, side=[3] * 200)
    found = check_with_pandas(data["images"], wanted()[2])
    assert len(found.offending) == 200
    page = plain_page([found])
    assert "49.png and 150 more" in page and "50.png" not in page
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
