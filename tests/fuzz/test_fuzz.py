"""The stored corpus is replayed each time; every night each target is fuzzed for some minutes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fuzz.pages import check_pages
from fuzz.run import CORPUS
from fuzz.targets import TARGETS, check_markdown, check_page, checkpoint, harmless

TESTS = Path(__file__).parents[1]
SECONDS = int(os.environ.get("FUZZ_SECONDS", "600"))
MAX_CORPUS_BYTES = 500_000


@pytest.mark.parametrize("target", TARGETS)
def test_the_stored_corpus_is_taken_or_refused(target: str) -> None:
    inputs = sorted((CORPUS / target).iterdir())
    assert len(inputs) >= 15
    for file in inputs:
        try:
            TARGETS[target](file.read_bytes())
        except Exception as error:
            raise AssertionError(f"{file.relative_to(CORPUS)} broke a promise: {error!r}") from error
    print(f"{target}: {len(inputs)} stored inputs")


def test_the_stored_corpus_is_small() -> None:
    assert sum(file.stat().st_size for file in CORPUS.rglob("*") if file.is_file()) < MAX_CORPUS_BYTES


def test_the_targets_notice_what_they_are_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"os\.system"), harmless():
        os.system("true")
    with pytest.raises(AssertionError, match="open"), harmless():
        (tmp_path / "x").write_text("")
    monkeypatch.setattr("fuzz.targets.read", lambda content: {}["key"])
    with pytest.raises(KeyError):
        checkpoint((CORPUS / "checkpoint" / "seed-zip").read_bytes())
    monkeypatch.setattr("graftgan.reporting.html._environment", unescaped)
    with pytest.raises(AssertionError):
        check_page("<b>x</b>")
    monkeypatch.setattr("graftgan.reporting.card.escape", str)
    with pytest.raises(AssertionError):
        check_markdown("<b>x</b>")


@pytest.mark.parametrize(
    ("place", "page"),
    [
        ("graftgan.reporting.bank_page", "_bank_page"),
        ("graftgan.gallery", "_gallery"),
        ("graftgan.reporting.comparison", "_comparison"),
        ("graftgan.data.validation", "_data_checks"),
    ],
)
def test_the_target_of_pages_notices_each_that_does_not_escape(
    monkeypatch: pytest.MonkeyPatch, place: str, page: str
) -> None:
    from jinja2 import Environment

    check_pages("<b>x</b>")
    if place.endswith("validation"):
        monkeypatch.setattr(f"{place}.html", SimpleNamespace(escape=str))
    else:
        monkeypatch.setattr(f"{place}.Environment", lambda **how: Environment(**how | {"autoescape": False}))
    with pytest.raises(AssertionError, match=page):
        check_pages("<b>x</b>")


def unescaped() -> object:
    """The report's templates without escaping."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from graftgan.reporting.html import HERE

    return Environment(loader=FileSystemLoader(HERE), autoescape=False, undefined=StrictUndefined)


@pytest.mark.nightly
@pytest.mark.timeout(0)
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_new_breaks_a_promise(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is for Linux on x86-64")
    paths = [str(TESTS.parent / "src"), str(TESTS), str(TESTS.parent)]
    command = [sys.executable, "-m", "fuzz.run", target, str(SECONDS), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, errors="replace"
    )
    failing = [path for path in tmp_path.iterdir() if path.is_file()]
    assert done.returncode == 0, f"{[p.read_bytes() for p in failing]}\n{done.stdout}\n{done.stderr[-4000:]}"
    (count,) = re.findall(r"stat::number_of_executed_units: (\d+)", done.stderr)
    new = len(list((tmp_path / "new").iterdir()))
    print(f"{target}: {count} inputs in {SECONDS} s, {new} of them reached new code")
    assert int(count) > 100
