from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graftgan.errors import MissingInput
from graftgan.reporting import comparison
from graftgan.reporting.sheets import save_png


def row(arm: str, kid: float, source: str | None = "toon", **tests: float | None) -> dict[str, Any]:
    ends = {"value": kid, "low": kid - 0.1, "high": kid + 0.1}
    return {"arm": arm, "source": source, "kid_validation": ends, "test": tests}


ROWS = [
    row("full/0", 0.125, kid_lite=0.5, fd_lite=12.34567, fd_excess_lite=3.0, coverage_lite=0.75),
    row("lora_x/1", 0.25, None, kid_lite=None, fd_lite=20.0),
]
METHODS = [
    {
        "method": "full",
        "seeds": 2,
        "kid_validation": {"mean": 0.125, "deviation": 0.0123},
        "test": {"kid_lite": {"mean": 0.5, "deviation": None}},
    }
]


def test_the_tables_show_the_chosen_measures_without_the_extractors_name() -> None:
    text = comparison.comparison_markdown(ROWS, METHODS)
    lines = text.splitlines()
    assert lines[0] == "# full/0 wins of 2"
    assert "| method/seed | source | KID, validation | kid, test | fd, test |" in lines
    assert "| full/0 | toon | 0.125 (0.025 to 0.225) | 0.5 | 12.35 |" in lines
    assert "| lora\\_x/1 | scratch | 0.25 (0.15 to 0.35) | – | 20 |" in lines
    assert "| full | 2 | 0.125 ± 0.012 | 0.5 | – |" in lines


def test_an_interval_that_is_not_known_is_left_out() -> None:
    known = row("full/0", 0.125)
    known["kid_validation"] |= {"low": None, "high": None}
    assert comparison.cells(known, []) == ["full/0", "toon", "0.125"]


def test_the_page_marks_the_winner_and_holds_the_pictures(tmp_path: Path) -> None:
    save_png(np.zeros((4, 4, 3), np.uint8), tmp_path / "a.png")
    arms = [
        comparison.ArmFacts(ROWS[0], tmp_path / "a.png"),
        comparison.ArmFacts(ROWS[1] | {"arm": "<b>/1"}, tmp_path / "absent.png"),
    ]
    page = comparison.comparison_html(arms, METHODS, n_test=24)
    assert page.count('class="winner"') == 1 and page.index('class="winner"') < page.index("full/0</td>")
    assert page.count("data:image/png;base64,") == 1
    assert "24 test images" in page
    assert "<b>/1" not in page and "&lt;b&gt;/1" in page


def test_pages_of_pictures_leave_out_what_is_gone_and_refuse_what_is_none(tmp_path: Path) -> None:
    save_png(np.zeros((4, 4, 3), np.uint8), tmp_path / "a.png")
    page = comparison.pictures_html(
        "rank: pictures", [("a & b", tmp_path / "a.png"), ("c", tmp_path / "c.png")]
    )
    assert page.count("<figure>") == 1 and "<figcaption>a &amp; b</figcaption>" in page
    (tmp_path / "c.png").write_text("text")
    with pytest.raises(MissingInput, match=r"c\.png"):
        comparison.pictures_html("rank", [("c", tmp_path / "c.png")])
