"""MineGAN (Wang et al., CVPR 2020, arXiv:1912.05270): a small network finds what in G is like the target.

The miner maps normal numbers to latents and plays the game in G's place, against a D that is trained; later G
moves as well. Here it adds to its input, and starts at 0: the first step is the source's. What it makes of
N(0, I) becomes the model's prior.
"""

from __future__ import annotations

import torch

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan
from graftgan.gans.miner import Miner, attach, is_mined
from graftgan.transfer.base import Method, every_parameter


def check(settings: Finetune) -> None:
    """Refuse a second law of latents, and a share of a budget that is not counted in images.

    Raises:
        ConfigError: Naming both keys.
    """
    if settings.prior != "normal":
        raise ConfigError(
            f"finetune.method=minegan finds a prior of its own beside finetune.prior={settings.prior}",
            "set finetune.prior=normal, or choose another finetune.method",
        )
    if settings.minegan.joint_from and settings.budget.kimg is None:
        raise ConfigError(
            f"finetune.minegan.joint_from={settings.minegan.joint_from:g} is a share of "
            "finetune.budget.kimg, which is not given",
            "set finetune.budget.kimg, or finetune.minegan.joint_from to null or 0",
        )
    if settings.minegan.joint_from == 1 and settings.budget.kimg is not None:
        raise ConfigError(
            f"finetune.minegan.joint_from=1 with finetune.budget.kimg={settings.budget.kimg:g}: the run ends "
            "where G would join",
            "set finetune.minegan.joint_from below 1, or to null, which leaves G as it is",
        )


def prepare(gan: Gan, settings: Finetune) -> None:
    """Put the same miner in front of G and of its average."""
    sizes = settings.minegan
    for generator in (gan.generator, gan.generator_ema):
        rng = torch.Generator().manual_seed(settings.seed)
        z_dim = gan.spec.z_dim
        attach(generator, Miner(z_dim, sizes.layers, sizes.width or z_dim, rng))


def moving(gan: Gan, settings: Finetune) -> set[str]:
    """Return the names of G's parameters that move at any time: the miner's, and all if G joins it."""
    names = every_parameter(gan.generator)
    return names if settings.minegan.joint_from is not None else {n for n in names if is_mined(n)}


def begins(settings: Finetune) -> tuple[str, float] | None:
    """Return the key of the share, and the images after which G joins; None where it does not wait."""
    share, kimg = settings.minegan.joint_from, settings.budget.kimg
    return None if not share or kimg is None else ("minegan.joint_from", share * kimg * 1000)


def resting(gan: Gan, settings: Finetune, images_seen: int) -> set[str]:
    """Return the names of G's own parameters until the share `joint_from` of the budget is spent."""
    start = begins(settings)
    if start is None or images_seen >= start[1]:
        return set()
    return {f"generator.{name}" for name in every_parameter(gan.generator) if not is_mined(name)}


METHOD = Method(
    name="minegan",
    help="A small network in front of a fixed G moves, later G too, and all of D (Wang et al. 2020).",
    trainable_generator=moving,
    trainable_discriminator=lambda gan, settings: every_parameter(gan.discriminator),
    prepare=prepare,
    resting=resting,
    begins=begins,
    check=check,
)
