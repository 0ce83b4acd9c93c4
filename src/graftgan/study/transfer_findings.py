"""Tables of the transfer study: times, averaged curves and the selectors' scorecard."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import pandas as pd

from graftgan.study.selectors import Draw, Outcome, scorecard
from graftgan.study.transfer import Study
from graftgan.study.units import CODE, UNKNOWN, Record

# What the table repeats of a run in the row of each of its looks.
ABOUT = ("target", "source", "arm", "seed", "protocol", "real_distance", "rollbacks")


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

    The interval is the KID's own of a single seed, and Student's over several seeds. Targets that
    :func:`not_judged` names are left out.
    """
    return [draw for draw in _drawn(study) if _obstacle(draw) is None]


def not_judged(study: Study) -> dict[str, str]:
    """Return the targets that say nothing of selectors, each with the reason."""
    reasons = {draw.name: _obstacle(draw) for draw in _drawn(study)}
    return {target: reason for target, reason in reasons.items() if reason is not None}


def left_out(study: Study) -> list[dict[str, str]]:
    """Return the sources that could not be trained on a target's images, with the target and the reason."""
    return [
        {"target": target, "why": text}
        for target, ranking in study.rankings.items()
        for text in ranking["warnings"]
        if " was left out: " in text
    ]


def _drawn(study: Study) -> list[Draw]:
    groups = grouped(study.records)
    found = []
    for target, ranking in study.rankings.items():
        outcomes = {
            source: Outcome.of_runs([_outcome(record) for record in its])
            for (name, source, arm), its in groups.items()
            if name == target and arm in ("both", "scratch")
        }
        found.append(Draw(target, ranking["rows"], ranking["n_target"], outcomes))
    return found


def _obstacle(draw: Draw) -> str | None:
    if len(draw.outcomes) < 2:
        return "a choice needs two candidates, of the arms both and scratch"
    best = draw.outcomes[draw.best].value
    if best <= 0:
        told = f"the lowest KID, {best:.3f} of {draw.best}, is not above 0"
        return f"{told}, and a regret against it means nothing"
    return None


def _outcome(record: Record) -> Outcome:
    look = min(record["curve"][1:], key=lambda look: float(look["kid"]))
    return Outcome(float(look["kid"]), float(look["kid_low"]), float(look["kid_high"]))


def frame(study: Study) -> pd.DataFrame:
    """Return every look at every run as one table, a row a look; `attrs` has what is not of a run.

    `images_to_scratch` is missing where the run never was as good as scratch's best of the same seed, or
    scratch was not run. `attrs` goes with the table into a Parquet file and back; its entries are lists of
    rows, for `pandas.DataFrame`:

    - `scorecard`: a row a measure;
    - `choices`: a row a measure and target, what it would have chosen;
    - `outcomes`: a row a target and candidate, the lowest KID that the choices are judged by;
    - `ranking`: a row a target and candidate, every measure before training with its interval;
    - `not_judged`: a row a target that is not in the scorecard, with the reason;
    - `left_out`: a row a source that could not be trained on a target's images, with the reason.
    """
    scratch = {(r["target"], r["seed"]): best_kid(r) for r in study.records if r["arm"] == "scratch"}
    rows = []
    for record in study.records:
        level = scratch.get((record["target"], record["seed"]))
        about = {name: record[name] for name in ABOUT}
        reached = None if level is None else images_to(record, level)
        about["images_to_scratch"] = math.nan if reached is None else reached
        about["code"] = record.get(CODE, UNKNOWN)
        rows += [{**about, **look} for look in record["curve"]]
    table = pd.DataFrame(rows)
    table.attrs.update(beside(study))
    return table


def beside(study: Study) -> dict[str, list[dict[str, Any]]]:
    """Return what the Parquet file carries beside its rows; see :func:`frame`."""
    judged = draws(study)
    scores, verdicts = scorecard(judged) if judged else ([], [])
    return {
        "scorecard": [asdict(score) for score in scores],
        "choices": [_renamed(asdict(verdict), "draw", "target") for verdict in verdicts],
        "outcomes": [
            {"target": draw.name, "source": source, **asdict(outcome)}
            for draw in _drawn(study) for source, outcome in draw.outcomes.items()
        ],
        "ranking": [
            {"target": target, "n_target": ranking["n_target"], **_renamed(_flat(row), "name", "source")}
            for target, ranking in study.rankings.items() for row in ranking["rows"]
        ],
        "not_judged": [{"target": target, "why": why} for target, why in not_judged(study).items()],
        "left_out": left_out(study),
    }  # fmt: skip


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the ranking with `kid: {value, low, ...}` as `kid`, `kid_low` and so on."""
    flat: dict[str, Any] = {}
    for name, cell in row.items():
        if isinstance(cell, Mapping):
            flat |= {name if part == "value" else f"{name}_{part}": value for part, value in cell.items()}
        else:
            flat[name] = cell
    return flat


def _renamed(row: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if name == old else name: value for name, value in row.items()}
