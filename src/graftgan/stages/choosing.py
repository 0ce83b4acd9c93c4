"""Order of the sources and choice of one, by the measure that `rank.selector` names.

Recall is the paper's selector (Grigoryev et al. 2022). KID is the default, for it chose well more often
(`benchmarks/results/selection.md`); no measure is best on all image sets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graftgan.config import Rank

Row = dict[str, Any]
TIE_STANDARD_ERRORS = 2.0
# The error of a distance counts the target images' chance, which is the same for every source.
TIE_DISTANCE = 0.05
NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Selector:
    """A measure that can choose.

    Attributes:
        sign: 1 if more is better, -1 if less is.
        title: Name in sentences.
        share: Whether it is a share of images, shown in percent, for which 0 says nothing.
    """

    sign: int
    title: str
    share: bool


SELECTORS = {
    "recall": Selector(1, "recall", True),
    "precision": Selector(1, "precision", True),
    "density": Selector(1, "density", False),
    "coverage": Selector(1, "coverage", True),
    "kid": Selector(-1, "KID", False),
    "fd": Selector(-1, "Fréchet distance", False),
}


def goodness(row: Row, selector: str) -> float:
    """Return a row's value of the selector, turned so that more is better; an absent value is worst."""
    value = row[selector]["value"]
    return -math.inf if value is None else SELECTORS[selector].sign * float(value)


def order_rows(rows: Sequence[Row], n_target: int, selector: str = "recall") -> list[Row]:
    """Sort best first.

    Of tied sources more training images come first, then less Fréchet distance; of those at an equal distance
    the one with more recall, then the nearer.
    """
    rest = sorted(rows, key=lambda row: -goodness(row, selector))
    ordered: list[Row] = []
    while rest:
        leaders = tied_with(rest[0], rest, n_target, selector)
        ordered += sorted(leaders, key=lambda row: _among_equals(row, selector))
        rest = [row for row in rest if row not in leaders]
    return [{"rank": place, **row} for place, row in enumerate(ordered, 1)]


def _among_equals(row: Row, selector: str) -> tuple[float, float, str]:
    if SELECTORS[selector].sign < 0:
        return -row["recall"]["value"], -goodness(row, selector), row["name"]
    return -row["training_images"], row["fd"]["value"], row["name"]


def tied_with(top: Row, rows: Sequence[Row], n_target: int, selector: str = "recall") -> list[Row]:
    """Return the rows whose value is not clearly worse than the top row's: see `margin`."""
    least = goodness(top, selector) - margin(top, n_target, selector)
    return [row for row in rows if goodness(row, selector) >= least]


def margin(row: Row, n_target: int, selector: str) -> float:
    """Return how far behind a row another is still tied with it.

    Two standard errors: of a share for recall; from the 95 % interval for other measures of which more is
    better. 5 % for distances.
    """
    found = row[selector]
    if selector == "recall":
        share = float(found["value"])
        return TIE_STANDARD_ERRORS * math.sqrt(share * (1 - share) / n_target)
    if SELECTORS[selector].sign < 0:
        return TIE_DISTANCE * abs(goodness(row, selector))
    if found["low"] is None or found["high"] is None:
        return 0.0
    return TIE_STANDARD_ERRORS * float(found["high"] - found["low"]) / (2 * NORMAL_95)


def choose(
    rows: Sequence[Row], rank: Rank, n_target: int
) -> tuple[dict[str, str], str | None, list[str], list[str]]:
    """Return the choice with its reason, the worst source, the names tied with the best, and warnings.

    Args:
        rows: As `order_rows` sorted them.
        rank: What was asked for.
        n_target: Number of target images.
    """
    selector = rank.selector
    best = max(rows, key=lambda row: goodness(row, selector))
    blind = SELECTORS[selector].sign > 0 and goodness(best, selector) <= 0
    tied = [] if blind else [row["name"] for row in tied_with(best, rows, n_target, selector)]
    sources = [row for row in rows if row["kind"] == "source"]
    wanted = rank.choose
    chosen = rows[0] if wanted == "recommended" else next(row for row in rows if row["name"] == wanted)
    worst = next((row["name"] for row in reversed(sources) if row["name"] != chosen["name"]), None)
    warnings = []
    if blind and selector != "recall":
        warnings.append(
            f"rank.selector: {selector} is 0 for every source and tells nothing; use recall or kid"
        )
    most = max(float(row["recall"]["value"]) for row in rows)
    if most < rank.low_recall:
        warnings.append(
            f"no source covers your data (best recall {most:.3f}): transfer may gain less, "
            "consider a broader source"
        )
    why = reason(chosen, rows, rank, tied, n_target)
    return {"name": chosen["name"], "why": why}, worst, tied, warnings


def reason(chosen: Row, rows: Sequence[Row], rank: Rank, tied: Sequence[str], n_target: int) -> str:
    """Return the sentence that says why this source was chosen."""
    selector = rank.selector
    finding = told(chosen, selector, n_target)
    if rank.choose != "recommended":
        return f"{chosen['name']} was asked for by rank.choose; {finding}."
    others = [name for name in tied if name != chosen["name"]]
    if chosen["name"] in tied and others:
        decide = (
            "more recall decides"
            if SELECTORS[selector].sign < 0
            else "more training images and then the lower Fréchet distance decide"
        )
        text = (
            f"{chosen['name']}: {finding}, not clearly more or less than {', '.join(others)}; "
            f"among equals {decide}."
        )
    else:
        second = next((row for row in rows if row["name"] != chosen["name"]), None)
        text = f"{chosen['name']}: {finding}{_beyond(second, selector)}."
    return text + _what_recall_says(chosen, rows, selector, n_target)


def told(row: Row, selector: str, n_target: int) -> str:
    """Return a row's value and interval in words."""
    found = row[selector]
    if selector == "recall":
        ends = f"{found['low']:.0%} to {found['high']:.0%}"
        return f"its samples cover {found['value']:.0%} ({ends}) of your {n_target} images"
    kind = SELECTORS[selector]
    form = ".0%" if kind.share else ".4g"
    low, high = found["low"], found["high"]
    ends = "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"
    return f"its samples have {kind.title} {found['value']:{form}}{ends} against your {n_target} images"


def _beyond(second: Row | None, selector: str) -> str:
    if second is None:
        return ""
    kind = SELECTORS[selector]
    value = f"{second[selector]['value']:{'.0%' if kind.share else '.4g'}}"
    word = "more" if kind.sign > 0 else "less"
    return f", {word} than any other source (next is {second['name']} with {value})"


def _what_recall_says(chosen: Row, rows: Sequence[Row], selector: str, n_target: int) -> str:
    if selector == "recall":
        return ""
    first = order_rows([{k: v for k, v in row.items() if k != "rank"} for row in rows], n_target)[0]
    agrees = "it too" if first["name"] == chosen["name"] else f"{first['name']} instead"
    return f" Recall would choose {agrees}: {told(first, 'recall', n_target)}."
