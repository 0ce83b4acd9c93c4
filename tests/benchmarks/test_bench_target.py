"""`make bench`: what it starts, with which options, and that one failure stops no other benchmark."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAILS = "metrics.py"
# Stands in for Python and `graftgan`: it writes down what it is asked for.
NOTES = f"""#!/bin/sh
echo "$OMP_NUM_THREADS $(basename "$0") $*" >> "$NOTES"
case "$*" in *{FAILS}*) exit 1;; esac
"""


def bench(tmp_path: Path, *words: str) -> tuple[int, str, list[str]]:
    """Run the target in an environment of stand-ins; return its status, what it said, and what it started."""
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "graftgan"):
        (programs / name).write_text(NOTES)
        (programs / name).chmod(0o755)
    notes = tmp_path / "notes"
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "bench", f"VENV={tmp_path / 'venv'}", *words],
        cwd=ROOT, env=plain | {"NOTES": str(notes)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr, notes.read_text().splitlines()


def test_a_failure_stops_neither_the_others_nor_the_tables(tmp_path: Path) -> None:
    status, said, started = bench(tmp_path)
    scripts = [line.split("benchmarks/")[1].split()[0] for line in started if "benchmarks/" in line]
    assert status != 0 and f"failed: {FAILS}\n" in said
    assert scripts.index(FAILS) < scripts.index("step.py") < scripts.index("tables.py") == len(scripts) - 1
    run = next(number for number, line in enumerate(started) if line.endswith("graftgan run"))
    served = next(number for number, line in enumerate(started) if "serving.py" in line)
    assert run < served, "what is served has to be made first"


def test_every_benchmark_with_a_table_is_in_it(tmp_path: Path) -> None:
    _, _, started = bench(tmp_path)
    asked = {line.split("benchmarks/")[1].split()[0] for line in started if "benchmarks/" in line}
    writing = {
        file.name
        for file in (ROOT / "benchmarks").glob("*.py")
        if "write_text(RESULTS" in file.read_text("utf-8")
    }
    assert writing <= asked


@pytest.mark.parametrize("given", [True, False])
def test_checkouts_are_handed_on(tmp_path: Path, given: bool) -> None:
    words = ["PEER_PATH=/peers/ada", "ROSINALITY_PATH=/peers/other"] if given else []
    _, _, started = bench(tmp_path, *words)
    (step,) = [line for line in started if "step.py" in line]
    wanted = "--compile --peer-path /peers/ada --rosinality-path /peers/other" if given else "--compile"
    assert step.startswith("2 python") and step.endswith(f"step.py {wanted}")


@pytest.mark.parametrize("given", [True, False])
def test_files_of_inception_are_handed_on(tmp_path: Path, given: bool) -> None:
    """Without its network clean-fid is left out."""
    words = ["INCEPTION_WEIGHTS=/w.pth", "TORCHSCRIPT=/i.pt"] if given else []
    _, _, started = bench(tmp_path, *words)
    (features,) = [line for line in started if "features.py" in line]
    assert features.endswith("features.py --weights /w.pth --torchscript /i.pt" if given else "features.py")
