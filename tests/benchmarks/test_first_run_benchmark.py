"""The benchmark of the first run reads what a run left, and its table says it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from graftgan.contract import write_json, write_text
from graftgan.errors import MissingInput
from graftgan.stages.specs import STAGES
from scripts import loaded

bench: Any = loaded("first_run")
MAKEFILE = "run:\n\ttest ! -e out\n\tcp -r kept out\n\tprintenv GRAFTGAN_CACHE > said\n"
KID = {"chosen": 0.2, "worst": 0.5, "scratch": 0.6}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    out = tmp_path / "clone" / "out"
    for number, spec in enumerate(STAGES):
        write_json(out / spec.name / "run.json", {"seconds": 10.0 * number})
    metrics = {f"kid_efflite0_{arm}": value for arm, value in KID.items()}
    write_json(out / "evaluate" / "result.json", {"metrics": metrics})
    write_text(out / "report" / "report.html", "<p>")
    program = tmp_path / "clone" / ".venv" / "bin" / "graftgan"
    write_text(program, "#!/bin/sh\necho '   1  champion      6b726636bc3a  the first'\n")
    program.chmod(0o755)
    return tmp_path / "clone"


def test_what_a_run_left_is_read(clone: Path) -> None:
    found = bench.outcome(clone)
    assert list(found["stages"].values()) == [0, 10, 20, 30, 40, 50]
    assert found["kid"] == KID
    assert (found["registered"], found["report_bytes"]) == ("version 1, champion", 3)


def test_a_run_that_lacks_a_stage_or_a_version_is_no_result(clone: Path) -> None:
    with (clone / ".venv" / "bin" / "graftgan").open("a") as program:
        program.write("exit 4\n")
    with pytest.raises(subprocess.CalledProcessError):
        bench.outcome(clone)
    (clone / "out" / "report" / "run.json").unlink()
    with pytest.raises(MissingInput):
        bench.outcome(clone)


def test_a_run_begins_with_nothing_and_is_timed(clone: Path, tmp_path: Path) -> None:
    write_text(clone / "Makefile", MAKEFILE)
    (clone / "out").rename(clone / "kept")
    (clone / "out" / "rank").mkdir(parents=True)
    (tmp_path / "cache").mkdir()
    found = bench.run_once(clone, tmp_path)
    assert not (clone / "out" / "kept").exists() and not (tmp_path / "cache").exists()
    assert found["seconds"] > 0 and found["kid"] == KID
    assert (clone / "said").read_text().strip() == str(tmp_path / "cache")


def test_another_pythons_paths_are_not_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", "src")
    found = bench.surroundings(tmp_path)
    assert "PYTHONPATH" not in found and found["PATH"] == os.environ["PATH"]


def test_the_table_names_every_stage_and_arm(clone: Path) -> None:
    run = {"name": "the first", "seconds": 233.6, "load_before": 0.25, **bench.outcome(clone)}
    text = bench.table(
        {"cores": 2, "commit": "abc", "setup_s": 61.0, "runs": [run, {**run, "name": "later"}]}
    )
    assert "| in all | **3 min 54 s** | **3 min 54 s** |" in text
    assert "| finetune | 20 s | 20 s |" in text and "| KID, scratch | 0.600 | 0.600 |" in text
    assert "set-up before it took 1 min 1 s" in text
    assert "| registered | version 1, champion | version 1, champion |" in text
