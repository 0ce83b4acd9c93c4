from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from graftgan.bank.store import Bank
from graftgan.bank.tasks import fixed_outputs, verify
from graftgan.bank.tasks import load_task as stored_generator
from graftgan.config import Runtime
from graftgan.context import Context, StopSignal
from graftgan.data.pairs import TaskImages, load_task
from graftgan.errors import ConfigError, DataError, Interrupted, MissingInput
from graftgan.gans.translation import TranslatorSpec
from graftgan.lifelong_config import TaskData, Translate, TranslationScores
from graftgan.metrics.translation import l1_distances
from graftgan.progress import Task
from graftgan.stages import lifelong as module
from graftgan.stages.lifelong import Settings, example_sheet, learn_task, score_bank
from graftgan.training.translators import translate
from graftgan.unfinished import NOTE, noted

SIDE = 16
SPEC = TranslatorSpec(kind="resnet_6", ngf=4)


class Colours(nn.Module):
    """Features are mean colours of quarters."""

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(img, 2).flatten(1)


class Killing:
    """A progress display that sends this process a signal at a step."""

    def __init__(self, at: int) -> None:
        self.at, self.steps = at, 0

    def task(self, name: str, total: int, done: int = 0) -> Task:
        return self

    def advance(self, images: int, scores: Any = None) -> None:
        self.steps += 1
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("task")
    rng = np.random.default_rng(0)
    for number in range(100):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(place / f"{number:03}.png")
    return place


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("extractor") / "colours.pt"
    torch.jit.script(Colours()).save(str(path))
    return f"torchscript:{path}?px=16"


@pytest.fixture
def settings(extractor: str) -> Settings:
    train = {"budget": {"kimg": 0.016}, "batch": 2, "ndf": 4, "precision": "fp32", "pool_images": 3}
    scores = TranslationScores(extractor=extractor, validation_extractor=extractor)
    return Settings(Translate.model_validate(train), scores, Runtime(device="cpu"))


def task(folder: Path, **values: Any) -> TaskImages:
    given = {"target": str(folder), "resolution": SIDE, **values}
    return load_task(TaskData.model_validate(given if "input" in given else {"make": "grey", **given}))


def ctx(place: Path, **values: Any) -> Context:
    return Context(place / "state", place / "cache", **values)


def test_three_tasks_are_learnt_and_the_first_ones_stay_as_they_were(
    tmp_path: Path, folder: Path, settings: Settings
) -> None:
    bank, back = Bank.create(tmp_path / "bank", SPEC), Bank.create(tmp_path / "back", SPEC)
    grey, edges = task(folder), task(folder, make="edges")
    unpaired = task(folder, kind="unpaired", input=str(folder))
    place = ctx(tmp_path)
    learnt = learn_task(bank, "grey", grey, settings, place)
    made = fixed_outputs(stored_generator(bank, "grey"), SPEC, SIDE)
    learn_task(bank, "edges", edges, replace(settings, init="warm:grey"), place)
    learn_task(bank, "other", unpaired, settings, place, back)

    assert [found.name for found in bank.tasks] == ["grey", "edges", "other"]
    assert [found.name for found in back.tasks] == ["other"]
    assert torch.equal(fixed_outputs(stored_generator(bank, "grey"), SPEC, SIDE), made)
    assert verify(bank) == () and verify(back) == ()
    assert set(learnt.scores) == {"l1", "psnr", *(f"{n}_{s}" for n, s in named(learnt.scores))}
    assert learnt.task.data_fingerprint == grey.digest and learnt.task.init == "random"
    assert bank.task("edges").init == "warm:grey" and bank.task("edges").outputs.size_px == SIDE
    assert not list((tmp_path / "state").rglob("state.safetensors"))

    scores = score_bank(bank, {"grey": grey, "edges": edges, "other": unpaired}, settings)
    part = grey.part("test")
    outputs = translate(stored_generator(bank, "grey"), part.inputs)
    assert scores["grey"]["l1"].value == pytest.approx(l1_distances(outputs, part.targets).mean())
    assert bank.task("grey").scores["l1"] == pytest.approx(learnt.scores["l1"].value)
    assert scores["grey"]["l1"].value == pytest.approx(learnt.scores["l1"].value, abs=1e-3)
    assert [name.split("_")[0] for name in scores["other"]] == ["kid"]


def test_learning_a_task_can_be_profiled_and_tells_how_it_computed(
    tmp_path: Path, folder: Path, settings: Settings
) -> None:
    grey = task(folder)
    plain = learn_task(Bank.create(tmp_path / "a", SPEC), "grey", grey, settings, ctx(tmp_path / "1"))
    asked = replace(settings, runtime=Runtime(device="cpu", profile=str(tmp_path / "profile")))
    bank = Bank.create(tmp_path / "b", SPEC)
    watched = learn_task(bank, "grey", grey, asked, ctx(tmp_path / "2"))
    assert watched.task == plain.task
    told = json.loads((tmp_path / "profile" / "grey.json").read_text())
    assert told["steps"] == 8
    phases = {row["phase"] for row in told["phases"]}
    assert {"data", "G forward", "G backward", "D forward", "D backward", "optimiser"} <= phases
    assert (told["memory_format"], told["adam"]) == ("contiguous", "fused")
    assert watched.switches == plain.switches
    assert watched.switches["memory_format"] == "contiguous"


def named(scores: Any) -> list[tuple[str, str]]:
    """The scores of features, split into the metric's and the extractor's name."""
    return [tuple(name.split("_", 1)) for name in scores if "_" in name]  # type: ignore[misc]


def test_a_stopped_task_goes_on_to_the_same_bank(
    tmp_path: Path, folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = task(folder)
    whole, cut = (Bank.create(tmp_path / name, SPEC) for name in ("whole", "cut"))
    for bank in (whole, cut):
        learn_task(bank, "first", images, settings, ctx(tmp_path / "first"))
    second = replace(settings, init="warm:first", train=settings.train.model_copy(update={"seed": 4}))
    learn_task(whole, "second", images, second, ctx(tmp_path / "a"))
    stop = StopSignal()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    stop.install()
    try:
        with pytest.raises(Interrupted, match="second stopped at 6 images"):
            learn_task(cut, "second", images, second, ctx(tmp_path / "b", stop=stop, progress=Killing(3)))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert [found.name for found in cut.tasks] == ["first"]
    (left,) = (tmp_path / "b" / "state").iterdir()
    assert (left / NOTE).is_file() and left.name.startswith("second-")
    steps = Killing(0)
    learn_task(cut, "second", images, second, ctx(tmp_path / "b", progress=steps))
    assert steps.steps == 5
    assert not list((tmp_path / "b" / "state").iterdir()), "the state is of no more use"
    assert cut.head == whole.head
    assert cut.task("second").outputs.sha256 == whole.task("second").outputs.sha256


def test_a_task_is_gone_on_with_by_the_same_code_scores_and_recipe_only(
    tmp_path: Path,
    folder: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bank, images = Bank.create(tmp_path / "bank", SPEC), task(folder)
    place = ctx(tmp_path)

    def folder_of(given: Settings) -> Path:
        return module.state_folder(module.state_note(bank, None, "grey", images, given), "grey", place)

    scores = settings.scores.model_copy(update={"confidence": 0.9})
    recipe = settings.train.model_copy(update={"batch": 4})
    changed = [
        replace(settings, scores=scores),
        replace(settings, train=recipe),
        replace(settings, init="auto"),
    ]
    mine = folder_of(settings)
    assert folder_of(settings) == mine
    assert len({mine, *map(folder_of, changed)}) == 4
    with monkeypatch.context() as patch:
        patch.setattr(module, "code_digest", lambda: "other")
        assert folder_of(settings) != mine
        note = module.state_note(bank, None, "grey", images, changed[0])
    left = module.state_folder(note, "grey", place)
    with pytest.raises(KeyboardInterrupt), noted(left, note):
        (left / "states" / "images-000000000000").mkdir(parents=True)
        raise KeyboardInterrupt
    with pytest.raises(MissingInput, match=r"scores\.confidence: 0\.9 -> 0\.95") as caught:
        learn_task(bank, "grey", images, settings, ctx(tmp_path, resume="must"))
    assert "the code of the package has changed" in str(caught.value)
    assert not bank.tasks


def test_a_way_back_without_a_way_there_is_learnt_again(
    tmp_path: Path, folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, back = Bank.create(tmp_path / "bank", SPEC), Bank.create(tmp_path / "back", SPEC)
    images = task(folder, kind="unpaired", input=str(folder))
    with monkeypatch.context() as patch:
        patch.setattr(bank, "append", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            learn_task(bank, "task", images, settings, ctx(tmp_path), back)
    assert not bank.tasks and [found.name for found in back.tasks] == ["task"]
    learn_task(bank, "task", images, settings, ctx(tmp_path), back)
    assert [found.name for found in bank.tasks] == [found.name for found in back.tasks] == ["task"]
    assert verify(back) == ()


def test_what_cannot_be_learnt_is_refused_before_training(
    tmp_path: Path, folder: Path, settings: Settings
) -> None:
    bank = Bank.create(tmp_path / "bank", SPEC)
    unpaired = task(folder, kind="unpaired", input=str(folder))
    with pytest.raises(ConfigError, match="second bank"):
        learn_task(bank, "task", unpaired, settings, ctx(tmp_path))
    untested = task(folder, split={"test": 0.0})
    with pytest.raises(DataError, match="no test images"):
        learn_task(bank, "task", untested, settings, ctx(tmp_path))
    with pytest.raises(ConfigError, match="no task"):
        learn_task(bank, "task", task(folder), replace(settings, init="warm:gone"), ctx(tmp_path))
    assert not (tmp_path / "state").exists() and not bank.tasks


def test_without_validation_images_training_images_are_measured_and_that_is_said(
    tmp_path: Path, folder: Path, settings: Settings
) -> None:
    bank = Bank.create(tmp_path / "bank", SPEC)
    learnt = learn_task(bank, "task", task(folder, split={"validation": 0.0}), settings, ctx(tmp_path))
    assert any("validation scores are of training images" in text for text in learnt.warnings)


def test_a_sheet_shows_inputs_outputs_and_truths(folder: Path) -> None:
    class Inverse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(()))

        def forward(self, img: torch.Tensor) -> torch.Tensor:
            return -img * self.one

    images = task(folder)
    part = images.part("test")
    drawn = example_sheet(Inverse(), images, rows=2, cell_px=SIDE)
    pitch = SIDE + 2
    assert drawn.shape == (2 * pitch + 2, 3 * pitch + 2, 3)
    cells = [drawn[pitch + 2 : pitch + 2 + SIDE, 2 + i * pitch : 2 + i * pitch + SIDE] for i in range(3)]
    assert np.array_equal(cells[0], part.inputs[1]) and np.array_equal(cells[2], part.targets[1])
    assert np.abs(255 - cells[0].astype(int) - cells[1]).max() <= 1
    unpaired = task(folder, kind="unpaired", input=str(folder))
    assert example_sheet(Inverse(), unpaired, rows=2, cell_px=SIDE).shape[1] == 2 * pitch + 2
