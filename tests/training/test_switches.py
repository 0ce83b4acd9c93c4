"""The record of how a run computes is read off its networks and optimisers, whatever trains it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transfer.families import small

from graftgan.training.switches import memory_format, switches
from graftgan.transfer import bsa
from graftgan.transfer.bsa import BatchStatisticsAdaptation
from graftgan.transfer.direct import Task
from training import translators
from training.nets import make, pictures, recipe


def test_the_switches_of_the_gan_trainer() -> None:
    threads, torch_version = str(torch.get_num_threads()), torch.__version__
    assert switches(make(precision="bf16")) == {
        "device": "cpu", "precision": "bf16", "memory_format": "channels_last", "adam": "fused",
        "compile": "no", "cuda_graphs": "no", "images": "host", "threads": threads,
        "isa": torch.backends.cpu.get_cpu_capability(), "torch": torch_version,
    }  # fmt: skip
    assert switches(make(), compiled=True)["compile"] == "yes"


@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_translators_are_told_as_they_are(kind: str) -> None:
    trainer = translators.make(kind)
    told = switches(trainer, compiled=True)
    assert (told["memory_format"], told["adam"], told["compile"]) == ("contiguous", "fused", "no")
    assert (told["precision"], told["images"]) == ("fp32", "host")
    trainer.gan.generator.to(memory_format=torch.channels_last)
    assert switches(trainer)["memory_format"] == "channels_last"


def test_a_gpu_is_told_with_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make()
    monkeypatch.setattr(trainer, "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    told = switches(trainer)
    assert told["gpu"] == "a GPU"
    assert {"cuda", "cudnn"} <= told.keys() and told["tf32"] in ("yes", "no")


def test_a_method_without_a_game_compiles_nothing() -> None:
    gan = small("resnet_gan")
    settings = recipe(method="bsa")
    bsa.METHOD.apply(gan, settings)
    trainer = BatchStatisticsAdaptation(Task(gan, pictures(), None, settings, torch.device("cpu")))
    told = switches(trainer, compiled=True)
    assert (told["compile"], told["images"]) == ("no", "host")


def test_layouts_that_cannot_be_told_apart_are_contiguous() -> None:
    net = nn.Conv2d(1, 4, 1).to(memory_format=torch.channels_last)
    assert memory_format(net) == memory_format(nn.Linear(2, 2)) == "contiguous"
    assert memory_format(nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)) == "channels_last"
