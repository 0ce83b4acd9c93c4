"""What a method, its penalties and the game refuse of networks, asked of copies before hours of work."""

from __future__ import annotations

import copy

import torch

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, build
from graftgan.gans.spec import GanSpec, family_module
from graftgan.training.styled import check_styled
from graftgan.transfer import check_family, method
from graftgan.transfer.base import Method
from graftgan.transfer.penalties import make_penalties


def rehearse(gan: Gan, chosen: Method, settings: Finetune) -> None:
    """Apply a method to copies of a source's networks, and start its penalties on them.

    Neither the networks nor any stream of random numbers are other than before when it is done.

    Args:
        gan: Networks of the source, which stay as they are.
        chosen: The method.
        settings: The recipe.

    Raises:
        ConfigError: Something of the recipe does not go with the networks.
        CheckpointError: A file that the method builds on does not fit them.
    """
    device = next(gan.generator.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        copied = copy.deepcopy(gan)
        check_styled(copied, settings)
        if settings.prior != "normal" and (fresh := copied.fresh_in("generator")):
            raise ConfigError(
                f"finetune.prior={settings.prior} looks for the images' latents in the source's G, but "
                f"data.resolution or data.channels made {len(fresh)} of its tensors new",
                "set finetune.prior=normal, or keep the source's size and channels",
            )
        chosen.apply(copied, settings)
        for penalty in make_penalties(settings):
            penalty.start(copied, settings)


def check_networks(
    settings: Finetune, spec: GanSpec, fresh: bool, source: str, size: tuple[int, int] | None = None
) -> None:
    """Refuse a method, or a penalty, that cannot work on networks of these sizes.

    They have no values: this takes neither memory nor the source's file.

    Args:
        settings: The recipe.
        spec: Sizes of the source's networks.
        fresh: Whether D is a fresh one, since the source was published without.
        source: Name of the source, for messages.
        size: Resolution and channels that the networks are fitted to; None are their own.

    Raises:
        ConfigError: Naming the keys.
        CheckpointError: Files of earlier tasks that the settings name do not fit.
    """
    check_family(settings.method, spec.family, source)
    with torch.device("meta"):
        gan = build(spec)
        gan.fresh = ("discriminator",) if fresh else ()
        if size not in (None, (spec.resolution, spec.channels)):
            gan, _ = family_module(spec.family).refit(gan, *size, seed=0)
    rehearse(gan, method(settings.method), settings)
