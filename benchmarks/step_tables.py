"""The tables of `step.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from processor import processor

COMPILED = "torch.compile"
Row = dict[str, Any]


def own_table(rows: Sequence[Row]) -> list[str]:
    """Return the step as it is, and with choices taken back."""
    lines = [
        "| setting | precision | step | images/s | s/kimg | of the peak | getting images | memory |",
        "| --- | --- | --: | --: | --: | --: | --: | --: |",
    ]
    for row in (row for row in rows if row["who"] == "default"):
        memory = "" if row["extra_mib"] is None else f"{row['extra_mib']:.0f} MiB"
        lines.append(
            f"| {row['setting']} | {row['precision']} | {1000 * row['step_s']:.1f} ms "
            f"| {row['images_per_s']:.0f} | {row['s_per_kimg']:.2f} | {row['share_of_peak']:.0%} "
            f"| {row['data_share']:.2%} | {memory} |"
        )
    columns = sorted({(row["setting"], row["beside"]) for row in rows})
    names = list(dict.fromkeys(row["who"] for row in rows if "times_fresh" not in row))
    ratio = {(row["setting"], row["beside"], row["who"]): row["times_default"] for row in rows}
    lines += [
        "", "The peak is that of matrix products in the same precision; memory is the most that steps add.",
        "", "Time with one choice taken back, over the time of the step as it is:", "",
        "| taken back | " + " | ".join(f"{setting}, {precision}" for setting, precision in columns) + " |",
        "| --- |" + " --: |" * len(columns),
    ]  # fmt: skip
    for name in names:
        if name != "default":
            cells = [ratio.get((*column, name)) for column in columns]
            lines.append(f"| {name} | " + " | ".join("" if c is None else f"{c:.2f}" for c in cells) + " |")
    compiling = max((row["first_step_s"] for row in rows if row["who"] == COMPILED), default=None)
    if compiling is not None:
        lines += ["", f"The first step under {COMPILED} took up to {compiling:.0f} s."]
    return lines


def peer_table(rows: Sequence[Row]) -> list[str]:
    """Return the step beside the peers that were given."""
    beside = [row for row in rows if "times_fresh" in row]
    if not beside:
        return ["", "This run had no peers."]
    memory = {(row["setting"], row["precision"]): row["extra_mib"] for row in rows if row["who"] == "default"}
    lines = [
        "",
        "| setting | peer | ours | peer / ours | with its sampling | memory, ours / peer | outputs differ "
        "| gradients differ |",
        "| --- | --- | --- | --: | --: | --: | --: | --: |",
    ]
    for row in beside:
        mine = memory[row["setting"], row["beside"]]
        told = "" if mine is None or row["extra_mib"] is None else f"{mine / row['extra_mib']:.2f}"
        apart = (row["difference"], row["gradient_difference"])
        cells = " | ".join("" if value is None else f"{value:.1e}" for value in apart)
        lines.append(
            f"| {row['setting']} | {row['who']} | {row['beside']} | {row['times_default']:.2f} "
            f"| {row['times_fresh']:.2f} | {told} | {cells} |"
        )
    return lines


def origins(options: argparse.Namespace) -> list[str]:
    """Return where the peers come from."""
    told = [f"{name}: {origin}" for name, origin in options.origin.items() if origin]
    return ["", f"{'; '.join(told)}."] if told else []


def page(rows: Sequence[Row], options: argparse.Namespace) -> str:
    """Return all tables."""
    head = (
        f"torch {torch.__version__}, {place(options)}, 32 px where no other side is named, R1 every 16 steps "
        f"where there is any, medians of {options.rounds} turns. Peers compute in float32."
    )
    return "\n".join([head, "", *own_table(rows), *peer_table(rows), *origins(options), ""])


def place(options: argparse.Namespace) -> str:
    """Return what the steps ran on."""
    if options.device.type == "cpu":
        return f"{processor()}, {options.threads} threads"
    tf32 = "in TF32" if torch.backends.cudnn.allow_tf32 else "without TF32"
    return f"{torch.cuda.get_device_name(options.device)}, float32 convolutions {tf32}"
