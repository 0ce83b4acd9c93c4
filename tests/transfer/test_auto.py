"""What `auto` takes, held against the measurement that its rules cite."""

from __future__ import annotations

from pathlib import Path

import pytest

from graftgan.contract import read_json
from graftgan.gans.spec import FAMILIES
from graftgan.transfer import METHODS
from graftgan.transfer.auto import FALLBACK, RULES, Rule, decide

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "methods.json"


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("images", [2, 25, 26, 100, 101, 1000, 100_000])
def test_what_is_decided_works_with_the_family(images: int, family: str) -> None:
    rule = decide(images, [family])
    known = METHODS[rule.method].families
    assert known is None or family in known
    assert rule.most_images is None or images <= rule.most_images


def test_rules_go_from_few_images_to_many_and_end_with_all() -> None:
    limits = [float("inf") if rule.most_images is None else rule.most_images for rule in RULES]
    assert limits == sorted(limits) and limits[-1] == float("inf")


def test_a_method_that_a_family_has_no_layers_for_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = (Rule(100, "lora", "a"), Rule(None, "freeze_g", "b"))
    monkeypatch.setattr("graftgan.transfer.auto.RULES", rules)
    assert decide(100, ["stylegan2"]).method == "lora"
    assert decide(101, ["stylegan2"]).method == "freeze_g"
    assert decide(100, ["stylegan2", "biggan"]).method == "freeze_g"
    assert decide(100, ["dcgan"]) == FALLBACK


def test_no_method_of_the_table_is_clearly_better_than_what_is_taken() -> None:
    tables = read_json(RESULTS)["images"]
    assert tables
    for images, rows in tables.items():
        by_name = {row["method"]: row for row in rows if row["method"] in METHODS}
        taken = by_name[decide(int(images), ["stylegan2"]).method]
        assert all(row["high"] >= taken["low"] for row in by_name.values()), images
