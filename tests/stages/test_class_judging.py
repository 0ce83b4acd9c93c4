"""Who judges tuned classes: held-out images and other networks, and words where there are none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training.nets import pictures, recipe
from transfer.families import small

from graftgan.config import Params
from graftgan.context import Context
from graftgan.data.dataset import ImageSet
from graftgan.errors import ConfigError
from graftgan.gans.class_table import take_classes
from graftgan.metrics.features import make_extractor
from graftgan.params import load
from graftgan.stages.class_judging import ClassJudge, make_class_judge
from graftgan.transfer import method
from graftgan.transfer.class_embedding import ClassTuner
from graftgan.transfer.direct import Task
from stages.test_finetune import write_set

OUTPUTS = 5


@dataclass(frozen=True)
class Bench:
    """Three network files, and what builds judges of a tiny BigGAN with three classes."""

    folder: Path

    def file(self, name: str) -> str:
        return f"torchscript:{self.folder / name}.pt?px=16&range=-1_1"

    def tuner(self, alone: bool = True, **section: Any) -> ClassTuner:
        whole = small("biggan")
        gan = take_classes(whole, [1]) if alone else whole
        usual = {"use": "repair", "classes": (1,), "features": self.file("a"), "starts": 1}
        settings = recipe(
            method="class_embedding", controls=(), budget={"kimg": 0.016},
            class_embedding={**usual, "judge": self.file("b"), **section},
        )  # fmt: skip
        method("class_embedding").apply(gan, settings)
        labels = None if alone else np.arange(12, dtype=np.int32) % 3
        return ClassTuner(Task(gan, pictures(12), labels, settings, torch.device("cpu"), whole))

    def data(self, **counts: int) -> ImageSet:
        folder = self.folder / "-".join(f"{name}{count}" for name, count in counts.items())
        if not folder.exists():
            write_set(folder, **counts)
        return ImageSet.open(folder)

    def context(self) -> Context:
        return Context(state=self.folder / "state", cache=self.folder / "cache")

    def judge(self, data: ImageSet, alone: bool = True, **section: Any) -> tuple[ClassJudge, list[str]]:
        found, said = make_class_judge(self.tuner(alone, **section), data, PARAMS, self.context())
        assert found is not None
        return found, said


PARAMS: Params = load(None, ["runtime.device=cpu"])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Of the three networks, `a` and `b` are linear and `always-2` answers with its output 2."""
    folder = tmp_path_factory.mktemp("bench")
    torch.manual_seed(0)
    for name in ("a", "b", "always-2"):
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, OUTPUTS))
        if name == "always-2":
            torch.nn.init.zeros_(net[1].weight)
            net[1].bias.data = torch.log(torch.tensor([0.1, 0.1, 0.6, 0.1, 0.1]))
        torch.jit.script(net).save(str(folder / f"{name}.pt"))
    return Bench(folder)


@pytest.mark.parametrize(
    ("counts", "split"),
    [
        ({"train": 6}, "test"),
        ({"train": 6, "test": 2}, "validation"),
        ({"train": 6, "test": 2, "validation": 2}, "train"),
        ({"train": 2, "test": 2, "validation": 2}, None),
    ],
)
def test_held_out_images_come_first(bench: Bench, counts: dict[str, int], split: str | None) -> None:
    data = bench.data(**counts)
    judge, said = bench.judge(data)
    (target,) = judge.tuner.targets
    assert judge.split_of(target) == split
    assert [text for text in said if "training images" in text] == said
    assert bool(said) == (split == "train")
    if split is None:
        assert judge.real(target) is None
    else:
        expected = make_extractor(bench.file("b"))(data.images(split))
        assert np.array_equal(judge.real(target), expected)


def test_a_class_is_compared_with_its_own_images(bench: Bench) -> None:
    data = bench.data(train=6, test=9, labels=3)
    judge, said = bench.judge(data, alone=False)
    (target,) = judge.tuner.targets
    own = data.images("test")[data.labels("test") == 1]
    assert len(own) == 3 and not said
    assert np.array_equal(judge.real(target), make_extractor(bench.file("b"))(own))


OPTIMISED = [
    ({"objective": "mmd"}, True),
    ({"objective": "probe", "alpha": 0.0}, True),
    ({"objective": "inversion"}, True),
    ({"objective": "discriminator", "alpha": 0.0}, False),
    ({"objective": "discriminator", "alpha": 0.5}, True),
    ({"objective": "discriminator", "alpha": 0.5, "diversity": "pixelwise"}, False),
]


@pytest.mark.parametrize(("section", "optimised"), OPTIMISED)
def test_a_network_that_judges_itself_is_named(
    bench: Bench, section: dict[str, Any], optimised: bool
) -> None:
    judge, said = bench.judge(bench.data(train=6), judge=bench.file("a"), **section)
    assert judge.described()["judge_was_optimised"] == optimised
    assert bool(said) == optimised
    assert all("class_embedding.judge=" in text and "class_embedding.features" in text for text in said)
    other, said = bench.judge(bench.data(train=6), **section)
    assert not other.described()["judge_was_optimised"] and not said
    assert other.described()["protocol"] == make_extractor(bench.file("b")).protocol


def test_the_optimised_classifier_is_no_judge_and_another_one_is(bench: Bench) -> None:
    data, images = bench.data(train=6), pictures(4)
    section = {"objective": "classifier", "classifier": bench.file("b"), "alpha": 0.0}
    judge, said = bench.judge(data, **section)
    (target,) = judge.tuner.targets
    (text,) = said
    assert "class_embedding.classifier" in text and "class_embedding.judge_classifier" in text
    facts = judge.described()
    assert (facts["judge_classifier"], facts["judge_classifier_was_optimised"]) == (bench.file("b"), True)
    logits = make_extractor(bench.file("b"))(images).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert judge.chances(target, images) == pytest.approx(expected, abs=1e-4)

    other, said = bench.judge(data, **section, judge_classifier=bench.file("always-2"))
    facts = other.described()
    assert not said and not facts["judge_classifier_was_optimised"]
    assert facts["judge_classifier"] == bench.file("always-2")
    chances = other.chances(target, images)
    assert chances is not None
    assert chances == pytest.approx(np.tile([0.1, 0.1, 0.6, 0.1, 0.1], (4, 1)), abs=1e-6)


def test_without_a_classifier_there_is_no_accuracy_unless_one_judges(bench: Bench) -> None:
    data = bench.data(train=6)
    judge, _ = bench.judge(data)
    assert judge.chances(judge.tuner.targets[0], pictures(2)) is None
    assert judge.described()["judge_classifier"] is None
    other, said = bench.judge(data, judge_classifier=bench.file("always-2"))
    assert not said and other.tuner.targets[0].output == 1
    assert other.chances(other.tuner.targets[0], pictures(2)) is not None


def test_a_class_that_the_judge_has_no_output_for_is_named(bench: Bench) -> None:
    data, judge = bench.data(train=6), bench.file("always-2")
    with pytest.raises(ConfigError, match=r"judge_classifier has 5 outputs, .*\.classifier_classes names 7"):
        bench.judge(data, judge_classifier=judge, classifier_classes=(7,))
    with pytest.raises(ConfigError, match="classifier_classes has 2 outputs for 1 classes"):
        bench.judge(data, judge_classifier=judge, classifier_classes=(0, 1))
    with pytest.raises(ConfigError, match=r"no file at .*absent\.pt"):
        bench.judge(data, judge_classifier=bench.file("absent"))
