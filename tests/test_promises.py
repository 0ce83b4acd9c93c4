"""docs/reliability.md names a test for every promise, and the tests that it names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def functions(file: Path) -> set[str]:
    return set(re.findall(r"^(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE))


def test_there_are_promises() -> None:
    assert len(ROWS) > 20


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:60])
def test_every_promise_names_tests_that_are_there(row: str) -> None:
    promise, shown = (cell.strip() for cell in row.strip("| ").split(" | "))
    assert promise
    named = NAMED.findall(shown)
    assert named, f"no test is named beside {promise!r}"
    for path, function in named:
        assert functions(ROOT / path), f"{path} holds no test"
        assert not function or function in functions(ROOT / path), f"{path} has no {function}"
    if "nightly" in shown:
        assert any("mark.nightly" in (ROOT / path).read_text() for path, _ in named)


def test_every_file_that_the_text_names_is_there() -> None:
    named = re.findall(r"`((?:tests|docs|benchmarks)/[\w./-]+)`", TEXT)
    assert not [path for path in named if not (ROOT / path).exists()]
