"""What `make run` takes in a new clone, stage by stage, and what it ends with.

The last commit is cloned, `make setup` makes an environment there, and `make run` starts with empty caches.
Python has to compile what was just installed, and the first look at every file is slow: a second run, with
outputs, state and caches removed, tells what is left without that. Set-up is timed apart: it is the network's
and the installer's time.

    python benchmarks/first_run.py [--work FOLDER] [--once]

Writes `benchmarks/results/first_run.json` and `.md`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from processor import processor

from graftgan.contract import read_json, write_json, write_text
from graftgan.stages.specs import STAGES

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ARMS = ("chosen", "worst", "scratch")
MODEL = "graftgan-micah"
MADE = ("out", ".graftgan")


def called(command: list[str], folder: Path, env: dict[str, str]) -> float:
    """Run a command and return its seconds by the clock.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    began = time.monotonic()
    subprocess.run(command, cwd=folder, env=env, check=True)
    return time.monotonic() - began


def surroundings(work: Path) -> dict[str, str]:
    """Return an environment without this one's Python, and with caches below a folder."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return env | {"GRAFTGAN_CACHE": str(work / "cache")}


def outcome(clone: Path) -> dict[str, Any]:
    """Return what a run left: seconds of its stages, scores of its arms, and the registry's decision.

    Raises:
        MissingInput: A stage has no result.
        subprocess.CalledProcessError: Nothing is registered.
    """
    out = clone / "out"
    scores = read_json(out / "evaluate" / "result.json")["metrics"]
    return {
        "stages": {spec.name: read_json(out / spec.name / "run.json")["seconds"] for spec in STAGES},
        "kid": {arm: scores[f"kid_efflite0_{arm}"] for arm in ARMS},
        "registered": registered(clone),
        "report_bytes": (out / "report" / "report.html").stat().st_size,
    }


def registered(clone: Path) -> str:
    """Return what the registry of a clone says of the shipped example's newest version.

    Raises:
        subprocess.CalledProcessError: It holds none.
    """
    command = [str(clone / ".venv" / "bin" / "graftgan"), "versions", MODEL]
    line = subprocess.check_output(command, cwd=clone, text=True).splitlines()[0]
    number, alias, *_ = line.split()
    return f"version {number}, {alias}"


def run_once(clone: Path, work: Path) -> dict[str, Any]:
    """Run the shipped example from nothing; return its time, the load before it, and its outcome."""
    for name in MADE:
        shutil.rmtree(clone / name, ignore_errors=True)
    shutil.rmtree(work / "cache", ignore_errors=True)
    load = os.getloadavg()[0]
    seconds = called(["make", "run"], clone, surroundings(work))
    return {"seconds": seconds, "load_before": load, **outcome(clone)}


def table(record: dict[str, Any]) -> str:
    """Return the Markdown tables of all runs."""
    runs = record["runs"]
    place = record.get("processor") or f"{record['cores']} cores"
    lines = [
        f"{place}, commit `{record['commit']}`; set-up before it took {minutes(record['setup_s'])}.",
        "",
        "| `make run` | " + " | ".join(run["name"] for run in runs) + " |",
        "| --- |" + " --: |" * len(runs),
        "| in all | " + " | ".join(f"**{minutes(run['seconds'])}**" for run in runs) + " |",
    ]
    for name in runs[0]["stages"]:
        lines.append(f"| {name} | " + " | ".join(f"{run['stages'][name]:.0f} s" for run in runs) + " |")
    lines.append("| load before | " + " | ".join(f"{run['load_before']:.1f}" for run in runs) + " |")
    for arm in ARMS:
        lines.append(f"| KID, {arm} | " + " | ".join(f"{run['kid'][arm]:.3f}" for run in runs) + " |")
    lines.append("| registered | " + " | ".join(run["registered"] for run in runs) + " |")
    return "\n".join(lines) + "\n"


def minutes(seconds: float) -> str:
    """Return a duration as people say it."""
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s"


def main() -> None:
    """Clone, set up, run and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="keep clone and caches in this new folder")
    parser.add_argument("--once", action="store_true", help="no second run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        clone = work / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=clone, text=True)
        record: dict[str, Any] = {
            "cores": os.cpu_count(),
            "processor": processor(),
            "commit": commit.strip(),
            "setup_s": called(["make", "setup"], clone, surroundings(work)),
            "runs": [],
        }
        for name in ("the first", "a later one")[: 1 if options.once else 2]:
            record["runs"].append({"name": name, **run_once(clone, work)})
    write_json(RESULTS / "first_run.json", record)
    write_text(RESULTS / "first_run.md", table(record))
    print(table(record))


if __name__ == "__main__":
    main()
