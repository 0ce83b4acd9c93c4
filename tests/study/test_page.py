from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reporting.browsing import WIDTHS, browser, visit  # noqa: F401

from graftgan.reporting.drawn import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from graftgan.reporting.linechart import Chart, Trace, drawing
from graftgan.study.page import Page, Section, Table, number, render

EVIL = "\"'><script>window.hacked=1</script><img src=x onerror=window.hacked=2>"


def page(word: str = "plain") -> Page:
    line = Trace(f"line {word}", [0.0, 5.0, 10.0], [1.0, 3.0, 2.0], "#2f7de1", dashed=True)
    cloud = Trace("cloud", [1.0, 2.0], [-1.0, 0.5], "#d9822b", dots=True)
    chart = Chart(f"chart {word}", "look", "steps", (line, cloud))
    table = Table(f"table {word}", ("a", "b"), ((word, "1"), ("x", "2")))
    empty = Chart("nothing", "", "steps", (Trace("none", [], [], "#000000"),))
    section = Section(f"section {word}", (f"text {word}",), (table,), (chart, empty))
    return Page(f"title {word}", f"verdict {word}", (("setting", word),), (section,))


def test_points_are_placed_between_the_ticks() -> None:
    chart = Chart("c", "", "x", (Trace("t", [0.0, 10.0], [0.0, 1.0], "#000000"),))
    found = drawing(chart)
    assert found is not None
    ((_, points),) = found.shapes
    assert points == ((LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, TOP))
    assert found.x_ticks[0] == (LEFT, "0") and found.x_ticks[-1] == (WIDTH - RIGHT, "10")
    assert found.y_ticks[0] == (HEIGHT - BOTTOM, "0") and found.y_ticks[-1] == (TOP, "1")
    assert drawing(Chart("e", "", "x", ())) is None


def test_equal_values_can_be_drawn() -> None:
    found = drawing(Chart("c", "", "x", (Trace("t", [3.0, 3.0], [2.0, 2.0], "#000000"),)))
    assert found is not None
    assert all(LEFT <= x <= WIDTH and 0 <= y <= HEIGHT for _, points in found.shapes for x, y in points)


def test_the_page_holds_everything_and_runs_nothing() -> None:
    text = render(page())
    for word in ("title", "verdict", "section", "text", "table", "chart", "line"):
        assert f"{word} plain" in text
    assert text.count("<svg") == 1, "a chart without points is left out"
    assert text.count("<circle") == 2 and text.count("<polyline") == 1 and "stroke-dasharray" in text
    assert "<script" not in text and "default-src &#39;none&#39;" in text
    assert render(page()) == text


def test_names_are_escaped() -> None:
    text = render(page(EVIL))
    assert "<script" not in text and "<img" not in text


def test_numbers_as_text() -> None:
    assert (number(0.12345), number(3.0, 1), number(None)) == ("0.123", "3.0", "–")


@pytest.mark.parametrize("width", list(WIDTHS))
def test_it_opens_in_a_browser_without_complaint_and_fits(browser: Any, tmp_path: Path, width: str) -> None:  # noqa: F811
    path = tmp_path / "study.html"
    path.write_text(render(page(EVIL)), encoding="utf-8")
    assert visit(browser, path, width, charts=False) == []
    assert browser.execute_script("return window.hacked") is None
    wide, window = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert (wide, window) == (WIDTHS[width][0],) * 2
    shapes = "[...document.querySelectorAll('svg polyline, svg circle')]"
    assert (
        browser.execute_script(f"return {shapes}.filter(e => e.getBoundingClientRect().width > 0).length")
        == 3
    )
