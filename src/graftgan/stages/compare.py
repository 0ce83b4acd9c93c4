"""compare: several methods and seeds, each trained and scored by tasks of its own; one is handed on.

The least KID on the validation images wins. The test scores are shown and decide nothing, so that the
winner's are still of images that no choice has seen.
"""

from __future__ import annotations

import csv
import io
import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftgan.config import Params
from graftgan.context import Context
from graftgan.contract import Outcome, Result, digest_path, read_json, write_json, write_text
from graftgan.errors import MissingInput, ProtocolMismatch
from graftgan.params import config_digest
from graftgan.reporting.comparison import ArmFacts, comparison_html, comparison_markdown
from graftgan.stages.specs import stage

RUN = "chosen"
AS_CONFIGURED = "configured"


@dataclass(frozen=True)
class Arm:
    """One method and seed, trained and scored.

    Attributes:
        models: What finetune wrote.
        scores: What evaluate wrote.
        trained: Finetune's result.
        model: `model.json` of the chosen run.
        record: `scores.json`.
    """

    models: Path
    scores: Path
    trained: Result
    model: dict[str, Any]
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """`METHOD/SEED`, as the pipeline's parameter `arms` takes it."""
        return f"{self.model['method']}/{self.model['seed']}"

    @property
    def kid(self) -> float:
        """KID of the chosen run on the validation images."""
        return float(self.model["best"]["kid"])

    def tests(self) -> dict[str, float | None]:
        """Return the chosen run's scores on the test images, by name."""
        return {row["name"]: row["value"] for row in self.record["runs"][RUN]["scores"]}


def run(inputs: Mapping[str, Path], params: Params, outputs: Mapping[str, Path], ctx: Context) -> Outcome:
    """Compare the arms and copy the winner's models and scores; see `specs.CLUSTER_STAGES`."""
    arms = sorted(gather(inputs), key=lambda arm: (arm.kid, arm.name))
    best = arms[0]
    shutil.copytree(best.models, outputs["best_models"], dirs_exist_ok=True)
    shutil.copytree(best.scores, outputs["best_scores"], dirs_exist_ok=True)
    rows = [row_of(arm) for arm in arms]
    methods = by_method(arms)
    table = outputs["table"]
    write_json(table / "comparison.json", {"winner": best.name, "arms": rows, "methods": methods})
    write_text(table / "comparison.csv", comparison_csv(rows))
    write_text(table / "winner.txt", told(best, params))
    facts = [
        ArmFacts(row, arm.scores / "samples" / f"{RUN}.png") for row, arm in zip(rows, arms, strict=True)
    ]
    outputs["comparison"].write_text(comparison_html(facts, methods, best.record["n_test"]), encoding="utf-8")
    write_text(outputs["verdict"], comparison_markdown(rows, methods))
    ctx.log.info("compare: %s of %d wins with validation KID %.4g", best.name, len(arms), best.kid)
    return Outcome({"arms": float(len(arms)), "kid_validation": best.kid})


def gather(inputs: Mapping[str, Path]) -> list[Arm]:
    """Return the arms; what belongs together is found by digest, for a cluster keeps no order of lists.

    Raises:
        MissingInput: If a list is shorter than another or its parts do not belong together.
        ProtocolMismatch: If two arms were judged by different extractors.
    """
    lists = {name: paths_of(inputs, name) for name in stage("compare").many}
    counts = {name: len(paths) for name, paths in lists.items()}
    if len(set(counts.values())) != 1 or not counts["models"]:
        told = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise MissingInput(f"compare got {told}", "pass the same fan-out's outputs to all four inputs")
    models, scores = ({digest_path(p): p for p in lists[name]} for name in ("models", "scores"))
    trained = {r.outputs["models"].digest: r for r in map(Result.read, lists["trained"])}
    arms = []
    for path in lists["scored"]:
        result = Result.read(path)
        model, score = result.inputs["models"], result.outputs["scores"].digest
        if model not in models or model not in trained or score not in scores:
            raise MissingInput(
                f"compare lacks models or scores of {path}",
                "use a Kubeflow whose launcher hands over every artifact of a list",
            )
        arms.append(open_arm(models[model], scores[score], trained[model]))
    if len(protocols := {arm.model["protocol"] for arm in arms}) > 1:
        raise ProtocolMismatch(
            f"validation KIDs by {' and '.join(sorted(protocols))} cannot be compared",
            "give all arms the same finetune.validation_extractor",
        )
    return arms


def paths_of(inputs: Mapping[str, Path], name: str) -> list[Path]:
    """Return the entries `NAME/0`, `NAME/1` and on.

    Raises:
        MissingInput: If one was not brought here.
    """
    paths = [path for key, path in inputs.items() if key.split("/")[0] == name]
    for path in paths:
        if not path.exists():
            raise MissingInput(
                f"{path}, one of {len(paths)} of {name}, does not exist",
                "use a Kubeflow whose launcher hands over every artifact of a list",
            )
    return paths


def open_arm(models: Path, scores: Path, trained: Result) -> Arm:
    """Read what an arm found."""
    return Arm(
        models, scores, trained, read_json(models / RUN / "model.json"), read_json(scores / "scores.json")
    )


def told(arm: Arm, params: Params) -> str:
    """Return the text that makes later tasks' configuration the arm's own."""
    same = arm.trained.config == config_digest(params, stage("finetune").params)
    return AS_CONFIGURED if same else arm.name


def row_of(arm: Arm) -> dict[str, Any]:
    """Return an arm's line of the table."""
    best = arm.model["best"]
    return {
        "arm": arm.name,
        "method": arm.model["method"],
        "seed": arm.model["seed"],
        "source": arm.model["source"],
        "images_seen": arm.model["images_seen"],
        "kid_validation": {"value": best["kid"], "low": best["low"], "high": best["high"]},
        "test": arm.tests(),
    }


def by_method(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return, of each method, the mean and the standard deviation over its seeds, best first."""
    rows = []
    for method in dict.fromkeys(arm.model["method"] for arm in arms):
        mine = [arm for arm in arms if arm.model["method"] == method]
        kid = spread([arm.kid for arm in mine])
        names = list(dict.fromkeys(name for arm in mine for name in arm.tests()))
        values = {name: [arm.tests().get(name) for arm in mine] for name in names}
        tests = {
            name: spread([v for v in found if v is not None])
            for name, found in values.items()
            if any(v is not None for v in found)
        }
        rows.append({"method": method, "seeds": len(mine), "kid_validation": kid, "test": tests})
    return sorted(rows, key=lambda row: (row["kid_validation"]["mean"], row["method"]))


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Return the mean, and the sample standard deviation, None for a single value."""
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return {"mean": statistics.fmean(values), "deviation": deviation if math.isfinite(deviation) else None}


def comparison_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table as CSV, one arm a line, best first."""
    names = list(dict.fromkeys(name for row in rows for name in row["test"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "method", "seed", "source", "images_seen", "kid_validation", *names])
    for row in rows:
        head = [row[key] for key in ("arm", "method", "seed", "source", "images_seen")]
        writer.writerow([*head, row["kid_validation"]["value"], *(row["test"].get(name) for name in names)])
    return text.getvalue()
