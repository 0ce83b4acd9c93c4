"""A real browser for pages of our own, from `file://`, at the width of a desk and of a phone."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars"
)
WIDTHS = {"desk": (1280, 900), "phone": (390, 844)}
PAINTED = """
const found = {};
const look = (node, into) => {
  for (const child of node.querySelectorAll("*")) {
    if (child.shadowRoot) look(child.shadowRoot, into);
    if (child.tagName !== "CANVAS" || !child.width) continue;
    const pixels = child.getContext("2d").getImageData(0, 0, child.width, child.height).data;
    for (let i = 3; i < pixels.length; i += 4) if (pixels[i]) into.count += 1;
  }
};
for (const chart of document.querySelectorAll(".canvas")) {
  const into = {count: 0};
  look(chart, into);
  found[chart.id] = into.count;
}
return found;
"""


def programs() -> tuple[str, str]:
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs the Debian packages chromium and chromium-driver")
        pytest.skip("the Debian packages chromium and chromium-driver are not installed")
    return browser, driver


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    binary, driver = programs()
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    yield found
    found.quit()


def visit(browser: Any, path: Path, width: str, charts: bool = True) -> list[dict[str, Any]]:
    """Open a page and return what the browser complained about."""
    size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
    phone = {"deviceScaleFactor": 1, "mobile": width == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size | phone)
    browser.get_log("browser")
    browser.get(path.as_uri())
    wait(lambda: browser.execute_script("return document.readyState") == "complete")
    if charts:
        wait(lambda: min(painted(browser).values(), default=0) > 2000)
    return [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"]


def painted(browser: Any) -> dict[str, int]:
    counts: dict[str, int] = browser.execute_script(PAINTED)
    return counts


def wait(condition: Any, timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the page did not come to it in time"
        time.sleep(0.1)


def opens_whole(browser: Any, path: Path, width: str, charts: bool = True) -> None:
    """Check that a page opens without complaint or request, fits the window and shows every picture."""
    assert visit(browser, path, width, charts) == []
    wide, window = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert (wide, window) == (WIDTHS[width][0],) * 2, "the page does not scroll sideways"
    empty = "return [...document.images].filter(i => i.src && !i.naturalWidth).length"
    assert browser.execute_script(empty) == 0, "every picture is shown"
    requests = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in requests if not name.startswith("data:")] == []
