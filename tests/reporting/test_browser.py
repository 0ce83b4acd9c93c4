"""The report in a real browser, from `file://`, at the width of a desk and of a phone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from graftgan.config import Params
from graftgan.reporting import interactive
from graftgan.reporting.facts import read_facts
from graftgan.reporting.html import render
from reporting.browsing import WIDTHS, browser, opens_whole, painted, visit, wait
from reporting.synthetic import build

__all__ = ["browser"]

EVIL = "\"'><script>window.hacked=1</script><img src=x onerror=window.hacked=2><b>bold</b>"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    path = folder / "report.html"
    path.write_text(render(read_facts(build(folder / "in")), Params(), "c" * 64), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", list(WIDTHS))
def test_it_opens_without_complaint_and_fits(browser: Any, report: Path, width: str) -> None:
    opens_whole(browser, report, width)


def test_all_six_charts_are_painted_and_runs_can_be_hidden(browser: Any, report: Path) -> None:
    visit(browser, report, "desk")
    before = painted(browser)
    assert len(before) == 6
    browser.execute_script("document.querySelectorAll('[data-toggle]').forEach(box => box.click())")
    wait(lambda: all(painted(browser)[key] < count for key, count in before.items()))
    browser.execute_script("document.querySelectorAll('[data-toggle]').forEach(box => box.click())")
    wait(lambda: all(abs(painted(browser)[key] - count) < 50 for key, count in before.items()))


def test_pointing_at_a_line_tells_its_values(browser: Any, report: Path) -> None:
    visit(browser, report, "desk")
    assert "0.27" in tooltip(browser)


def tooltip(browser: Any) -> str:
    """Point at the first point of the first chart and return what pops up."""
    from selenium.webdriver.common.action_chains import ActionChains

    chart = browser.find_element("id", "curve-kid")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", chart)
    x, y = browser.execute_script(
        "const view = Object.values(Bokeh.index.roots ?? Bokeh.index)[0];"
        "const frame = view.frame ?? view;"
        "const box = document.getElementById('curve-kid').getBoundingClientRect();"
        "return [frame.x_scale.compute(0) - box.width / 2, frame.y_scale.compute(0.27) - box.height / 2]"
    )
    texts = "const out = []; const walk = n => { for (const c of n.querySelectorAll('*')) {"
    texts += " if (c.classList.contains('bk-Tooltip')) out.push((c.shadowRoot ?? c).textContent);"
    texts += " if (c.shadowRoot) walk(c.shadowRoot); } }; walk(document); return out.join(' ');"
    found = ""
    for _ in range(20):
        ActionChains(browser).move_to_element(chart).move_to_element_with_offset(chart, x, y).perform()
        time.sleep(0.1)
        if found := browser.execute_script(texts):
            break
    return str(found)


def test_names_of_users_run_nowhere(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    facts = read_facts(build(tmp_path / "in", name=EVIL))
    path.write_text(render(facts, Params(), "c" * 64), encoding="utf-8")
    assert visit(browser, path, "desk") == []
    assert "<b>bold</b>" in tooltip(browser), "shown as it was written"
    assert browser.execute_script("return window.hacked") is None
    bold = "return [...document.querySelectorAll('b')].filter(b => b.textContent === 'bold').length"
    assert browser.execute_script(bold) == 0


def test_the_policy_stops_a_script_that_is_not_ours(browser: Any, report: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    text = report.read_text(encoding="utf-8")
    path.write_text(text.replace("</body>", "<script>window.hacked = 1</script></body>"), encoding="utf-8")
    complaints = visit(browser, path, "desk")
    assert browser.execute_script("return window.hacked") is None
    assert any("Content Security Policy" in entry["message"] for entry in complaints)


def test_a_picture_opens_large_and_closes(browser: Any, report: Path) -> None:
    visit(browser, report, "phone")
    browser.execute_script("document.querySelector('img.zoom').click()")
    is_open = "return document.getElementById('zoom').open"
    assert browser.execute_script(is_open) is True
    width = "return document.querySelector('#zoom img').getBoundingClientRect().width"
    assert 200 < browser.execute_script(width) <= 390
    browser.find_element("css selector", "#zoom button").click()
    assert browser.execute_script(is_open) is False


def test_without_bokeh_the_drawn_curves_can_be_hidden_too(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interactive, "available", lambda: False)
    path = tmp_path / "report.html"
    path.write_text(render(read_facts(build(tmp_path / "in")), Params(), "c" * 64), encoding="utf-8")
    assert visit(browser, path, "phone", charts=False) == []
    groups = "return [...document.querySelectorAll('[data-run=worst]')]"
    shown = f"{groups}.filter(group => group.style.display !== 'none').length"
    assert browser.execute_script(shown) == 9
    browser.execute_script("document.querySelector('[data-toggle=worst]').click()")
    assert browser.execute_script(shown) == 0
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
