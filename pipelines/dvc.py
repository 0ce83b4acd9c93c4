"""Writes `dvc.yaml` from the stage table: `python -m pipelines.dvc`; with `--check` it compares instead."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from graftgan.config import Params
from graftgan.engine import default_paths
from graftgan.params import leaves
from graftgan.stages.specs import STAGES, StageSpec

ROOT = Path(__file__).parent.parent
OUT = Path("out")
RUNS = ("chosen", "worst", "scratch")
HEADER = "# Made by `python -m pipelines.dvc` from src/graftgan/stages/specs.py: change that, not this.\n"


def stage_entry(spec: StageSpec) -> dict[str, Any]:
    """Return the entry of one stage.

    Every output is cached, the volatile ones too: one plain output with `cache: false` would switch DVC's
    run-cache off for the stage. Nothing depends on a volatile output.
    """
    inputs, outputs = default_paths(spec, OUT)
    # An experiment in a temporary copy must import the copy's code, not what an editable install points at.
    command = f"PYTHONPATH=src graftgan {spec.name} --params params.yaml"
    external = [f"${{{key}}}" for key in spec.external]
    return {
        "desc": spec.help,
        "cmd": command,
        "deps": [*external, *sorted(path.as_posix() for path in inputs.values()), "src/graftgan"],
        "params": list(leaves(Params(), spec.params)),
        "outs": sorted(path.as_posix() for path in outputs.values()),
    }


def curve(title: str, column: str) -> dict[str, Any]:
    """Return a plot of one column of the training curves of every run.

    The template `curve` leaves empty cells out; DVC's own would draw them as zero.
    """
    files = {f"{OUT}/finetune/models/{run}/curves.csv": column for run in RUNS}
    return {
        column: {
            "title": title,
            "template": "curve",
            "x": "images_seen",
            "x_label": "images seen",
            "y": files,
        }
    }


def plots() -> list[Any]:
    """Return the plots: training curves, the ranking, and sheets of pictures."""
    ranking = {
        "title": "Recall of the image set by each source",
        "template": "bar_horizontal_sorted",
        "x": "recall",
        "y": {f"{OUT}/rank/ranking/ranking.csv": "name"},
    }
    return [
        curve("KID on the validation images", "kid_validation"),
        curve("Probability of augmentation", "ada_p"),
        curve("Loss of the discriminator", "loss_d"),
        curve("Loss of the generator", "loss_g"),
        {"ranking": ranking},
        f"{OUT}/rank/ranking/target.png",
        f"{OUT}/finetune/models/chosen/timeline.png",
        f"{OUT}/evaluate/scores/real.png",
        f"{OUT}/evaluate/scores/samples",
        f"{OUT}/evaluate/scores/pairs",
    ]


def document() -> dict[str, Any]:
    """Return the whole of `dvc.yaml` as a dictionary."""
    model = {
        "path": f"{OUT}/register/package",
        "type": "model",
        "desc": "Generator adapted to the image set: weights, card and provenance.",
    }
    return {
        "stages": {spec.name: stage_entry(spec) for spec in STAGES},
        "metrics": [f"{OUT}/evaluate/scores/metrics.json"],
        "plots": plots(),
        "artifacts": {"generator": model},
    }


def text() -> str:
    """Return the text of `dvc.yaml`."""
    return HEADER + yaml.safe_dump(document(), sort_keys=False, width=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the file; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.dvc", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    parser.add_argument("--output", type=Path, default=ROOT / "dvc.yaml")
    options = parser.parse_args(arguments)
    if not options.check:
        options.output.write_text(text(), encoding="utf-8")
        return 0
    if options.output.exists() and options.output.read_text(encoding="utf-8") == text():
        return 0
    print(f"{options.output} is stale\n  fix: python -m pipelines.dvc", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
