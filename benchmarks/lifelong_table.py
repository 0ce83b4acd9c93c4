"""The numbers and the Markdown table of `benchmarks/lifelong.py`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from graftgan.metrics.intervals import Estimate
from graftgan.metrics.scores import metric_name, require_same_protocol
from graftgan.metrics.translation import grouped_mean

ALONE, AGAIN, TUNED = "standalone", "standalone-again", "fine-tuning"
NAMES = {
    ALONE: "standalone",
    AGAIN: "standalone, another seed",
    TUNED: "fine-tuning, when learnt",
    f"{TUNED}-end": "fine-tuning, at the end",
}
Record = dict[str, Any]
Records = dict[str, list[Record]]


def label(share: float, start: str) -> str:
    """Return the name of an arm of Piggyback GAN."""
    return f"piggyback-{Fraction(share).limit_denominator(64)}-{start}".replace("/", "of")


def told(arm: str) -> str:
    """Return the name of an arm as the tables have it."""
    if arm in NAMES:
        return NAMES[arm]
    _, share, start = arm.split("-")
    return f"λ = {share.replace('of', '/')}, {start}"


def summarise(records: Records, kimg: float, shares: Sequence[float]) -> dict[str, Any]:
    """Return what the tables show.

    Args:
        records: Arm -> records of its tasks, in order.
        kimg: Budget of a task.
        shares: The lambdas.
    """
    found = dict(records)
    if TUNED in found:
        found[f"{TUNED}-end"] = _at_the_end(found[TUNED])
    wanted = (*NAMES, *(label(share, start) for share in shares for start in ("random", "warm")))
    order = [arm for arm in wanted if arm in found]
    protocol = require_same_protocol(*(record["protocol"] for its in records.values() for record in its))
    return {
        "kimg": kimg, "protocol": protocol, "images": [len(record["groups"]) for record in found[ALONE]],
        "tasks": [record["task"] for record in found[ALONE]],
        "arms": {arm: _arm(arm, found[arm], found[ALONE]) for arm in order},
    }  # fmt: skip


def _at_the_end(tuned: list[Record]) -> list[Record]:
    """Return the records of what the fine-tuned model makes of every task when the last is learnt."""
    last = tuned[-1]
    return [{**record, **last["earlier"].get(record["task"], {})} for record in tuned]


def _arm(arm: str, records: list[Record], alone: list[Record]) -> dict[str, Any]:
    rows = [_row(record, other) for record, other in zip(records, alone, strict=True)]
    generators = {ALONE: float(len(alone)), AGAIN: float(len(alone)), TUNED: 1.0, f"{TUNED}-end": 1.0}
    # The first task is one model in all chains, so it tells nothing about them.
    later = rows[1:]
    names = list(rows[0]["scores"])
    return {
        "rows": rows,
        "generators": generators.get(arm, records[-1]["cumulative_ratio"]),
        "means": {name: statistics.fmean(row["scores"][name]["value"] for row in later) for name in names},
        "no_worse": {name: sum(row["place"][name] != "worse" for row in later) for name in names},
        "of": len(later),
        "seconds": statistics.fmean(row["seconds"] for row in later),
        "rank_seconds": statistics.fmean(row["rank_seconds"] for row in later),
        "unchanged": _unchanged(records),
    }


def _unchanged(records: list[Record]) -> list[int]:
    """Return how many looks at an earlier task found its outputs as they were, and how many there were."""
    first = {record["task"]: record["outputs"] for record in records}
    looks = [(task, seen["outputs"]) for record in records for task, seen in record["earlier"].items()]
    return [sum(first[task] == outputs for task, outputs in looks), len(looks)]


def _row(record: Record, alone: Record) -> dict[str, Any]:
    differences = {
        name: grouped_mean(np.array(series) - np.array(alone["values"][name]), alone["groups"])
        for name, series in record["values"].items()
    }
    places = {
        name: _place(name, its["value"], alone["scores"][name]) for name, its in record["scores"].items()
    }
    return {
        "task": record["task"],
        "scores": record["scores"],
        "place": places,
        "differences": {name: vars(estimate) for name, estimate in differences.items()},
        "init": record["init"],
        "added": record["added"],
        "of_one": record["added"] / record["full"],
        "seconds": record["seconds"],
        "rank_seconds": record["rank_s"],
    }  # fmt: skip


def _place(name: str, value: float, alone: dict[str, float]) -> str:
    """Return where a score lies: within the interval of the model of its own, better or worse."""
    if alone["low"] <= value <= alone["high"]:
        return "within"
    return "better" if (value > alone["high"]) == (name == "psnr") else "worse"


def table(results: dict[str, Any]) -> str:
    """Return the Markdown tables."""
    kid, cosine = (metric_name(name, results["protocol"]) for name in ("kid", "cosine"))
    count = len(results["tasks"])
    few, many = min(results["images"]), max(results["images"])
    lines = [
        f"{count} tasks at 64 px in sequence, {results['kimg']:g} kimg each, ResNet-6 of 16 feature maps. "
        f"Scores are of {few} to {many} test images, with 95 % intervals over names; features are "
        f"`{results['protocol']}`. Lower is better, but for PSNR. Means and counts are of tasks 2 to "
        f"{count}: the first is the same model in all chains. No worse are tasks whose score is within the "
        "interval of the standalone model or better; standalone models of another seed show what chance in "
        "training changes. A store of 1 is all filters of one generator. Seconds are of the clock "
        "of one process, with the ranking of starts, and grow with what else the machine does. "
        "After each addition the test outputs of earlier tasks are compared to the bit.",
        "",
        "| arm | stored | L1 | feature angle | KID | no worse: L1, angle, KID | s a task | earlier outputs |",
        "| --- |" + " --- |" * 7,
    ]
    for arm, its in results["arms"].items():
        means, good = its["means"], its["no_worse"]
        same, looks = its["unchanged"]
        counts = ", ".join(f"{good[name]} of {its['of']}" for name in ("l1", cosine, kid))
        kept = f"{same} of {looks} the same" if looks and not arm.endswith("-end") else ""
        lines.append(
            f"| {told(arm)} | {its['generators']:.2f} | {means['l1']:.4f} | {means[cosine]:.4f} "
            f"| {means[kid]:.3f} | {counts} | {its['seconds'] + its['rank_seconds']:.0f} | {kept} |"
        )
    for place, task in enumerate(results["tasks"]):
        lines += ["", f"### {place + 1}. {task}", "", *_details(results, place, cosine, kid)]
    return "\n".join(lines) + "\n"


def _details(results: dict[str, Any], place: int, cosine: str, kid: str) -> list[str]:
    lines = [
        "| arm | start | L1 | L1 less standalone's | PSNR, dB | feature angle | KID | added | s |",
        "| --- |" + " --- |" * 8,
    ]
    for arm, its in results["arms"].items():
        row = its["rows"][place]
        if place == 0 and arm not in NAMES:
            continue
        scores = {name: _told(row["scores"][name], digits) for name, digits in _digits(cosine, kid)}
        difference = "" if arm == ALONE else _told(row["differences"]["l1"], 4, "+")
        lines.append(
            f"| {told(arm)} | {row['init']} | {scores['l1']} | {difference} | {scores['psnr']} "
            f"| {scores[cosine]} | {scores[kid]} | {row['of_one']:.1%} | {row['seconds']:.0f} |"
        )
    return lines


def _digits(cosine: str, kid: str) -> tuple[tuple[str, int], ...]:
    return (("l1", 4), ("psnr", 2), (cosine, 4), (kid, 3))


def _told(raw: dict[str, float], digits: int, sign: str = "") -> str:
    found = Estimate(**raw)
    form = f"{sign}.{digits}f"
    return f"{found.value:{form}} ({found.low:{form}} to {found.high:{form}})"
