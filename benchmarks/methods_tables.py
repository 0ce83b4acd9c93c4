"""The tables of `methods.py`: one row a method, over the draws that it and `full` were run on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from ledger import Draw
from transfer import mean_interval

from graftgan.study.page import number


def table(results: dict[str, Any]) -> str:
    """Return a Markdown table for each number of images, best method first."""
    lines = [
        f"After {results['kimg']:g} kimg from source {results['source']}. Test KID is of "
        f"`{results['protocol']}`, lower is better; its interval is at 95 %, of the images where there is "
        "one draw, else Student's over draws. KID / full is of pairs on the same draw, and tells methods "
        "apart where targets differ. Copy score: 0.5 is honest, 1 copies everything, near 0 is far "
        "from all images. Seconds are of one CPU core, with the inversion where a prior needs one, over the "
        "runs of which they are known."
    ]
    for images, rows in results["images"].items():
        title = f"### {images} images: {', '.join(rows[0]['draws'])}"
        head = (
            "| method | test KID | interval | KID / full | interval | recall | copy | seconds | stored KB |"
        )
        lines += ["", title, "", head, "| --- |" + " --- |" * 8]
        for row in rows:
            lines.append(
                f"| {row['method']} | {row['kid']:.3f} | {row['low']:.3f} to {row['high']:.3f} "
                f"| {row['ratio']:.2f} | {row['ratio_low']:.2f} to {row['ratio_high']:.2f} "
                f"| {row['recall']:.3f} | {number(row['copy'], 2)} | {number(row['cpu_s'], 0)} "
                f"| {row['stored_bytes'] / 1000:.0f} |"
            )
    return "\n".join(lines) + "\n"


def ratios(results: dict[str, Any]) -> str:
    """Return the table of the documents: KID over that of `full` by number of images, best row first."""
    cells: dict[str, dict[int, str]] = {}
    logs: dict[str, list[float]] = {}
    stored: dict[str, list[float]] = {}
    for images, rows in results["images"].items():
        for row in rows:
            if row["method"] != "full":
                ends = f"({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
                mean = f"**{row['ratio']:.2f}**" if row["ratio_high"] < 1 else f"{row['ratio']:.2f}"
                cells.setdefault(row["method"], {})[images] = f"{mean} {ends}"
                logs.setdefault(row["method"], []).append(math.log(row["ratio"]))
                stored.setdefault(row["method"], []).append(row["stored_bytes"] / 1000)
    sizes = list(results["images"])
    lines = [
        f"| row | {' | '.join(f'{images:,} images' for images in sizes)} | stored KB |",
        "| --- |" + " --- |" * (len(sizes) + 1),
    ]
    for name in sorted(cells, key=lambda name: statistics.fmean(logs[name])):
        low, high = round(min(stored[name])), round(max(stored[name]))
        kept = f"{low}" if low == high else f"{low} to {high}"
        lines.append(f"| {name} | {' | '.join(cells[name].get(i, '–') for i in sizes)} | {kept} |")
    drawn = {
        images: ", ".join(next(row["draws"] for row in rows if row["method"] == "full"))
        for images, rows in results["images"].items()
    }
    told = "; ".join(f"{images:,} images: {draws}" for images, draws in drawn.items())
    return "\n".join([*lines, "", f"Draws (target and seed) of `full`: {told}."]) + "\n"


def known_mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are known, or None."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def ratio_interval(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> tuple[float, float, float]:
    """Return the geometric mean of KID / KID of `full` on the same draws, with its 95 % interval.

    Draws of unlike targets differ in KID by more than methods do, and only pairs can be compared over them.
    """
    logs = [math.log(run["kid"] / full["kid"]) for run, full in pairs]
    errors = [math.hypot(run["stderr"] / run["kid"], full["stderr"] / full["kid"]) for run, full in pairs]
    ends = mean_interval([{"kid": log, "stderr": error} for log, error in zip(logs, errors, strict=True)])
    mean, low, high = (math.exp(end) for end in ends)
    return mean, low, high


def summarise(runs: dict[str, dict[Draw, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return one row a method, over the draws that it and `full` were run on."""
    rows = []
    for name, found in runs.items():
        kid_mean, low, high = mean_interval(list(found.values()))
        means = {
            key: known_mean([run[key] for run in found.values()])
            for key in ("recall", "copy", "cpu_s", "stored_bytes")
        }
        ratio, ratio_low, ratio_high = ratio_interval(
            [(run, runs["full"][draw]) for draw, run in found.items()]
        )
        draws = [f"{draw.target} {draw.seed}" for draw in found]
        rows.append(
            {
                "method": name,
                "draws": draws,
                "kid": kid_mean,
                "low": low,
                "high": high,
                "ratio": ratio,
                "ratio_low": ratio_low,
                "ratio_high": ratio_high,
                **means,
            }
        )
    return sorted(rows, key=lambda row: row["ratio"])
