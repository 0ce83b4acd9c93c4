"""What evaluate makes of features: scores, comparisons in pairs, the copy test and the verdict."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from graftgan.config import Params
from graftgan.metrics.copying import FAR, HONEST, CopyReport, CopySearch, CopyTest
from graftgan.metrics.kid import KernelSums, difference_of_sums
from graftgan.metrics.reals import Reals
from graftgan.metrics.scores import ScoreSettings, metric_name, scores_against
from graftgan.stages.features import Features

PAIRS = 8


def pick(mapping: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return some entries of a mapping."""
    return {name: mapping[name] for name in names}


class Scoring:
    """Scores of runs against the same reals and training images, each search and sum done once.

    Args:
        features: Features of the splits and of the runs, by name.
        reference: Split that runs are measured against.
        protocol: Id of the extractor.
        params: All parameters.
    """

    def __init__(
        self, features: Mapping[str, Features], reference: str, protocol: str, params: Params
    ) -> None:
        self.features, self.reference, self.protocol = features, reference, protocol
        memory_mib, asked = params.runtime.memory_mib, params.evaluate
        self.settings = ScoreSettings(
            k_precision_recall=asked.recall_neighbours,
            k_density_coverage=asked.neighbours,
            confidence=asked.confidence,
            memory_mib=memory_mib,
        )
        self.held_out = reference == "test"
        self.reals = Reals(features[reference], memory_mib)
        train, mirrored = features["train"], features.get("mirrored")
        if mirrored is not None:
            # As a reference, the training images may be fewer.
            mirrored = mirrored[: len(train)]
        held_out = features["test"] if self.held_out else None
        self.copy_test = CopyTest(train, held_out, mirrored=mirrored, memory_mib=memory_mib)
        self._found: dict[str, CopySearch] = {}
        self._sums: dict[str, KernelSums] = {}

    def score(self, name: str) -> dict[str, Any]:
        """Return all scores of one run."""
        scores = scores_against(
            self.features[name], self.reals, self.sums(name), self.found(name) if self.held_out else None,
            self.protocol, self.settings,
        )  # fmt: skip
        return {
            "scores": [s.to_dict() for s in scores],
            "copy": copy_summary(self.copies(name), self.held_out),
        }

    def copies(self, name: str) -> CopyReport:
        """Return the copy test of one run."""
        return self.found(name).report(pairs=PAIRS)

    def found(self, name: str) -> CopySearch:
        """Return the training images nearest to a run's samples."""
        if name not in self._found:
            self._found[name] = self.copy_test.find(self.features[name])
        return self._found[name]

    def sums(self, name: str) -> KernelSums:
        """Return what KID is made of, for one run."""
        if name not in self._sums:
            self._sums[name] = self.reals.sums(self.features[name])
        return self._sums[name]

    def paired(self, runs: Sequence[str]) -> list[dict[str, Any]]:
        """Compare the chosen run's KID with every other run's, latent by latent."""
        rows = []
        for other in runs[1:]:
            difference = difference_of_sums(
                self.sums("chosen"), self.sums(other), confidence=self.settings.confidence
            )
            better = "chosen" if difference.high < 0 else other if difference.low > 0 else "undecided"
            rows.append({
                "a": "chosen", "b": other, "metric": metric_name("kid", self.protocol),
                "difference": difference.value, "low": difference.low, "high": difference.high,
                "better": better,
            })  # fmt: skip
        return rows


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
