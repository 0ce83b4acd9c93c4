from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training.nets import copies, equal, pictures, recipe

from graftgan.context import Context
from graftgan.errors import ConfigError, GraftganError
from graftgan.gans.base import Generator
from graftgan.training.loop import Loop, Measurement
from graftgan.training.state import StateStore
from graftgan.transfer.direct import DirectTrainer, Task, refuse_gan_settings
from graftgan.transfer.penalties import make_penalties
from transfer.families import small

BIAS = "output_layer.2.bias"


class Brighten(DirectTrainer):
    """Moves the bias of G's last layer until its images are as bright as the real ones, with a noisy step."""

    def __init__(self, task: Task, **groups: Any) -> None:
        task.gan.generator.requires_grad_(False).freeze_statistics()
        self.bias: nn.Parameter = task.gan.generator.get_parameter(BIAS)
        self.bias.requires_grad_(True)
        super().__init__(task, [{"params": [self.bias], "lr": 0.01, **groups}])

    def loss(self) -> Tensor:
        reals, rows = self.reals()
        labels = torch.zeros(len(rows), dtype=torch.long)
        fakes = self.gan.generator(self.latents(len(rows)), labels)
        return (fakes.mean() - reals.mean()).square() + 1e-3 * torch.randn(()) * self.bias.sum()


class KeepLast:
    def measure(self, generator: Generator) -> Measurement:
        return Measurement(0.0, 0.0, 0.0, torch.zeros(1))

    def improves(self, new: Measurement, best: Measurement) -> bool:
        return True


def brighten(**settings: Any) -> Brighten:
    groups = {"weight_decay": settings.pop("weight_decay", 0.0)}
    task = Task(small("biggan"), pictures(10), None, recipe(**settings), torch.device("cpu"))
    return Brighten(task, **groups)


def state(run: Brighten) -> dict[str, Tensor]:
    return {**copies(run.gan.generator), **{f"ema.{n}": t for n, t in copies(run.gan.generator_ema).items()}}


def test_only_what_is_given_to_adam_moves() -> None:
    run = brighten()
    before, d = copies(run.gan.generator), copies(run.gan.discriminator)
    for _ in range(3):
        run.step()
    after = copies(run.gan.generator)
    assert {n for n in before if not torch.equal(before[n], after[n]) and not n.endswith(("u0", "sv0"))} == {
        BIAS
    }
    assert equal(d, copies(run.gan.discriminator))
    assert run.images_seen == 3 * run.settings.batch and run.finite()
    assert {"loss_g", "grad_norm_g"} <= run.meter.take().keys()


def test_steps_go_on_exactly_from_a_saved_state() -> None:
    whole = brighten()
    for _ in range(4):
        whole.step()
    first = brighten()
    first.step()
    first.step()
    saved = copy.deepcopy(first.state_dict())
    again = brighten()
    again.load_state_dict(saved)
    again.step()
    again.step()
    assert equal(state(again), state(whole))


def test_the_loop_runs_it_saves_it_and_goes_on(tmp_path: Path) -> None:
    def run(folder: Path, kimg: float) -> Brighten:
        trainer = brighten(budget={"kimg": kimg}, evaluate_every_kimg=0.008, lr_cooldown=0.0)
        ctx = Context(state=folder, cache=folder, log=logging.getLogger("test"))
        Loop("run", trainer, KeepLast(), StateStore(folder / "states"), ctx, 60).run()
        return trainer

    run(tmp_path / "cut", 0.016)
    assert equal(state(run(tmp_path / "cut", 0.032)), state(run(tmp_path / "whole", 0.032)))


def test_rates_fall_in_the_cooldown_and_after_a_divergence() -> None:
    run = brighten(lr_cooldown=0.5)
    run.set_rate(0.25)
    assert run.adam.param_groups[0]["lr"] == pytest.approx(0.01)
    run.slow_down(0.5)
    run.set_rate(0.75)
    assert run.adam.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5 * 0.5)


def test_the_gradient_is_cut_to_its_limit() -> None:
    run = brighten(gradient_clip=1e-3)
    run.step()
    assert float(torch.as_tensor(run.bias.grad).norm()) <= 1e-3 * 1.001


def test_a_state_of_the_game_is_refused() -> None:
    with pytest.raises(GraftganError, match="not one of"):
        brighten().load_state_dict({"generator": {}, "discriminator": {}})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("penalties", ("bsd",)), ("path_length_weight", 1.0), ("style_mixing", 0.5),
        ("augment", "diffaugment"), ("fresh_discriminator", True),
    ],
)  # fmt: skip
def test_settings_of_the_game_are_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"finetune.{key}.*finetune.method"):
        refuse_gan_settings(recipe(**{key: value}))


def test_defaults_are_no_error_and_penalties_are() -> None:
    refuse_gan_settings(recipe(augment="ada"))
    run = brighten()
    run.add_penalties([])
    with pytest.raises(ConfigError, match=r"finetune\.penalties"):
        run.add_penalties(make_penalties(recipe(penalties=("l2_sp",))))


def test_reals_are_the_images_of_the_shared_order() -> None:
    run = brighten()
    reals, rows = run.reals()
    expected = run.images[rows].astype(np.float32) / 127.5 - 1
    assert reals.permute(0, 2, 3, 1).numpy() == pytest.approx(expected)
