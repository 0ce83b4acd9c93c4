from __future__ import annotations

import logging
from pathlib import Path

import pytest
from reporting.synthetic import build

from graftgan.config import Params
from graftgan.context import Context
from graftgan.contract import atomic_path
from graftgan.errors import MissingInput
from graftgan.params import resolve
from graftgan.places import code_digest
from graftgan.reporting import interactive
from graftgan.stages import report
from graftgan.stages.specs import stage


def outputs(report: Path) -> dict[str, Path]:
    return {"report": report, "verdict": report.with_name("verdict")}


def test_it_writes_the_page_and_the_verdict(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inputs = build(tmp_path / "in")
    assert set(inputs) == set(stage("report").inputs)
    with caplog.at_level(logging.INFO, "graftgan"):
        outcome = report.run(inputs, Params(), outputs(tmp_path / "report"), Context(tmp_path, tmp_path))
    content = (tmp_path / "report").read_bytes()
    assert outcome.metrics == {"bytes": len(content)} and outcome.warnings == ()
    assert content.startswith(b"<!DOCTYPE html>") and code_digest().encode() in content
    assert "3 runs" in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "report", "verdict"]
    assert "| KID" in (tmp_path / "verdict").read_text()


def test_the_title_is_the_only_thing_that_its_own_parameters_need(tmp_path: Path) -> None:
    inputs = build(tmp_path / "in")
    params = resolve({"report": {"title": "Cats & dogs"}}, "test")
    report.run(inputs, params, outputs(tmp_path / "a"), Context(tmp_path, tmp_path))
    assert b"<title>Cats &amp; dogs</title>" in (tmp_path / "a").read_bytes()


def test_runners_that_differ_in_tracking_and_machine_get_equal_bytes(tmp_path: Path) -> None:
    inputs = build(tmp_path / "in")
    other = resolve({"track": {"mode": "off"}, "runtime": {"threads": 7, "device": "cpu"}}, "test")
    for name, params in (("a", Params()), ("b", other)):
        report.run(inputs, params, outputs(tmp_path / name), Context(tmp_path, tmp_path))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_static_curves_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interactive, "available", lambda: False)
    outcome = report.run(
        build(tmp_path / "in"), Params(), outputs(tmp_path / "a"), Context(tmp_path, tmp_path)
    )
    assert ["static" in text for text in outcome.warnings] == [True]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    inputs = build(tmp_path / "in")
    (inputs["scores"] / "scores.json").unlink()
    with pytest.raises(MissingInput, match=r"scores\.json"), atomic_path(tmp_path / "out" / "a") as path:
        report.run(inputs, Params(), outputs(path), Context(tmp_path, tmp_path))
    assert list((tmp_path / "out").iterdir()) == []
