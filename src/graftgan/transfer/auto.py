"""`finetune.method: auto`: the method that did best for about so many images, with the measurement as reason.

The rules are in `auto_rules.json`, which `python benchmarks/auto_rules.py` derives from what
`python benchmarks/methods.py` measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graftgan.contract import read_json
from graftgan.errors import GraftganError
from graftgan.transfer import METHODS

AUTO = "auto"
PLAIN = "full"
RULES_FILE = Path(__file__).with_name("auto_rules.json")
FEWEST_DRAWS = 3
"""Draws that a method must have been compared on: one says little of others."""
FAR = 2
"""A run of more than so many times the compared budget is told that it is."""

Refusal = Callable[[str], GraftganError | None]
"""Name of a method -> why it does not go with the settings and the sources, None if it does."""


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


@dataclass(frozen=True)
class Rules:
    """The rules that one table of the comparison supports, and what they were measured with.

    Attributes:
        families: Families of the sources.
        kimg: Budget of the runs.
        rules: Those for few images first; among those for equally many the best first.
        recipe: Keys that all runs had beside the shipped ones, as assignments.
    """

    families: tuple[str, ...]
    kimg: float
    rules: tuple[Rule, ...]
    recipe: tuple[str, ...] = ()

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Rules:
        """Return the rules that a file holds."""
        rules = tuple(Rule(**rule) for rule in raw["rules"])
        return cls(tuple(raw["families"]), float(raw["kimg"]), rules, tuple(raw["recipe"]))

    def for_images(self, images: int) -> list[Rule]:
        """Return the rules for a number of training images: those of the smallest limit that it keeps to."""
        limits = [rule.most_images for rule in self.rules]
        limit = next((most for most in limits if most is None or images <= most), None)
        return [rule for rule in self.rules if rule.most_images == limit]


@dataclass(frozen=True)
class Decision:
    """What `auto` took.

    Attributes:
        method: A name in `METHODS`.
        why: What was measured, what did better and was passed over, and how far the measurement reaches.
    """

    method: str
    why: str


def rules_of(families: Collection[str], kimg: float = 0.0) -> Rules:
    """Return the rules measured with sources of these families, or else those of the first table.

    Of tables of several budgets the one that is nearest to `kimg`, as a ratio, counts.
    """
    found = [rules for rules in TABLES if set(families) <= set(rules.families)] or [TABLES[0]]
    budgets = [rules.kimg for rules in found]
    within = min(max(kimg, min(budgets)), max(budgets))
    return min(found, key=lambda rules: abs(math.log(rules.kimg / within)))


def derive(
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    kimg: float,
    families: Collection[str],
    recipe: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the rules that a table of methods supports, as they stand in the file.

    A method is clearly better where the whole interval of its KID over that of `full` on the same draws is
    below 1, over three draws or more. For each number of images these come best first, then `full`. Between
    two numbers that were compared the border is their geometric mean; the last number holds for all larger
    ones.

    Args:
        tables: Number of images -> a row a method, as `benchmarks/methods.py` writes them.
        kimg: Budget of the runs.
        families: Families of the sources.
        recipe: Keys that all runs had beside the shipped ones.
    """
    counts = sorted(map(int, tables))
    rules = []
    for count, larger in zip(counts, [*counts[1:], None], strict=True):
        rows = [row for row in tables[str(count)] if row["method"] in METHODS and row["method"] != PLAIN]
        clear = sorted(filter(_clearly_better, rows), key=lambda row: float(row["ratio"]))
        limit = None if larger is None else math.isqrt(count * larger)
        told = [(row["method"], _measured(row, count, kimg)) for row in clear]
        for name, why in [*told, (PLAIN, _nothing_better(rows, clear, count, kimg))]:
            rules.append(asdict(Rule(limit, name, why)))
    return {"families": sorted(families), "kimg": kimg, "recipe": list(recipe), "rules": rules}


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
        return f"no method that was better with {images} images goes with these sources and settings"
    draws = min((len(row["draws"]) for row in rows), default=0)
    few = f", and {FEWEST_DRAWS} draws are asked for" if draws < FEWEST_DRAWS else ""
    return (
        f"no method was clearly better with {images} images over {draws} "
        f"{'draw' if draws == 1 else 'draws'} of {kimg:g} kimg{few}"
    )


TABLES: tuple[Rules, ...] = tuple(map(Rules.of, read_json(RULES_FILE)["tables"]))


def decide(
    images: int, families: Collection[str], refusal: Refusal = lambda name: None, kimg: float = 0.0
) -> Decision:
    """Decide by the number of training images and the families of the sources.

    A method that does not know one of the families, or that is refused, gives way to the next one that was
    better than `full` with so many images, and at last to `full`.

    Args:
        images: Number of training images.
        families: Families of the sources.
        refusal: Tells why a method does not go with the settings and the sources.
        kimg: Budget of the run; infinite if minutes alone limit it.

    Raises:
        GraftganError: Not even `full` goes with the settings; what `refusal` said of it.
    """
    foreign: list[str] = []
    refused: list[str] = []
    found: Rule | None = None
    rules = rules_of(families, kimg)
    for rule in rules.for_images(images):
        known = METHODS[rule.method].families
        if known is not None and not set(families) <= set(known):
            foreign.append(rule.method)
        elif (error := refusal(rule.method)) is None:
            found = rule
            break
        elif rule.method == PLAIN:
            raise error
        else:
            refused.append(f"{rule.method} did better, but does not go with the settings: {error.message}")
    assert found is not None, "full ends the rules for every number of images"
    told = [found.why]
    if foreign:
        told.append(f"{', '.join(foreign)} did better, but not for family {', '.join(sorted(set(families)))}")
    return Decision(found.method, "; ".join([*told, *refused, *_reach(rules, families, kimg)]))


def _reach(rules: Rules, families: Collection[str], kimg: float) -> list[str]:
    """Return sentences about where the measurement says little of a run."""
    told = []
    measured = ", ".join(rules.families)
    if others := sorted(set(families) - set(rules.families)):
        told.append(
            f"this was measured with {measured} sources only, and says little of family {', '.join(others)}"
        )
    if rules.recipe:
        told.append(f"methods were compared at {', '.join(rules.recipe)}, and not at other values")
    if kimg > FAR * rules.kimg:
        length = f"has {kimg:g} kimg" if math.isfinite(kimg) else "may be of any length"
        told.append(
            f"methods were compared at {rules.kimg:g} kimg, and this run {length}: their order may be another"
        )
    return told
