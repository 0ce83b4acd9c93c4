"""Starts of a new task: one task of the bank is near by construction, as the new targets are its outputs."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftgan.bank.store import Bank
from graftgan.bank.tasks import begin, finish
from graftgan.bank.tasks import load_task as stored_generator
from graftgan.config import Runtime
from graftgan.context import Context
from graftgan.contract import canonical_json
from graftgan.data.pairs import Part, TaskImages
from graftgan.errors import ConfigError, DataError
from graftgan.lifelong_config import TaskData, Translate, TranslationScores
from graftgan.metrics.features import Extractor, make_extractor
from graftgan.metrics.kid import kid
from graftgan.metrics.precision_recall import recall
from graftgan.metrics.translation import grouped_mean, l1_distances
from graftgan.progress import PlainProgress
from graftgan.stages import warm_starts
from graftgan.stages.lifelong import Settings, learn_task, rank_inits
from graftgan.stages.warm_starts import Looking, NewTask, StartRanking, rank_starts
from graftgan.training.state import STATE
from graftgan.training.translation import PairedTrainer
from graftgan.training.translators import make_translators, translate
from tests.bank.banks import SIZE_PX, TINY, contents, grown

CPU = torch.device("cpu")
TRAIN = Translate.model_validate(
    {"budget": {"kimg": 0.008}, "batch": 2, "ndf": 4, "precision": "fp32", "pool_images": 3}
)
LOOKING = Looking(images=40, probe_steps=3)


class Colours(torch.nn.Module):
    """Features are mean colours of quarters."""

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(img, 2).flatten(1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("extractor") / "colours.pt"
    torch.jit.script(Colours()).save(str(path))
    return f"torchscript:{path}?px={SIZE_PX}"


@pytest.fixture(scope="module")
def extractor(weights: str) -> Extractor:
    return make_extractor(weights)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return grown(tmp_path_factory.mktemp("starts") / "bank", ["random", "random", "random"])


def part(bank: Bank, near: str, count: int, seed: int) -> Part:
    """Random inputs, and as targets what a task of the bank makes of them."""
    inputs = np.random.default_rng(seed).integers(0, 256, (count, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    names = tuple(f"{seed}-{row}" for row in range(count))
    return Part(inputs, translate(stored_generator(bank, near), inputs), names, names)


def near_to(bank: Bank, near: str, kind: str = "paired", validation: int = 24) -> TaskImages:
    given = {"make": "grey"} if kind == "paired" else {"input": "made"}
    data = TaskData.model_validate({"kind": kind, "target": "made", "resolution": SIZE_PX, **given})
    parts = {"train": part(bank, near, 40, 1), "test": part(bank, near, 30, 3)}
    if validation:
        parts["validation"] = part(bank, near, validation, 2)
    return TaskImages(data, parts, {}, f"near {near}", ())


def ranked(bank: Bank, images: TaskImages, extractor: Extractor, looking: Looking = LOOKING) -> StartRanking:
    return rank_starts(bank, NewTask("new", images, TRAIN), extractor, CPU, looking=looking)


@pytest.mark.parametrize("near", ["t1", "t2", "t3"])
def test_the_task_that_made_the_targets_is_found(bank: Bank, extractor: Extractor, near: str) -> None:
    ranking = ranked(bank, near_to(bank, near), extractor)
    assert ranking.chosen == f"warm:{near}"
    assert ranking.tied == (ranking.chosen,) and ranking.measure == "l1"
    assert {start.init for start in ranking.starts} == {"random", "warm:t1", "warm:t2", "warm:t3"}
    best, second = ranking.starts[:2]
    assert best.scores["recall"].value == 1.0 and best.scores["l1"].value <= 1 / 255
    assert best.probe is not None and second.probe is not None
    assert best.probe.before.value <= 1 / 255 < second.probe.before.value
    assert best.probe.behind.value == 0.0 < second.probe.behind.low
    assert ranking.why.startswith(f"warm:{near}: after 3 steps its L1 on 24 held-out images is ")
    assert f"next is {second.init} with {second.probe.after.value:.4g}" in ranking.why


def test_outputs_alone_find_it_too_and_have_the_values_of_the_metrics(
    bank: Bank, extractor: Extractor
) -> None:
    images = near_to(bank, "t2")
    ranking = ranked(bank, images, extractor, replace(LOOKING, probe_steps=0))
    assert ranking.chosen == "warm:t2" and ranking.measure == "recall" and ranking.steps == 0
    assert "random" not in {start.init for start in ranking.starts}
    assert "its outputs cover 100% of 40 targets" in ranking.why
    train = images.part("train")
    for start in ranking.starts:
        outputs = translate(stored_generator(bank, start.init.removeprefix("warm:")), train.inputs)
        made, wanted = extractor(outputs), extractor(train.targets)
        assert start.probe is None
        assert start.scores["recall"].value == recall(wanted, made).value
        assert start.scores["kid"].value == pytest.approx(kid(made, wanted).value)
        assert start.scores["l1"].value == pytest.approx(l1_distances(outputs, train.targets).mean())


def test_a_ranking_is_the_same_twice_and_changes_neither_bank_nor_random_numbers(
    bank: Bank, extractor: Extractor
) -> None:
    images, before = near_to(bank, "t3"), contents(bank.folder)
    state = torch.get_rng_state()
    first = ranked(bank, images, extractor)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    again = ranked(Bank(bank.folder), images, extractor)
    assert canonical_json(first.to_dict()) == canonical_json(again.to_dict())
    assert contents(bank.folder) == before
    assert json.loads(canonical_json(first.to_dict()))["starts"][0]["init"] == "warm:t3"


def test_a_probe_is_that_many_steps_of_the_recipe_from_the_start(bank: Bank, extractor: Extractor) -> None:
    images = near_to(bank, "t2")
    ranking = ranked(bank, images, extractor)
    held_out, after = images.part("validation"), {}
    for init in ("warm:t1", "warm:t2"):
        networks = make_translators("paired", begin(bank, "x", init, TRAIN.seed).generator, TRAIN, SIZE_PX)
        trainer = PairedTrainer(networks, images.part("train"), TRAIN, CPU)
        trainer.set_rate(0.0)
        for _ in range(LOOKING.probe_steps):
            trainer.step()
        after[init] = l1_distances(translate(networks.generator, held_out.inputs), held_out.targets)
    probes = {start.init: start.probe for start in ranking.starts}
    for init, distances in after.items():
        probe = probes[init]
        assert probe is not None and probe.after == grouped_mean(distances, held_out.groups)
        assert probe.behind == grouped_mean(distances - after["warm:t2"], held_out.groups)


def test_equal_starts_are_tied_and_a_warm_one_comes_before_a_random_one(
    tmp_path: Path, extractor: Extractor
) -> None:
    twins = Bank.create(tmp_path / "twins", TINY)
    for name, init in (("one", "random"), ("two", "warm:one")):
        finish(twins, begin(twins, name, init, seed=1), size_px=SIZE_PX)
    slow = TRAIN.model_copy(update={"lr": 1e-12})
    new = NewTask("new", near_to(twins, "one"), slow)
    ranking = rank_starts(twins, new, extractor, CPU, looking=LOOKING)
    assert set(ranking.tied) == {"warm:one", "warm:two"}
    assert ranking.starts[2].init == "random"
    assert "not clearly better or worse than warm:" in ranking.why


def test_the_first_task_of_a_bank_starts_at_random(bank: Bank, extractor: Extractor, tmp_path: Path) -> None:
    only = ranked(Bank.create(tmp_path / "bank", TINY), near_to(bank, "t1"), extractor)
    assert only.chosen == "random" and "no task to start from" in only.why


def test_without_validation_images_whole_groups_are_held_out(bank: Bank, extractor: Extractor) -> None:
    ranking = ranked(bank, near_to(bank, "t1", validation=0), extractor)
    assert (ranking.images, ranking.held_out) == (30, 10)
    assert ranking.chosen == "warm:t1"


def test_unpaired_tasks_are_ranked_by_kid_with_their_ways_back(
    bank: Bank, extractor: Extractor, tmp_path: Path
) -> None:
    back = grown(tmp_path / "back", ["random"])
    images = near_to(bank, "t2", kind="unpaired")
    ranking = rank_starts(bank, NewTask("new", images, TRAIN), extractor, CPU, back, LOOKING)
    assert ranking.measure == "kid" and ranking.chosen == "warm:t2"
    assert set(ranking.starts[0].scores) == {"recall", "kid"}
    with pytest.raises(ConfigError, match="generator for each direction"):
        rank_starts(bank, NewTask("new", images, TRAIN), extractor, CPU, looking=LOOKING)


def test_what_cannot_be_ranked_is_refused(bank: Bank, extractor: Extractor) -> None:
    images = near_to(bank, "t1")
    with pytest.raises(ConfigError, match="has a task 't1'"):
        rank_starts(bank, NewTask("t1", images, TRAIN), extractor, CPU, looking=LOOKING)
    few = replace(images, parts={"train": part(bank, "t1", 8, 1)})
    with pytest.raises(DataError, match="8 training images are too few to rank starts"):
        ranked(bank, few, extractor)


def test_probes_show_how_far_they_are(bank: Bank, extractor: Extractor) -> None:
    shown = io.StringIO()
    new = NewTask("new", near_to(bank, "t1"), TRAIN)
    rank_starts(bank, new, extractor, CPU, looking=LOOKING, progress=PlainProgress(shown))
    done = [line for line in shown.getvalue().splitlines() if "100 %" in line]
    assert [line.split(",")[0] for line in done] == [
        f"probe of {init}: 6/6 images (100 %)" for init in ("warm:t1", "warm:t2", "warm:t3", "random")
    ]


def test_auto_learns_from_the_start_that_is_best_and_says_why(
    bank: Bank, weights: str, tmp_path: Path
) -> None:
    own = grown(tmp_path / "bank", ["random", "random"])
    scores = TranslationScores(extractor=weights, validation_extractor=weights)
    settings = Settings(TRAIN, scores, Runtime(device="cpu"), init="auto")
    images = near_to(own, "t2")
    learnt = learn_task(own, "new", images, settings, Context(tmp_path / "state", tmp_path / "cache"))
    assert learnt.task.init == "warm:t2"
    assert learnt.ranking is not None and learnt.ranking.chosen == "warm:t2"
    assert learnt.ranking.to_dict() == rank_without(tmp_path / "again", images, settings).to_dict()


@pytest.mark.parametrize("damage", [False, True])
def test_probes_that_an_interrupted_call_finished_are_not_done_again(
    bank: Bank, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bool
) -> None:
    scores = TranslationScores(extractor=weights, validation_extractor=weights)
    settings = Settings(TRAIN, scores, Runtime(device="cpu"), init="auto")
    whole, cut = (grown(tmp_path / name, ["random", "random"]) for name in ("whole", "cut"))
    images = near_to(whole, "t2")
    expected = learn_task(whole, "new", images, settings, Context(tmp_path / "s", tmp_path / "c"))
    probed: list[str] = []
    real = warm_starts._Prober._run

    def dies(self: Any, init: str, steps: int) -> Any:
        if probed == ["warm:t1", "warm:t2"]:
            probed.clear()
            raise KeyboardInterrupt
        probed.append(init)
        return real(self, init, steps)

    monkeypatch.setattr(warm_starts._Prober, "_run", dies)
    around = Context(tmp_path / "state", tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        learn_task(cut, "new", images, settings, around)
    kept = sorted((tmp_path / "state").glob("new-*/probes/*"))
    assert len(kept) == 2
    if damage:
        (kept[0] / STATE).write_bytes(b"")
    learnt = learn_task(cut, "new", images, settings, around)
    assert len(probed) == 1 + damage and probed[-1] == "random"
    assert learnt.ranking is not None and expected.ranking is not None
    assert canonical_json(learnt.ranking.to_dict()) == canonical_json(expected.ranking.to_dict())
    assert contents(cut.folder) == contents(whole.folder)
    assert not list((tmp_path / "state").glob("new-*")), "they are of no more use"


def rank_without(folder: Path, images: TaskImages, settings: Settings) -> StartRanking:
    """The same ranking on a bank of the same tasks."""
    return rank_inits(grown(folder, ["random", "random"]), "new", images, settings)
