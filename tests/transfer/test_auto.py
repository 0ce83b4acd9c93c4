"""What `auto` takes, held against the measurement that its rules cite."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from graftgan.contract import read_json
from graftgan.gans.spec import FAMILIES
from graftgan.transfer import METHODS
from graftgan.transfer.auto import FALLBACK, FEWEST_DRAWS, RULES, Rule, decide, derive

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


def row(method: str, ratio: float, half: float, draws: int = 3, **more: Any) -> dict[str, Any]:
    names = [f"micah {seed}" for seed in range(draws)]
    return {"method": method, "ratio": ratio, "ratio_low": ratio - half, "ratio_high": ratio + half,
            "draws": names, **more}  # fmt: skip


def test_only_what_is_clearly_better_over_draws_becomes_a_rule() -> None:
    tables = {
        "100": [row("lora", 0.9, 0.15), row("full", 1.0, 0.0), row("diffaugment", 0.5, 0.01)],
        "25": [
            row("ewc", 0.7, 0.1, draws=2), row("freeze_g", 0.9, 0.05), row("lora", 0.8, 0.1),
            row("full", 1.0, 0.0), row("bsd", 0.1, 0.01),
        ],
    }  # fmt: skip
    rules = [Rule(**rule) for rule in derive(tables, 3.0)]
    assert [(rule.most_images, rule.method) for rule in rules] == [
        (25, "lora"), (25, "freeze_g"), (25, "full"), (None, "full"),
    ]  # fmt: skip
    assert rules[0].why == (
        "with 25 images its KID was 0.80 times that of full (0.70 to 0.90) over 3 draws of 3 kimg"
    )
    assert "not for these sources" in rules[2].why and "no method was clearly better" in rules[3].why


def test_a_table_of_one_draw_says_that_more_are_asked_for() -> None:
    (rule,) = derive({"25": [row("lora", 0.5, 0.1, draws=1), row("full", 1.0, 0.0, draws=1)]}, 3.0)
    assert rule["method"] == "full" and rule["why"].endswith(
        "over 1 draw of 3 kimg, and 3 draws are asked for"
    )


def test_a_better_method_that_a_source_cannot_have_gives_way_within_its_number_of_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = {"25": [row("lora", 0.8, 0.1)], "100": [row("freeze_g", 0.8, 0.1)]}
    monkeypatch.setattr("graftgan.transfer.auto.RULES", tuple(Rule(**r) for r in derive(tables, 3.0)))
    assert [decide(n, ["stylegan2"]).method for n in (25, 26, 5000)] == ["lora", "freeze_g", "freeze_g"]
    assert decide(25, ["biggan"]).method == "full", "what held for 100 images was not measured with 25"


def test_the_rules_are_those_of_the_measurement() -> None:
    found = read_json(RESULTS)
    remedy = "run python benchmarks/auto_rules.py"
    assert [asdict(rule) for rule in RULES] == derive(found["images"], found["kimg"]), remedy


def test_what_is_taken_is_not_clearly_worse_than_anything() -> None:
    for images, rows in read_json(RESULTS)["images"].items():
        taken = decide(int(images), ["stylegan2"]).method
        by_name = {found["method"]: found for found in rows if found["method"] in METHODS}
        assert by_name[taken].get("ratio_high", 1.0) <= 1.0, images
        better = [n for n, found in by_name.items() if found.get("ratio_high", 1.0) < 1.0
                  and len(found["draws"]) >= FEWEST_DRAWS]  # fmt: skip
        assert (taken in better) == bool(better), images
