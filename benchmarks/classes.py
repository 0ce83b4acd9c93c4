"""What the tuning of class embeddings does to the shipped source with classes, before and after.

The narrow class is repaired, the biased one de-biased, and the source is re-purposed for a set it never
saw; nothing but one row of the class table moves.

    python benchmarks/classes.py [--kimg 1.5]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from transfer import RESULTS, ROOT

from graftgan.context import StopSignal
from graftgan.contract import read_json, write_json, write_text
from graftgan.engine import Job, default_paths
from graftgan.params import load
from graftgan.runner import run_stage
from graftgan.stages.specs import stage

USES = {
    "repair": ("personas", "the narrow class", ["finetune.class_embedding.classes=[3]"]),
    "debias": ("big-smile", "the biased class", ["finetune.class_embedding.classes=[2]"]),
    "repurpose": ("micah", "a new class", []),
}
COLUMNS = {
    "kid": "KID",
    "per_latent": "variety per latent distance",
    "real_share": "variety / that of images",
}


def tune(use: str, kimg: float, work: Path, stop: StopSignal) -> dict[str, Any]:
    """Run one use and return the facts of its class."""
    data, _, more = USES[use]
    wanted = {
        "data.path": f"{ROOT}/data/{data}.parquet", "rank.catalogue": f"{ROOT}/zoo/classes.yaml",
        "rank.sources": "null", "rank.choose": "groups", "track.mode": "off",
        "finetune.method": "class_embedding", "finetune.controls": "[]",
        "finetune.budget": f"{{kimg: {kimg}}}", "finetune.evaluate_every_kimg": kimg / 3,
        "finetune.class_embedding.use": use,
    }  # fmt: skip
    params = load(ROOT / "params.yaml", [*(f"{key}={value}" for key, value in wanted.items()), *more])
    for name in ("prepare", "rank", "finetune"):
        run_stage(Job(stage(name), params, *default_paths(stage(name), work / use)), stop)
    report = read_json(work / use / "finetune" / "models" / "chosen" / "model.json")
    (facts,) = report["class_embedding"]["classes"]
    return {**facts, "protocol": report["class_embedding"]["protocol"]}


def table(results: dict[str, Any], kimg: float) -> str:
    """Return the Markdown table."""
    protocol = next(iter(results.values()))["protocol"]
    lines = [
        f"One row of 64 numbers is tuned for {kimg:g} kimg on 100 images (`{protocol}`); before → after.",
        "",
        f"| use | images | {' | '.join(COLUMNS.values())} |",
        "|" + " --- |" * (2 + len(COLUMNS)),
    ]
    for use, facts in results.items():
        cells = [f"{facts['before'][key]:.2f} → {facts['after'][key]:.2f}" for key in COLUMNS]
        lines.append(f"| `{use}`: {USES[use][1]} | {USES[use][0]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the three uses and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kimg", type=float, default=1.5)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "benchmarks" / "classes")
    options = parser.parse_args()
    stop = StopSignal()
    stop.install()
    results = {use: tune(use, options.kimg, options.work, stop) for use in USES}
    write_json(RESULTS / "classes.json", results)
    write_text(RESULTS / "classes.md", table(results, options.kimg))
    print(table(results, options.kimg))


if __name__ == "__main__":
    main()
