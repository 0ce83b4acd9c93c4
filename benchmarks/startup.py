"""Start-up of the command line, as a ratio to an empty Python and to an empty click program.

Usage: python benchmarks/startup.py [--runs 15] [--quick]

The programs run in turn, so that a busy machine slows all alike; their medians are compared. Times are of the
processor, user and system. Byte code is kept, as for whoever installs a package, in a folder of its own.
Writes `benchmarks/results/startup.json` and `.md`.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from processor import processor

from graftgan.contract import write_json, write_text

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
EMPTY = "pass"
CLICK = "import click; click.command()(lambda: None).main(['--help'], standalone_mode=False)"
PROGRAMS = {
    "python -c pass": [sys.executable, "-c", EMPTY],
    "empty click program": [sys.executable, "-c", CLICK],
    "graftgan --help": [sys.executable, "-m", "graftgan", "--help"],
    "graftgan config --help": [sys.executable, "-m", "graftgan", "config", "--help"],
    "graftgan config show": [sys.executable, "-m", "graftgan", "config", "show"],
    "import pydantic and yaml": [sys.executable, "-c", "import pydantic, yaml; pydantic.BaseModel"],
}


def used_s() -> float:
    """Return the processor time that finished child processes used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(runs: int) -> dict[str, float]:
    """Return the median time of each program over alternating runs, after one that fills the caches."""
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as folder:
        env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        env["PYTHONPYCACHEPREFIX"] = folder
        for number in range(runs + 1):
            for name, command in PROGRAMS.items():
                before_s = used_s()
                subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=env, cwd=ROOT)
                if number:
                    times[name].append(used_s() - before_s)
    return {name: statistics.median(values) for name, values in times.items()}


def table(medians: dict[str, float]) -> str:
    """Return a line a program: its median and its ratios to the two empty ones."""
    python, click = (medians[name] for name in list(PROGRAMS)[:2])
    lines = ["| program | processor time | over Python | over click |", "| --- | --: | --: | --: |"]
    for name, median in medians.items():
        lines.append(f"| `{name}` | {1000 * median:.0f} ms | {median / python:.2f} | {median / click:.2f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="runs of each program")
    parser.add_argument("--quick", action="store_true", help="one run each; prints only")
    options = parser.parse_args()
    medians = measure(1 if options.quick else options.runs)
    text = f"{processor()}, Python {platform.python_version()}, medians.\n\n{table(medians)}"
    if not options.quick:
        write_json(RESULTS / "startup.json", medians)
        write_text(RESULTS / "startup.md", text)
    print(text)


if __name__ == "__main__":
    main()
