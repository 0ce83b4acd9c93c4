"""Does the recommended source beat scratch, and in what order do the sources come?

Every source of the zoo and scratch are adapted to three targets with three seeds each, at one budget; the
table gives test KID. Finished runs are kept in `--work`: an interrupted benchmark goes on where it was.

    python benchmarks/transfer.py [--kimg 5] [--seeds 3] [--targets micah adventurer notionists]
"""

from __future__ import annotations

import argparse
import logging
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from clock import clocked, spent

from graftgan.checkpoints.catalogue import SCRATCH, Catalogue
from graftgan.checkpoints.store import WEIGHTS
from graftgan.config import Params
from graftgan.context import Context, StopSignal
from graftgan.contract import digest_file, read_json, write_json, write_text
from graftgan.data.dataset import ImageSet
from graftgan.engine import Job, default_paths
from graftgan.metrics.features import make_extractor
from graftgan.metrics.kid import kid
from graftgan.metrics.scores import require_same_protocol
from graftgan.parallel import run_all
from graftgan.params import load
from graftgan.places import cache_home
from graftgan.runner import run_stage
from graftgan.stages.evaluate import Shot, shoot
from graftgan.stages.finetune import Arm, run_arm
from graftgan.stages.specs import stage
from graftgan.study.statistics import student_interval

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TEST_KEY = "benchmark test"


def settings_of(target: str, seed: int, kimg: float, *more: str) -> Params:
    """Return the shipped example's parameters for one target and seed; `more` are `key=value`."""
    wanted = {
        "data.path": f"{ROOT}/data/{target}.parquet",
        "rank.catalogue": f"{ROOT}/zoo/catalogue.yaml",
        "rank.sources": "null",
        "finetune.seed": seed,
        "finetune.budget": f"{{kimg: {kimg}}}",
        "finetune.evaluate_every_kimg": kimg,
        "track.mode": "off",
    }
    return load(ROOT / "params.yaml", [*(f"{key}={value}" for key, value in wanted.items()), *more])


def prepare(folder: Path, params: Params, stop: StopSignal) -> dict[str, Any]:
    """Pack the target's images and rank the sources, below `folder`; return the ranking."""
    for name in ("prepare", "rank"):
        job = Job(stage(name), params, *default_paths(stage(name), folder))
        run_stage(job, stop)
    ranking: dict[str, Any] = read_json(folder / "rank" / "ranking" / "ranking.json")
    return ranking


def states_of(arm: Arm, ctx: Context) -> Path:
    """Return where the states of the arms from this source, as it is today, are."""
    return ctx.state / digests(arm.params.rank.catalogue).get(arm.source, SCRATCH)[:12]


def finished(arm: Arm) -> bool:
    """Tell whether an arm is done, from the source as it is today."""
    model = arm.folder / "model.json"
    today = digests(arm.params.rank.catalogue)
    return model.is_file() and bool(read_json(model)["source_sha256"] == today.get(arm.source))


def forget(arm: Arm, ctx: Context) -> None:
    """Remove an arm, and the states that it would go on from."""
    states = states_of(arm, ctx)
    for folder in (arm.folder, states / arm.run):
        shutil.rmtree(folder, ignore_errors=True)
    _clock(arm, states).unlink(missing_ok=True)


def _clock(arm: Arm, states: Path) -> Path:
    return states / f"{arm.run}.seconds.json"


def train(arm: Arm, ctx: Context) -> float | None:
    """Run an arm unless it is finished from the source as it is today; what a kill left of it is dropped.

    Returns:
        CPU seconds over all starts; None where they are not known whole.
    """
    states = states_of(arm, ctx)
    clock = _clock(arm, states)
    if not finished(arm):
        shutil.rmtree(arm.folder, ignore_errors=True)
        with clocked(clock, states / arm.run):
            run_arm(arm, replace(ctx, state=states))
    return spent(clock)


def adapt(arm: Arm, ctx: Context) -> dict[str, Any]:
    """Adapt one source once and score it on the test images; a finished run is not repeated."""
    record = arm.folder / "benchmark.json"
    train(arm, ctx)
    if not record.is_file():
        settings = arm.params.evaluate
        key = f"benchmark {settings.samples} {settings.seed} {digest_file(arm.folder / WEIGHTS)}"
        fakes = shoot(Shot(arm.run, arm.params, arm.dataset, arm.folder, key, arm.folder), ctx)
        data = ImageSet.open(arm.dataset)
        test = shoot(
            Shot("test", arm.params, arm.dataset, None, f"{TEST_KEY} {data.digest}", arm.folder), ctx
        )
        estimate = kid(fakes, test, confidence=settings.confidence)
        protocol = make_extractor(settings.extractor).protocol
        write_json(record, {"source": arm.source, "seed": arm.params.finetune.seed, "kid": estimate.value,
                            "stderr": estimate.stderr, "protocol": protocol})  # fmt: skip
    result: dict[str, Any] = read_json(record)
    return result


def digests(catalogue: Path | str) -> dict[str, str]:
    """Return the sha256 of each source by its name, which tells what zoo a result was measured with."""
    return {source.name: source.sha256 for source in Catalogue(Path(catalogue)).sources}


def mean_interval(runs: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Return mean and 95 % Student interval over seeds; of one run, the interval of its own KID."""
    if len(runs) > 1:
        return student_interval([run["kid"] for run in runs])
    margin = 1.96 * runs[0]["stderr"]
    return runs[0]["kid"], runs[0]["kid"] - margin, runs[0]["kid"] + margin


def table(results: dict[str, Any], kimg: float) -> str:
    """Return the Markdown table of all targets."""
    lines = [
        f"Test KID (`{results['protocol']}`, lower is better) after {kimg:g} kimg on 100 images: "
        f"mean of {results['seeds']} seeds with the 95 % Student interval over seeds. "
        f"`*` is the recommended source."
    ]
    for target, record in results["targets"].items():
        head = f"| {target}: source | recall at the start | test KID | interval |"
        lines += ["", head, "| --- | --- | --- | --- |"]
        for row in record["rows"]:
            mark = " *" if row["source"] == record["recommended"] else ""
            ends = f"{row['low']:.3f} to {row['high']:.3f}"
            lines.append(f"| {row['source']}{mark} | {row['recall']:.2f} | {row['kid']:.3f} | {ends} |")
        apart = "do not overlap" if record["apart"] else "overlap"
        lines += [
            "",
            f"{target}: scratch / recommended = {record['scratch_ratio']:.2f}, their intervals {apart}; "
            f"the recommendation is {record['regret']:.0%} above the best source.",
        ]
    return "\n".join(lines) + "\n"


def beside(results: dict[str, Any]) -> str:
    """Return one table of all targets beside each other, best mean of all first."""
    targets = sorted(results["targets"])
    found = {t: {row["source"]: row for row in results["targets"][t]["rows"]} for t in targets}
    shared = sorted(
        set.intersection(*(set(rows) for rows in found.values())),
        key=lambda source: statistics.fmean(rows[source]["kid"] for rows in found.values()),
    )
    lines = [f"| source | {' | '.join(targets)} |", "|" + " --- |" * (1 + len(targets))]
    for source in shared:
        cells = []
        for target in targets:
            row = found[target][source]
            mark = " *" if source == results["targets"][target]["recommended"] else ""
            cells.append(f"{row['kid']:.3f} ({row['low']:.3f} to {row['high']:.3f}){mark}")
        lines.append(f"| {source} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def summarise(ranking: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one target's rows, best first, and how the recommendation did."""
    recall = {row["name"]: row["recall"]["value"] for row in ranking["rows"]}
    by_source: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_source.setdefault(run["source"], []).append(run)
    rows = []
    for source, its in by_source.items():
        mean, low, high = mean_interval(its)
        rows.append({"source": source, "recall": recall[source], "kid": mean, "low": low, "high": high})
    rows.sort(key=lambda row: row["kid"])
    found = {row["source"]: row for row in rows}
    chosen, scratch = found[ranking["choice"]["name"]], found[SCRATCH]
    return {
        "recommended": chosen["source"], "rows": rows, "scratch_ratio": scratch["kid"] / chosen["kid"],
        "apart": chosen["high"] < scratch["low"], "regret": chosen["kid"] / rows[0]["kid"] - 1,
    }  # fmt: skip


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kimg", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--targets", nargs="+", default=["micah", "adventurer", "notionists"])
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "benchmarks" / "transfer")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("graftgan").setLevel(logging.INFO)
    stop = StopSignal()
    stop.install()
    results: dict[str, Any] = {
        "kimg": arguments.kimg, "seeds": arguments.seeds,
        "sources": digests(ROOT / "zoo" / "catalogue.yaml"), "targets": {},
    }  # fmt: skip
    for target in arguments.targets:
        params = settings_of(target, 0, arguments.kimg)
        ranking = prepare(arguments.work / target, params, stop)
        sources = [*digests(params.rank.catalogue), SCRATCH]
        folder = arguments.work / target / f"{arguments.kimg:g}kimg"
        dataset = arguments.work / target / "prepare" / "dataset"
        arms = [
            Arm(f"{source}-{seed}", source, settings_of(target, seed, arguments.kimg), dataset,
                folder / f"{source}-{seed}")
            for seed in range(arguments.seeds) for source in sources
        ]  # fmt: skip
        ctx = Context(state=folder / "states", cache=cache_home(), stop=stop)
        runs = run_all(adapt, arms, ctx, params.runtime.threads, arguments.workers)
        results["protocol"] = require_same_protocol(*(run["protocol"] for run in runs))
        results["targets"][target] = summarise(ranking, runs)
        write_json(RESULTS / "transfer.json", results)
        write_text(RESULTS / "transfer.md", table(results, arguments.kimg))
        write_text(RESULTS / "transfer-beside.md", beside(results))
    print(table(results, arguments.kimg))


if __name__ == "__main__":
    main()
