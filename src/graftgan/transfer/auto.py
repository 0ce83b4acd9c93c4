"""`finetune.method: auto`: the method that did best for about so many images, with the measurement as reason.

The rules are in `auto_rules.json`, which `python benchmarks/auto_rules.py` derives from what
`python benchmarks/methods.py` measured.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graftgan.contract import read_json
from graftgan.transfer import METHODS

AUTO = "auto"
PLAIN = "full"
RULES_FILE = Path(__file__).with_name("auto_rules.json")
FEWEST_DRAWS = 3
"""Draws that a method must have been compared on: one says little of others."""


@dataclass(frozen=True)
class Rule:
    """What to use for small enough a set.

    Attributes:
        most_images: The rule holds up to so many training images; None is any number.
        method: A name in `METHODS`.
        why: What was measured.
    """

    most_images: int | None
    method: str
    why: str


FALLBACK = Rule(None, PLAIN, "it works with every family")


def read_rules(path: Path = RULES_FILE) -> tuple[Rule, ...]:
    """Return the rules of a file, those for few images first."""
    return tuple(Rule(**rule) for rule in read_json(path)["rules"])


def derive(tables: Mapping[str, Sequence[Mapping[str, Any]]], kimg: float) -> list[dict[str, Any]]:
    """Return the rules that a comparison of methods supports, as they stand in the file.

    A method is clearly better where the whole interval of its KID over that of `full` on the same draws is
    below 1, over three draws or more. For each number of images these come best first, then `full`; the
    last number holds for all larger ones.

    Args:
        tables: Number of images -> a row a method, as `benchmarks/methods.py` writes them.
        kimg: Budget of the runs.
    """
    counts = sorted(map(int, tables))
    rules = []
    for count in counts:
        rows = [row for row in tables[str(count)] if row["method"] in METHODS and row["method"] != PLAIN]
        clear = sorted(filter(_clearly_better, rows), key=lambda row: float(row["ratio"]))
        limit = count if count != counts[-1] else None
        told = [(row["method"], _measured(row, count, kimg)) for row in clear]
        for name, why in [*told, (PLAIN, _nothing_better(rows, clear, count, kimg))]:
            rules.append(asdict(Rule(limit, name, why)))
    return rules


def _clearly_better(row: Mapping[str, Any]) -> bool:
    # Tables from before there were such intervals have none.
    return len(row["draws"]) >= FEWEST_DRAWS and row.get("ratio_high", 1.0) < 1.0


def _measured(row: Mapping[str, Any], images: int, kimg: float) -> str:
    return (
        f"with {images} images its KID was {row['ratio']:.2f} times that of {PLAIN} "
        f"({row['ratio_low']:.2f} to {row['ratio_high']:.2f}) over {len(row['draws'])} draws of {kimg:g} kimg"
    )


def _nothing_better(
    rows: Sequence[Mapping[str, Any]], clear: Sequence[Mapping[str, Any]], images: int, kimg: float
) -> str:
    if clear:
        return f"the methods that were better with {images} images are not for these sources"
    draws = min((len(row["draws"]) for row in rows), default=0)
    few = f", and {FEWEST_DRAWS} draws are asked for" if draws < FEWEST_DRAWS else ""
    return (
        f"no method was clearly better with {images} images over {draws} "
        f"{'draw' if draws == 1 else 'draws'} of {kimg:g} kimg{few}"
    )


RULES: tuple[Rule, ...] = read_rules()


def decide(images: int, families: Collection[str]) -> Rule:
    """Return the rule for a number of training images and the families of the sources.

    A method that does not know one of them gives way to the next rule that holds, and at last to `full`.
    """
    for rule in RULES:
        known = METHODS[rule.method].families
        fits = known is None or set(families) <= set(known)
        if fits and (rule.most_images is None or images <= rule.most_images):
            return rule
    return FALLBACK
