"""What `auto` takes, held against the measurement that its rules cite."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from graftgan.contract import read_json
from graftgan.errors import ConfigError
from graftgan.gans.spec import FAMILIES
from graftgan.transfer import METHODS
from graftgan.transfer.auto import FEWEST_DRAWS, RULES_FILE, TABLES, Rule, Rules, decide, derive
from scripts import loaded

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("images", [2, 25, 26, 100, 101, 1000, 100_000])
def test_what_is_decided_works_with_the_family(images: int, family: str) -> None:
    rule = decide(images, [family])
    known = METHODS[rule.method].families
    assert known is None or family in known


@pytest.mark.parametrize("table", TABLES)
def test_rules_go_from_few_images_to_many_and_end_with_all(table: Rules) -> None:
    limits = [float("inf") if rule.most_images is None else rule.most_images for rule in table.rules]
    assert limits == sorted(limits) and limits[-1] == float("inf")
    for limit in set(limits):
        last = [rule for rule, most in zip(table.rules, limits, strict=True) if most == limit][-1]
        assert last.method == "full", "what goes with every source is there for every number of images"


@pytest.mark.parametrize(
    ("images", "measured"),
    [(2, 25), (25, 25), (50, 25), (51, 100), (100, 100), (101, 100), (316, 100), (317, 1000), (9999, 1000)],
)
def test_a_number_of_images_goes_by_the_nearest_that_was_measured(images: int, measured: int) -> None:
    assert f"with {measured} images" in decide(images, ["stylegan2"]).why


def only(monkeypatch: pytest.MonkeyPatch, *rules: Rule) -> None:
    monkeypatch.setattr("graftgan.transfer.auto.TABLES", (Rules(("stylegan2",), 3.0, rules),))


def test_the_table_of_the_sources_families_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [Rules((f,), 3.0, (Rule(None, m, f),)) for f, m in (("stylegan2", "lora"), ("biggan", "bsa"))]
    monkeypatch.setattr("graftgan.transfer.auto.TABLES", tuple(tables))
    assert [decide(25, [family]).method for family in ("stylegan2", "biggan")] == ["lora", "bsa"]
    assert decide(25, ["biggan"]).why == "biggan"
    only(monkeypatch, Rule(None, "full", "first"))
    assert decide(25, ["dcgan"]).why.startswith("first; this was measured with stylegan2 sources only")


@pytest.mark.parametrize(
    ("kimg", "method"),
    [
        (0.0, "lora"),
        (3.0, "lora"),
        (8.4, "lora"),
        (8.6, "freeze_d"),
        (24.0, "freeze_d"),
        (math.inf, "freeze_d"),
    ],
)
def test_of_two_budgets_the_nearer_one_counts(
    monkeypatch: pytest.MonkeyPatch, kimg: float, method: str
) -> None:
    """The border between 3 and 24 kimg is their geometric mean."""
    tables = [
        Rules(("stylegan2",), one, (Rule(None, m, ""),)) for one, m in ((3.0, "lora"), (24.0, "freeze_d"))
    ]
    monkeypatch.setattr("graftgan.transfer.auto.TABLES", tuple(tables))
    assert decide(25, ["stylegan2"], kimg=kimg).method == method


def test_a_method_that_a_family_has_no_layers_for_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, Rule(100, "lora", "a"), Rule(100, "freeze_g", "b"), Rule(100, "full", "c"),
         Rule(None, "freeze_d", "d"))  # fmt: skip
    assert decide(100, ["stylegan2"]).method == "lora"
    assert decide(101, ["stylegan2"]).method == "freeze_d"
    mixed = decide(100, ["stylegan2", "biggan"])
    assert mixed.method == "freeze_g"
    assert mixed.why.startswith("b; lora did better, but not for family biggan, stylegan2; ")
    plain = decide(100, ["dcgan"])
    assert plain.method == "full" and "lora, freeze_g did better, but not for family dcgan" in plain.why


def test_a_refused_method_gives_way_and_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, Rule(None, "lora", "a"), Rule(None, "freeze_g", "b"), Rule(None, "full", "c"))
    errors = {"lora": ConfigError("finetune.x=1 with finetune.y=2", "z")}
    found = decide(100, ["stylegan2"], errors.get)
    assert (found.method, found.why) == (
        "freeze_g",
        "b; lora did better, but does not go with the settings: finetune.x=1 with finetune.y=2",
    )
    errors |= {name: ConfigError(f"{name} too", "z") for name in ("freeze_g", "full")}
    with pytest.raises(ConfigError, match="full too"):
        decide(100, ["stylegan2"], errors.get)


def test_what_was_not_measured_is_said() -> None:
    assert "sources only" not in decide(25, ["stylegan2"]).why
    for family in sorted(set(FAMILIES) - {"stylegan2"}):
        why = decide(25, [family, "stylegan2"]).why
        assert f"measured with stylegan2 sources only, and says little of family {family}" in why


def test_rates_that_are_not_the_default_ones_are_said() -> None:
    assert "compared at finetune." not in decide(25, ["stylegan2"]).why
    for family, rate in (("biggan", "0.0002"), ("resnet_gan", "0.0015")):
        why = decide(25, [family]).why
        assert f"methods were compared at finetune.lr_generator={rate}, finetune.lr_discriminator=" in why


@pytest.mark.parametrize(
    ("kimg", "part"),
    [(3.0, ""), (6.0, ""), (6.1, "this run has 6.1 kimg"), (float("inf"), "this run may be of any length")],
)
def test_a_budget_far_above_the_compared_one_is_said(kimg: float, part: str) -> None:
    why = decide(25, ["stylegan2"], kimg=kimg).why
    assert part in why and ("methods were compared at 3 kimg" in why) == bool(part)


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
    rules = Rules.of(derive(tables, 3.0, {"stylegan2"})).rules
    assert [(rule.most_images, rule.method) for rule in rules] == [
        (50, "lora"), (50, "freeze_g"), (50, "full"), (None, "full"),
    ]  # fmt: skip
    assert rules[0].why == (
        "with 25 images its KID was 0.80 times that of full (0.70 to 0.90) over 3 draws of 3 kimg"
    )
    assert "no method that was better with 25 images goes" in rules[2].why
    assert "no method was clearly better" in rules[3].why


def test_a_table_of_one_draw_says_that_more_are_asked_for() -> None:
    tables = {"25": [row("lora", 0.5, 0.1, draws=1), row("full", 1.0, 0.0, draws=1)]}
    (rule,) = derive(tables, 3.0, {"stylegan2"})["rules"]
    assert rule["method"] == "full" and rule["why"].endswith(
        "over 1 draw of 3 kimg, and 3 draws are asked for"
    )


def test_a_better_method_that_a_source_cannot_have_gives_way_within_its_number_of_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = {"25": [row("lora", 0.8, 0.1)], "100": [row("freeze_g", 0.8, 0.1)]}
    only(monkeypatch, *Rules.of(derive(tables, 3.0, {"stylegan2"})).rules)
    assert [decide(n, ["stylegan2"]).method for n in (50, 51, 5000)] == ["lora", "freeze_g", "freeze_g"]
    assert decide(25, ["biggan"]).method == "full", "what held for 100 images was not measured with 25"


def test_the_rules_are_those_of_the_measurement() -> None:
    derived = loaded("auto_rules").derived()
    assert read_json(RULES_FILE) == derived, "run python benchmarks/auto_rules.py"
    assert tuple(map(Rules.of, derived["tables"])) == TABLES
    assert TABLES[0].families == ("stylegan2",)
    assert TABLES[0].kimg == read_json(RESULTS / "methods.json")["kimg"]


def test_what_is_taken_is_not_clearly_worse_than_anything() -> None:
    for images, rows in read_json(RESULTS / "methods.json")["images"].items():
        taken = decide(int(images), ["stylegan2"]).method
        by_name = {found["method"]: found for found in rows if found["method"] in METHODS}
        assert by_name[taken].get("ratio_high", 1.0) <= 1.0, images
        better = [n for n, found in by_name.items() if found.get("ratio_high", 1.0) < 1.0
                  and len(found["draws"]) >= FEWEST_DRAWS]  # fmt: skip
        assert (taken in better) == bool(better), images
