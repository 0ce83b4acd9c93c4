"""Trainers with penalties, and what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from training.nets import make, tiny

from graftgan.gans.base import Gan, build
from graftgan.training.state import read_state, write_state
from graftgan.training.trainer import Trainer
from graftgan.transfer.penalties import make_penalties


def trained(steps: int, penalties: tuple[str, ...] = (), **changes: Any) -> Trainer:
    """A trainer after some steps; each seeds the global generators, so finish one before the next."""
    trainer = make(penalties=penalties, **changes)
    trainer.add_penalties(make_penalties(trainer.settings))
    trainer.seed_noise()
    for _ in range(steps):
        trainer.step()
    return trainer


def through_disk(trainer: Trainer, folder: Path) -> dict[str, Any]:
    write_state(folder / "state", trainer.state_dict())
    return read_state(folder / "state")


def moved(gan: Gan, by: float = 0.01) -> Gan:
    """The networks with every weight moved by a different amount."""
    rng = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for network in (gan.generator, gan.discriminator):
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=rng) * by)
    return gan


def networks(**changes: Any) -> Gan:
    return build(tiny(**changes), 0)


def silent(name: str, value: Tensor) -> None:
    """Shows nothing."""


class Notes(dict[str, float]):
    """Keeps what a penalty shows."""

    def __call__(self, name: str, value: Tensor) -> None:
        assert not value.requires_grad
        self[name] = float(value)
