"""The report's part on a run that began under a prior."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graftgan.config import Params
from graftgan.errors import MissingInput
from graftgan.reporting.facts import read_facts
from graftgan.reporting.html import render
from graftgan.reporting.sheets import save_png, sheet
from reporting.synthetic import blobs, build

FOUND = {"gain": 2.345, "mse": 0.1, "squared_norm_per_dimension": 1.0, "mixture": {"components": 3}}


def test_a_run_with_a_prior_shows_its_inversion_and_others_nothing(tmp_path: Path) -> None:
    inputs = build(tmp_path)
    plain = render(read_facts(inputs), Params(), "c" * 64)
    assert 'id="inversion"' not in plain
    folder = inputs["models"] / "chosen"
    (folder / "inversion.json").write_text(json.dumps(FOUND))
    save_png(sheet(blobs(8, 1), 4), folder / "inversion.png")
    facts = read_facts(inputs)
    assert facts.chosen.inversion == FOUND
    assert [run.name for run in facts.runs if run.inversion] == ["chosen"]
    page = render(facts, Params(), "c" * 64)
    assert page.count('id="inversion"') == 1
    assert "2.35 times nearer" in page or "2.34 times nearer" in page
    assert "a mixture of 3 Gaussians" in page
    assert page.count("<img") == plain.count("<img") + 1


def test_a_damaged_inversion_is_told(tmp_path: Path) -> None:
    inputs = build(tmp_path)
    (inputs["models"] / "chosen" / "inversion.json").write_text('{"gain": 1}')
    with pytest.raises(MissingInput, match="lacks mse"):
        read_facts(inputs)
