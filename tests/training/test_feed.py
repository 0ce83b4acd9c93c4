"""Batches are the same wherever the images lie, and no step makes the host wait for the device."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transfer.families import small

from graftgan.device import send
from graftgan.gans.base import build
from graftgan.gans.prior import Mixture
from graftgan.training import feed as module
from graftgan.training import trainer as of_trainer
from graftgan.training.augment import make_augment
from graftgan.training.feed import Feed, fits_on
from graftgan.training.trainer import Trainer
from graftgan.transfer import bsa, direct
from graftgan.transfer.direct import Task
from training.nets import EVERYTHING, pictures, recipe, tiny

CPU, META = torch.device("cpu"), torch.device("meta")


class Copies(TorchDispatchMode):
    """Counts copies from the host to a device, by whether the host waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[torch.Size] = []
        self.free: list[torch.Size] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if func is torch.ops.aten._to_copy.default and args[0].device == CPU and found.device != CPU:
            (self.free if kwargs.get("non_blocking") else self.waiting).append(args[0].shape)
        return found


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_batch_is_the_same_from_the_device_and_from_the_host(channels: int) -> None:
    images = pictures(7, channels)
    rows = np.array([5, 0, 5, 6])
    there, here = Feed(images, CPU, resident=True), Feed(images, CPU, resident=False)
    assert there.resident is not None and here.resident is None
    batch = here.batch(rows)
    assert torch.equal(there.batch(rows), batch)
    expected = images[rows].astype(np.float32).transpose(0, 3, 1, 2) / np.float32(127.5) - 1
    assert np.array_equal(batch.numpy(), expected)


def test_images_stay_on_a_host_without_a_gpu() -> None:
    assert Feed(pictures(), CPU).resident is None
    assert Feed(pictures(), CPU).kind == "host"
    assert Feed(pictures(), CPU, resident=True).kind == "resident"
    assert not fits_on(1, CPU)


def test_a_gpu_takes_what_leaves_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    assert fits_on(250, torch.device("cuda"))
    assert not fits_on(251, torch.device("cuda"))


@pytest.mark.parametrize("augment", ["none", "diffaugment", "ada"])
@pytest.mark.parametrize("resident", [True, False])
def test_no_step_reads_a_value_or_waits_for_a_copy(
    augment: str, resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device tensors have no values, so that whatever asks for one fails."""
    adam = torch.optim.Adam
    monkeypatch.setattr(
        of_trainer, "make_adam", lambda network, lr, _: adam(network.parameters(), lr=lr, foreach=True)
    )
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know this device
    monkeypatch.setattr(of_trainer, "Feed", lambda images, device: Feed(images, device, resident))
    settings = recipe(**{**EVERYTHING, "augment": augment, "r1_interval": 2, "path_length_interval": 2})
    labels = np.arange(10, dtype=np.int32) % 3
    trainer = Trainer(
        build(tiny(classes=3), 0), pictures(), labels, settings, make_augment(settings.augment), META
    )
    if augment == "diffaugment":
        # Latents of a law on their way to N(0, I), of which mixed styles take some.
        dim = trainer.gan.spec.z_dim
        once = torch.ones(1, dtype=torch.float64)
        trainer.gan.prior = Mixture(once, torch.zeros(1, dim), torch.eye(dim)[None], torch.ones(1, dim))
    if augment == "ada":
        trainer.augment.controller.p = 0.8  # type: ignore[attr-defined]
        # The controller's look at the logits, once in four batches, is the one value that is needed.
        monkeypatch.setattr(trainer.augment, "observe", lambda logits: None)
    trainer.step()  # what is made once, such as the filters of ADA, may be waited for
    with Copies() as copies:
        for _ in range(3):
            trainer.step()
    assert trainer.images_seen == 16
    assert copies.free, "there is nothing to tell if nothing travels"
    assert not copies.waiting


@pytest.mark.parametrize("resident", [True, False])
def test_no_step_without_a_game_waits_for_a_copy(resident: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "Feed", lambda images, device: Feed(images, device, resident))
    gan, settings = small("resnet_gan"), recipe(method="bsa")
    bsa.METHOD.apply(gan, settings)
    trainer = bsa.BatchStatisticsAdaptation(Task(gan, pictures(), None, settings, META))
    with Copies() as copies:
        for _ in range(3):
            trainer.step()
    assert copies.free and not copies.waiting


def test_reading_a_value_would_be_noticed() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        float(torch.zeros((), device=META))
    with Copies() as copies:
        torch.zeros(2).to(META)
        send(torch.zeros(3), META)
    assert copies.waiting == [torch.Size([2])]
    assert copies.free == [torch.Size([3])]


@pytest.mark.gpu
def test_a_gpu_holds_the_images_and_gives_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    images, rows, cuda = pictures(7), np.array([5, 0, 5]), torch.device("cuda")
    held = Feed(images, cuda)
    assert held.resident is not None and held.kind == "resident"
    monkeypatch.setattr(module, "RESIDENT_SHARE", 0.0)
    sent = Feed(images, cuda)
    assert sent.resident is None and sent.kind == "pinned"
    expected = Feed(images, CPU).batch(rows)
    for feed in (held, sent):
        assert torch.allclose(feed.batch(rows).cpu(), expected)


@pytest.mark.gpu
def test_batches_that_travel_beside_the_work_arrive_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESIDENT_SHARE", 0.0)
    images, cuda = pictures(64), torch.device("cuda")
    sent, here = Feed(images, cuda), Feed(images, CPU)
    rows = [np.random.default_rng(n).integers(0, 64, 32) for n in range(50)]
    work = torch.randn(2048, 2048, device=cuda)
    found = []
    for some in rows:
        work = torch.tanh(work @ work)
        found.append(sent.batch(some).sum((1, 2, 3)))
    for some, sums in zip(rows, found, strict=True):
        torch.testing.assert_close(sums.cpu(), here.batch(some).sum((1, 2, 3)), rtol=1e-4, atol=1e-2)
