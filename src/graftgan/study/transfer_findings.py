"""Tables of the transfer study: times, averaged curves and the selectors' scorecard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import pandas as pd

from graftgan.study.selectors import Draw, Outcome
from graftgan.study.transfer import Study
from graftgan.study.units import Record


def best_kid(record: Record) -> float:
    """Return the lowest validation KID after the start."""
    return min(float(look["kid"]) for look in record["curve"][1:])


def images_to(record: Record, level: float) -> float | None:
    """Return the images seen at the first look whose KID is at most `level`, or None if none is."""
    return next((float(look["images"]) for look in record["curve"] if look["kid"] <= level), None)


@dataclass(frozen=True)
class Times:
    """How fast one kind of run was, over its seeds.

    Attributes:
        target: Name of the target.
        source: Name of the source.
        arm: What was taken from it.
        best: Mean of the lowest KIDs.
        own: Mean images until KID first was within 5 % of the run's own best.
        cross: Mean images until KID first was as low as scratch's best of the same seed, over the seeds that
            reached it; None where none did or scratch was not run.
        reached: Seeds that did.
        seeds: Number of seeds.
        last: Mean of every measure at the last look.
        first_move: Mean distance between images of the same latents over the first interval, over that of two
            real images.
        last_move: The same over the last interval.
    """

    target: str
    source: str
    arm: str
    best: float
    own: float
    cross: float | None
    reached: int
    seeds: int
    last: dict[str, float]
    first_move: float
    last_move: float


def grouped(records: Sequence[Record]) -> dict[tuple[str, str, str], list[Record]]:
    """Return the records of all seeds by target, source and arm."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["target"], record["source"], record["arm"]), []).append(record)
    return groups


def times(records: Sequence[Record]) -> list[Times]:
    """Return one row a target, source and arm, best first within a target."""
    scratch = {(r["target"], r["seed"]): best_kid(r) for r in records if r["arm"] == "scratch"}
    rows = []
    for (target, source, arm), its in grouped(records).items():
        crossings = [
            images_to(record, scratch[target, record["seed"]])
            for record in its if (target, record["seed"]) in scratch
        ]  # fmt: skip
        crossed = [images for images in crossings if images is not None]
        # A level of 5 % above a negative KID would lie below it.
        own = [images_to(record, best_kid(record) + 0.05 * abs(best_kid(record))) or 0.0 for record in its]
        rows.append(
            Times(
                target, source, arm, fmean(map(best_kid, its)), fmean(own),
                fmean(crossed) if crossed else None, len(crossed), len(its), averaged(its)[-1],
                fmean(r["curve"][1]["moved"] / r["real_distance"] for r in its),
                fmean(r["curve"][-1]["moved"] / r["real_distance"] for r in its),
            )
        )  # fmt: skip
    return sorted(rows, key=lambda row: (row.target, row.best))


def averaged(records: Sequence[Record]) -> list[dict[str, float]]:
    """Return the mean curve of several seeds, over the looks that all of them had."""
    looks = min(len(record["curve"]) for record in records)
    return [
        {name: fmean(float(r["curve"][i][name]) for r in records) for name in records[0]["curve"][i]}
        for i in range(looks)
    ]


def draws(study: Study) -> list[Draw]:
    """Return what the selectors are judged by: the lowest KID of each source with both networks, and scratch.

    The interval is the KID's own of a single seed, and spans the seeds of several. Targets whose best KID is
    not positive are left out: a regret against them means nothing.
    """
    found = []
    for target, ranking in study.rankings.items():
        outcomes = {
            source: _outcome(its)
            for (name, source, arm), its in grouped(study.records).items()
            if name == target and arm in ("both", "scratch")
        }
        draw = Draw(target, ranking["rows"], ranking["n_target"], outcomes)
        if len(outcomes) > 1 and outcomes[draw.best].value > 0:
            found.append(draw)
    return found


def _outcome(records: Sequence[Record]) -> Outcome:
    values = [best_kid(record) for record in records]
    if len(values) > 1:
        return Outcome(fmean(values), min(values), max(values))
    look = min(records[0]["curve"][1:], key=lambda look: float(look["kid"]))
    return Outcome(float(look["kid"]), float(look["kid_low"]), float(look["kid_high"]))


def frame(study: Study) -> pd.DataFrame:
    """Return every look at every run as one table, a row a look."""
    rows = []
    for record in study.records:
        about = {name: record[name] for name in ("target", "source", "arm", "seed", "protocol")}
        rows += [{**about, **look} for look in record["curve"]]
    return pd.DataFrame(rows)
