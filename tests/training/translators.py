"""Translators, pictures and recipes small enough that a step takes milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from graftgan.data.pairs import Part
from graftgan.gans.translation import TranslatorSpec, build_translator
from graftgan.lifelong_config import Translate
from graftgan.training.translation import TranslationTrainer, make_trainer
from graftgan.training.translators import make_translators

SIDE = 16


def settings(**changes: Any) -> Translate:
    plain = {"batch": 2, "ndf": 4, "precision": "fp32", "budget": {"kimg": 1}, "pool_images": 3}
    return Translate.model_validate({**plain, **changes})


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def part(inputs: int = 7, targets: int | None = None) -> Part:
    names = tuple(f"name-{i}" for i in range(inputs))
    return Part(pictures(inputs, 1), pictures(targets or inputs, 2), names, names)


def generator(seed: int = 0, dropout: bool = True, norm: str = "batch") -> nn.Module:
    """A translator with dropout and running statistics, so that everything a state can forget is there."""
    torch.manual_seed(seed)
    return build_translator(TranslatorSpec(kind="resnet_6", ngf=2, dropout=dropout, norm=norm))


def make(
    kind: Any, data: Part | None = None, net: nn.Module | None = None, **changes: Any
) -> TranslationTrainer:
    recipe = settings(**changes)
    back = generator(1) if kind == "unpaired" else None
    networks = make_translators(kind, net or generator(), recipe, SIDE, back)
    return make_trainer(kind, networks, data or part(), recipe, torch.device("cpu"))


def bits(trainer: TranslationTrainer) -> dict[str, torch.Tensor]:
    """All tensors of all networks."""
    return {
        f"{name}.{key}": tensor.detach().clone()
        for name, network in trainer.gan.named().items()
        for key, tensor in network.state_dict().items()
    }


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
