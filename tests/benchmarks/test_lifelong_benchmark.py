"""`benchmarks/lifelong.py` on tiny pictures: every arm runs, nothing twice, and the table tells the truth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graftgan.bank.store import Bank
from graftgan.bank.tasks import load_task as stored_generator
from graftgan.context import Context
from graftgan.contract import read_json
from graftgan.metrics.translation import grouped_mean, l1_distances
from graftgan.stages.warm_starts import Looking
from graftgan.training.translators import translate
from tests.bank.banks import TINY

# Behind what is there: a benchmark and a folder of tests are both called transfer.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import lifelong_table as tables

import lifelong

SIDE = 16
LOOKING = Looking(images=30, probe_steps=2)
NAMES = ("grey", "edges", "lowres")


class Colours(torch.nn.Module):
    """Features are mean colours of quarters."""

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(img, 2).flatten(1)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> lifelong.Setting:
    place = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(100):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(place / f"{number:03}.png")
    weights = tmp_path_factory.mktemp("extractor") / "colours.pt"
    torch.jit.script(Colours()).save(str(weights))
    tasks = {name: {"target": str(place), "make": name, "resolution": SIDE} for name in NAMES}
    recipe = {"batch": 2, "ndf": 4, "precision": "fp32"}
    return lifelong.Setting(0.008, tasks, TINY, recipe, f"torchscript:{weights}?px=16", LOOKING)


@pytest.fixture(scope="module")
def work(setting: lifelong.Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all arms at lambda 1/4 and 1 have run."""
    place = tmp_path_factory.mktemp("work")
    for chain in chains_of(setting, place):
        lifelong.run_chain(chain, Context(place / "state", place / "cache"))
    return place


def chains_of(setting: lifelong.Setting, place: Path) -> list[Any]:
    alone, chains = lifelong.arms(setting, place, [0.25, 1.0])
    return [*alone, *chains]


def records(setting: lifelong.Setting, work: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = lifelong.collect(*lifelong.arms(setting, work, [0.25, 1.0]))
    return found


def test_every_arm_has_a_record_of_every_task(setting: lifelong.Setting, work: Path) -> None:
    found = records(setting, work)
    arms = ["standalone", "standalone-again", "fine-tuning"]
    arms += [f"piggyback-{share}-{start}" for share in ("1of4", "1") for start in ("random", "warm")]
    assert list(found) == arms
    for arm, its in found.items():
        assert [record["task"] for record in its] == list(NAMES), arm
    starts = [record["init"] for record in found["piggyback-1of4-warm"]]
    assert starts[0] == "random" and starts[1] == "warm:grey" and starts[2].startswith("warm:")
    assert found["piggyback-1of4-warm"][2]["ranked"]["why"]
    assert [record["init"] for record in found["fine-tuning"]] == ["random", "warm:grey", "warm:edges"]


def test_the_first_task_and_lambda_1_from_random_are_the_standalone_models(
    setting: lifelong.Setting, work: Path
) -> None:
    found = records(setting, work)
    alone = [record["outputs"] for record in found["standalone"]]
    assert [record["outputs"] for record in found["piggyback-1-random"]] == alone
    assert all(its[0]["outputs"] == alone[0] for arm, its in found.items() if arm != "standalone-again")
    assert all(a["outputs"] != b for a, b in zip(found["standalone-again"], alone, strict=True))
    assert all(a["outputs"] != b for a, b in zip(found["piggyback-1of4-random"][1:], alone[1:], strict=True))


def test_banks_keep_their_tasks_and_the_fine_tuned_model_does_not(
    setting: lifelong.Setting, work: Path
) -> None:
    results = tables.summarise(records(setting, work), 0.008, [0.25, 1.0])
    arms = results["arms"]
    assert arms["piggyback-1of4-random"]["unchanged"] == [3, 3] == arms["piggyback-1-warm"]["unchanged"]
    assert arms["fine-tuning"]["unchanged"] == [0, 3]
    end, learnt = arms["fine-tuning-end"]["rows"], arms["fine-tuning"]["rows"]
    assert end[2] == learnt[2] and end[0]["scores"]["l1"] != learnt[0]["scores"]["l1"]
    last = stored_generator(Bank(work / "fine-tuning" / "bank"), "lowres")
    part = lifelong.shown(setting.images("grey"))
    distances = l1_distances(translate(last, part.inputs), part.targets)
    assert end[0]["scores"]["l1"]["value"] == pytest.approx(distances.mean())


def test_numbers_of_the_table_are_those_of_the_images(setting: lifelong.Setting, work: Path) -> None:
    found = records(setting, work)
    results = tables.summarise(found, 0.008, [0.25, 1.0])
    arms = results["arms"]
    assert arms["standalone"]["generators"] == 3.0 and arms["fine-tuning"]["generators"] == 1.0
    assert arms["piggyback-1-random"]["generators"] == pytest.approx(3.0)
    assert 1.0 < arms["piggyback-1of4-warm"]["generators"] < 3.0
    mine, alone = found["piggyback-1of4-random"][1], found["standalone"][1]
    difference = np.array(mine["values"]["l1"]) - np.array(alone["values"]["l1"])
    row = arms["piggyback-1of4-random"]["rows"][1]
    assert row["differences"]["l1"] == vars(grouped_mean(difference, alone["groups"]))
    assert arms["standalone"]["no_worse"] == dict.fromkeys(arms["standalone"]["no_worse"], 2)
    assert arms["piggyback-1-random"]["rows"][1]["differences"]["l1"]["value"] == 0.0
    text = tables.table(results)
    stored = arms["piggyback-1of4-warm"]["generators"]
    assert text.count("### ") == 3 and f"| λ = 1/4, warm | {stored:.2f} |" in text
    assert "0 of 3 the same" in text and text.count("3 of 3 the same") == 4
    for block in text.split("\n\n"):
        if block.startswith("| arm"):
            assert len({line.count("|") for line in block.splitlines()}) == 1, "no row is short"


def test_places_follow_the_direction_of_a_score() -> None:
    alone = {"low": 0.9, "high": 1.1, "value": 1.0}
    assert [tables._place("l1", value, alone) for value in (0.8, 0.9, 1.2)] == ["better", "within", "worse"]
    assert [tables._place("psnr", value, alone) for value in (0.8, 1.1, 1.2)] == ["worse", "within", "better"]


def test_what_is_done_is_not_done_again_and_a_half_done_task_is(
    setting: lifelong.Setting, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = next(c for c in chains_of(setting, work) if c.folder.name == "piggyback-1of4-warm")
    before = records(setting, work)["piggyback-1of4-warm"]
    head = Bank(chain.folder / "bank").head
    with monkeypatch.context() as patch:
        patch.setattr(lifelong, "_learn", lambda *a: pytest.fail("learnt again"))
        assert lifelong.run_chain(chain, Context(work / "state", work / "cache")) == before
    (chain.folder / "lowres.json").unlink()
    again = lifelong.run_chain(chain, Context(work / "state", work / "cache"))
    assert again[2]["outputs"] == before[2]["outputs"] and Bank(chain.folder / "bank").head == head
    lifelong.check(chain)
    assert read_json(chain.folder / "lowres.json")["scores"] == before[2]["scores"]


def test_the_report_of_a_chain_compares_with_models_of_their_own(
    setting: lifelong.Setting, work: Path, tmp_path: Path
) -> None:
    chain = next(c for c in chains_of(setting, work) if c.folder.name == "piggyback-1of4-random")
    lifelong.report(chain, records(setting, work), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "in 3 of 3 comparisons" in page and "of 3 score no worse than the interval" in page
    assert page.count("Model of its own") == 3 and "no pictures" not in page
    assert "There are no training curves." not in page
