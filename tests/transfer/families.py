"""Small networks of every family, and what a run of a method left as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from training.nets import copies, make

from graftgan.gans.base import Gan, build
from graftgan.gans.spec import GanSpec
from graftgan.training.trainer import Trainer

SIZES: dict[str, dict[str, Any]] = {
    "stylegan2": {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 128, "channel_max": 8},
    "stylegan3": {"z_dim": 8, "w_dim": 8, "channel_base": 128, "channel_max": 8, "num_layers": 4},
    "biggan": {"z_dim": 20, "classes": 3, "g_ch": 4, "d_ch": 4, "shared_dim": 4, "g_attn": (), "d_attn": ()},
    "biggan_deep": {
        "z_dim": 8, "classes": 3, "channel_width": 8, "class_embed_dim": 4, "d_ch": 8, "d_attn": (),
        "layers": ((True, 16, 8), (True, 8, 4), (True, 4, 2), (False, 2, 1)), "attention_layer_position": 1,
    },
    "resnet_gan": {"variant": "resnet2", "z_dim": 8, "embed_dim": 2, "nfilter": 4, "nfilter_max": 8,
                   "nfilter_max_d": 8, "stages": 4},
}  # fmt: skip
RESOLVED = ("stylegan2", "stylegan3", "biggan", "biggan_deep", "resnet_gan")
"""Families whose layers belong to a resolution each."""
UNRESOLVED = ("dcgan",)
OTHERS: dict[str, dict[str, Any]] = {"dcgan": {"z_dim": 8, "g_ch": 4, "d_ch": 4}}


def small(family: str) -> Gan:
    sizes = {**SIZES, **OTHERS}[family]
    return build(GanSpec.from_dict({"family": family, "resolution": 32, **sizes}), seed=1)


def on_meta(family: str, **sizes: Any) -> Gan:
    """A network of full size that takes no memory."""
    with torch.device("meta"):
        return build(GanSpec.from_dict({"family": family, **sizes}))


def trainer(family: str, **settings: Any) -> Trainer:
    gan = small(family)
    run = make(
        gan=gan, labels=np.arange(10, dtype=np.int32) % 3, **{"batch": 2, "r1_interval": 1, **settings}
    )
    gan.generator.freeze_statistics()
    return run


def train(run: Trainer, steps: int = 3) -> Trainer:
    """Train from weights whose every tensor matters: noise and attention start with a factor of 0."""
    with torch.no_grad():
        for network in (run.gan.generator, run.gan.discriminator):
            for name, parameter in network.named_parameters():
                if name.endswith(("noise_strength", ".gamma")) and parameter.ndim < 2:
                    parameter.fill_(0.1)
    run.seed_noise()
    for _ in range(steps):
        run.step()
    return run


def moved(run: Trainer, steps: int = 3) -> tuple[set[str], set[str]]:
    """The names of parameters of G and of D that change in a few steps."""
    train(run, 0)
    networks = (run.gan.generator, run.gan.discriminator)
    before = [copies(network) for network in networks]
    train(run, steps)
    g, d = (
        {name for name, p in network.named_parameters() if not torch.equal(p, old[name])}
        for network, old in zip(networks, before, strict=True)
    )
    return g, d


def names(network: torch.nn.Module, *prefixes: str) -> set[str]:
    """The names of parameters with one of the prefixes."""
    return {name for name, _ in network.named_parameters() if name.startswith(prefixes)}


def count(network: torch.nn.Module, trainable: bool = True) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad is trainable)
