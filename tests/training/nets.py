"""Networks, pictures and recipes small enough that a training step takes milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from graftgan.config import Finetune
from graftgan.gans.base import Gan, build
from graftgan.gans.stylegan2 import StyleGAN2Spec
from graftgan.training.ada_controller import AdaControllerConfig
from graftgan.training.augment import make_augment
from graftgan.training.trainer import Trainer
from graftgan.transfer import method

torch.set_num_threads(1)
BATCH = 4


def tiny(**changes: Any) -> StyleGAN2Spec:
    sizes = {"resolution": 32, "z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 128}
    return StyleGAN2Spec(**{**sizes, "channel_max": 8, "label_layers": 1, **changes})


def pictures(count: int = 10, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, channels), dtype=np.uint8)


def recipe(**changes: Any) -> Finetune:
    plain = {"batch": BATCH, "r1_interval": 4, "augment": "none", "precision": "fp32", "budget": {"kimg": 1}}
    return Finetune.model_validate({**plain, **changes})


# Everything that has a state or draws random numbers, at a pace that moves ADA's p within a few steps.
EVERYTHING: dict[str, Any] = {
    "augment": "ada", "ada_speed_kimg": 0.2, "style_mixing": 0.9, "path_length_weight": 2.0,
    "path_length_interval": 3, "gradient_clip": 5.0, "flip": True,
}  # fmt: skip


def make(
    spec: StyleGAN2Spec | None = None,
    seed: int = 0,
    labels: np.ndarray | None = None,
    images: np.ndarray | None = None,
    gan: Gan | None = None,
    from_scratch: bool = False,
    compiled: bool = False,
    **changes: Any,
) -> Trainer:
    settings = recipe(**changes)
    gan = gan or build(spec or tiny(), seed)
    method(settings.method).apply(gan, settings)
    ada = AdaControllerConfig(target=settings.ada_target, speed_kimg=settings.ada_speed_kimg)
    data = pictures(channels=gan.spec.channels) if images is None else images
    augment = make_augment(settings.augment, ada=ada)
    device = torch.device("cpu")
    return Trainer(gan, data, labels, settings, augment, device, from_scratch, compiled)


def copies(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two states have the same names and bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    """All weights of a trainer, buffers and averages included."""
    gan = trainer.gan
    parts = {"g": gan.generator, "d": gan.discriminator, "ema": gan.generator_ema}
    return {f"{k}.{name}": tensor for k, net in parts.items() for name, tensor in copies(net).items()}
