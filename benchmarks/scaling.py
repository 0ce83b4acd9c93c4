"""Time of finetune, rank and evaluate with one and with two workers, and what more workers would take.

    python benchmarks/scaling.py [--counts 1 2] [--repeat 3] [--device cpu] [--kimg 6]

Each run is a command line of its own, under torchrun where it has several workers, with caches of its own.
Counts take turns, and the median counts. Writes `benchmarks/results/scaling.json` and `.md`. The machine
should be quiet and have at least as many cores (or GPUs) as the largest count.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from processor import processor

from graftgan.contract import read_json, write_json, write_text

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
STAGES = ("finetune", "rank", "evaluate")


@dataclass(frozen=True)
class Timing:
    """One stage with one number of workers.

    Attributes:
        stage: Its name.
        workers: Processes.
        seconds: Median time of the stage itself.
        start_s: Median time besides: starting Python, imports, meeting the others.
        units: What the stage did: kimg, candidates or images.
        unit: What those are.
    """

    stage: str
    workers: int
    seconds: float
    start_s: float
    units: float
    unit: str


def command(workers: int, words: Sequence[str]) -> list[str]:
    """Return the command line of a stage."""
    agent = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    return [sys.executable, *(agent if workers > 1 else []), "-m", "graftgan", *words]


def run(place: Path, stage: str, workers: int, assignments: Mapping[str, object]) -> tuple[float, float]:
    """Run a stage with an empty cache; return its own seconds and those of the whole process."""
    home = place / "home"
    shutil.rmtree(home, ignore_errors=True)
    words = [stage, "--params", str(ROOT / "params.yaml"), "--out", str(place / "out"), "--force"]
    for key, value in assignments.items():
        words += ["--set", f"{key}={value}"]
    variables = {"GRAFTGAN_HOME": str(home), "GRAFTGAN_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    started = time.perf_counter()
    done = subprocess.run(
        command(workers, words), cwd=ROOT, env=os.environ | variables | {"PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    whole = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{stage} with {workers} workers failed:\n{done.stderr[-3000:]}")
    return float(read_json(place / "out" / stage / "run.json")["seconds"]), whole


def amount(place: Path, stage: str, kimg: float) -> tuple[float, str]:
    """Return how much a stage did, and of what."""
    if stage == "finetune":
        return kimg, "kimg"
    if stage == "rank":
        return len(read_json(place / "out/rank/ranking/ranking.json")["rows"]), "sources"
    scores = read_json(place / "out/evaluate/scores/scores.json")
    return float(scores["n_fake"]), "samples"


def measure(options: argparse.Namespace) -> list[Timing]:
    """Run every stage with every count, in turns."""
    assignments = {
        "runtime.device": options.device, "runtime.threads": 1, "runtime.workers": 1, "track.mode": "off",
        "finetune.controls": "[]", "finetune.budget": f"{{kimg: {options.kimg}}}",
    } | dict(text.split("=", 1) for text in options.assignments)  # fmt: skip
    timings = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for stage in ("prepare", "rank", "finetune", "evaluate"):
            run(place, stage, 1, assignments)
        for stage in STAGES:
            found: dict[int, list[tuple[float, float]]] = {count: [] for count in options.counts}
            for _ in range(options.repeat):
                for count in options.counts:
                    found[count].append(run(place, stage, count, assignments))
            units, unit = amount(place, stage, options.kimg)
            for count, times in found.items():
                seconds = statistics.median(own for own, _ in times)
                start = statistics.median(whole - own for own, whole in times)
                timings.append(Timing(stage, count, seconds, start, units, unit))
                print(f"{stage:9} {count} workers {seconds:8.2f} s, {start:.2f} s to start", flush=True)
    return timings


def serial_share(alone_s: float, together_s: float, workers: int) -> float:
    """Return the share of a stage that more workers do not shorten, in [0, 1].

    Solves Amdahl's ``T(W) = T(1) (f + (1 - f) / W)`` for f; what workers say to each other counts as serial.
    """
    return min(max((together_s / alone_s * workers - 1) / (workers - 1), 0.0), 1.0)


def predicted_s(alone_s: float, share: float, workers: int) -> float:
    """Return Amdahl's time for a number of workers."""
    return alone_s * (share + (1 - share) / workers)


def table(timings: Sequence[Timing]) -> str:
    """Return the timings as Markdown."""
    alone = {t.stage: t.seconds for t in timings if t.workers == 1}
    lines = [
        "| stage | workers | seconds | start-up s | speed-up | efficiency | a unit, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for t in timings:
        gain = alone[t.stage] / t.seconds
        lines.append(
            f"| {t.stage} ({t.units:g} {t.unit}) | {t.workers} | {t.seconds:.2f} | {t.start_s:.2f} "
            f"| {gain:.2f} | {gain / t.workers:.0%} | {t.seconds / t.units:.4g} |"
        )
    return "\n".join(lines)


def estimate(timings: Sequence[Timing], workers: int, sources: int, device: str) -> str:
    """Return what a run over many sources would take with more workers, from the costs of a unit."""
    lines = [
        f"## Estimate: {workers} workers, {sources} sources",
        "",
        f"Each worker is taken to be as fast as one {device} here; a GPU's own costs come from "
        "`--device cuda` on a machine that has some. The share that does not shrink is found from the table "
        "by Amdahl's law, with what workers say to each other in it; network between machines is not.",
        "",
        f"| what | one worker | serial share | {workers} workers |",
        "|---|---|---|---|",
    ]
    largest = max(t.workers for t in timings)
    for stage in STAGES:
        one, most = (next(t for t in timings if (t.stage, t.workers) == (stage, n)) for n in (1, largest))
        share = serial_share(one.seconds, most.seconds, largest)
        units = float(sources) if stage == "rank" else one.units
        # What is serial in rank does not grow with the sources: the target's features, the sheets.
        if stage == "rank":
            fixed_s = share * one.seconds
            work_s = (one.seconds - fixed_s) / one.units * units
            alone_s, together_s = fixed_s + work_s, fixed_s + work_s / workers
            share = fixed_s / alone_s
        else:
            alone_s, together_s = one.seconds, predicted_s(one.seconds, share, workers)
        lines.append(
            f"| {stage}, {units:g} {one.unit} | {hours(alone_s)} | {share:.1%} | {hours(together_s)} |"
        )
    return "\n".join(lines)


def hours(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def page(timings: Sequence[Timing], options: argparse.Namespace) -> str:
    """Return the whole page."""
    device = "CPU core" if options.device == "cpu" else "GPU"
    facts = (
        f"{processor()}, torch {torch.__version__}, device {options.device}, "
        f"one thread a worker, median of {options.repeat}."
    )
    whole = ["# Several workers", "", facts, "", table(timings)]
    if max(options.counts) > 1:
        whole += ["", estimate(timings, options.workers, options.sources, device)]
    return "\n".join([*whole, ""])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--kimg", type=float, default=6.0)
    parser.add_argument("--workers", type=int, default=8, help="of the estimate")
    parser.add_argument("--sources", type=int, default=1000, help="of the estimate")
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if 1 not in options.counts:
        parser.error("--counts needs 1, which the others are compared with")
    timings = measure(options)
    text = page(timings, options)
    write_json(options.results / "scaling.json", {"timings": [asdict(t) for t in timings]})
    write_text(options.results / "scaling.md", text)
    print(text)


if __name__ == "__main__":
    main()
