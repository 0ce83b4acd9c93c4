"""What evaluate makes of features: scores, comparisons in pairs, the copy test and the verdict."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from graftgan.config import Params
from graftgan.metrics.copying import FAR, HONEST, CopyReport, copy_report
from graftgan.metrics.kid import paired_kid_difference
from graftgan.metrics.scores import ScoreSettings, evaluate_features, metric_name
from graftgan.stages.features import Features

PAIRS = 8


def pick(mapping: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return some entries of a mapping."""
    return {name: mapping[name] for name in names}


def score(
    name: str, features: Mapping[str, Features], reference: str, protocol: str, params: Params
) -> dict[str, Any]:
    """Return all scores of one run."""
    settings = ScoreSettings(
        k_precision_recall=params.evaluate.recall_neighbours,
        k_density_coverage=params.evaluate.neighbours,
        confidence=params.evaluate.confidence,
        memory_mib=params.runtime.memory_mib,
    )
    held_out = reference == "test"
    train = features["train"] if held_out else None
    scores = evaluate_features(
        features[name], features[reference], train, protocol,
        train_mirrored=features.get("mirrored") if held_out else None, settings=settings,
    )  # fmt: skip
    report = copies(name, features, reference, params)
    return {"scores": [s.to_dict() for s in scores], "copy": copy_summary(report, held_out)}


def copies(name: str, features: Mapping[str, Features], reference: str, params: Params) -> CopyReport:
    """Return the copy test of one run."""
    held_out = features["test"] if reference == "test" else None
    train, mirrored = features["train"], features.get("mirrored")
    if mirrored is not None:
        # As a reference, the training images may be fewer.
        mirrored = mirrored[: len(train)]
    memory_mib = params.runtime.memory_mib
    return copy_report(features[name], train, held_out, mirrored=mirrored, pairs=PAIRS, memory_mib=memory_mib)


def copy_summary(report: CopyReport, held_out: bool) -> dict[str, Any]:
    """Return the copy test as plain values."""
    if report.copying is None or report.close_share is None:
        return {"available": False, "reason": report.reason if held_out else "there are no test images"}
    return {
        "available": True,
        "reason": "",
        "auc": report.copying.value,
        "low": report.copying.low,
        "high": report.copying.high,
        "share_closer": report.close_share.value,
    }


def floors(scores: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the real-versus-real floor of each score."""
    return {score["name"]: score["floor"] for score in scores}


def paired(
    features: Mapping[str, Features], runs: Sequence[str], reference: str, protocol: str, params: Params
) -> list[dict[str, Any]]:
    """Compare the chosen run's KID with every other run's, latent by latent."""
    rows = []
    for other in runs[1:]:
        difference = paired_kid_difference(
            features["chosen"], features[other], features[reference], confidence=params.evaluate.confidence
        )
        better = "chosen" if difference.high < 0 else other if difference.low > 0 else "undecided"
        rows.append({
            "a": "chosen", "b": other, "metric": metric_name("kid", protocol), "difference": difference.value,
            "low": difference.low, "high": difference.high, "better": better,
        })  # fmt: skip
    return rows


def verdict(record: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Return the sentence at the head of the report."""
    name = metric_name("kid", record["protocol"])
    kid = next(s for s in record["runs"]["chosen"]["scores"] if s["name"] == name)
    start = f"from {report['source']} by {report['method']}" if report["source"] else "from scratch"
    text = (
        f"The model adapted {start} has {name} {kid['value']:.3f} ({kid['low']:.3f} to {kid['high']:.3f}; "
        f"lower is better) on {record['n_test']} {record['reference']} images"
    )
    words = {"chosen": "clearly better than", "undecided": "not clearly different from"}
    against = []
    for row in record["paired"]:
        other = record["runs"][row["b"]]["source"] or "scratch"
        label = f"the {row['b']} source ({other})" if row["b"] != "scratch" else "training from scratch"
        against.append(f"{words.get(row['better'], 'clearly worse than')} {label}")
    copying = record["runs"]["chosen"]["copy"]
    if not copying["available"]:
        tail = "whether it copies training images cannot be told"
    elif copying["low"] > HONEST:
        tail = (
            "its samples lie nearer to the training images than new images do "
            f"({copying['auc']:.2f}, 0.5 is honest)"
        )
    elif copying["high"] < FAR:
        tail = "its samples lie too far from all training images to tell whether it copies"
    else:
        tail = "it shows no sign of copying training images"
    return "; ".join([text, *against, tail]) + "."


def scores_csv(record: Mapping[str, Any]) -> str:
    """Return all scores as CSV, one a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "metric", "value", "low", "high", "floor"])
    for name, run_record in record["runs"].items():
        for row in run_record["scores"]:
            writer.writerow([name, *(row[key] for key in ("name", "value", "low", "high", "floor"))])
    return text.getvalue()
