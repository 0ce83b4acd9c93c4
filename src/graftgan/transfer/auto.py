"""`finetune.method: auto`: the method that did best for about so many images, with the measurement as reason.

The rules are read off `benchmarks/results/methods.md`; `python benchmarks/methods.py` measures them anew.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from graftgan.transfer import METHODS

AUTO = "auto"


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


FALLBACK = Rule(None, "full", "it works with every family")
RULES: tuple[Rule, ...] = (
    Rule(None, "full", "no method was clearly better in benchmarks/results/methods.md"),
)


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
