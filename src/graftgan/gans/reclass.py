"""A trained GAN with another number of classes."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, build

NETWORKS = ("generator", "generator_ema", "discriminator")


def reclass(gan: Gan, classes: int) -> Gan:
    """Return the networks for another number of classes, each new one starting as the mean of the old ones.

    It works for every family: a tensor that must change its shape has one axis of the old number of classes.

    Args:
        gan: Trained networks with classes.
        classes: Wanted number of classes, 1 or more.

    Raises:
        ConfigError: The networks have no classes.
    """
    if not gan.spec.classes:
        raise ConfigError("the source has no classes", "leave the labels out, or choose another source")
    if gan.spec.classes == classes:
        return gan
    changed = build(replace(gan.spec, classes=classes), seed=0)
    for network in NETWORKS:
        old, wanted = getattr(gan, network).state_dict(), getattr(changed, network).state_dict()
        getattr(changed, network).load_state_dict(
            {name: _mean_class(old[name], tensor) for name, tensor in wanted.items()}
        )
    changed.fresh = gan.fresh
    return changed


def _mean_class(old: Tensor, wanted: Tensor) -> Tensor:
    """Return `old`, or its mean over the axis on which the shapes differ, repeated as `wanted` has it."""
    if old.shape == wanted.shape:
        return old
    (axis,) = (i for i, (a, b) in enumerate(zip(old.shape, wanted.shape, strict=True)) if a != b)
    return old.mean(dim=axis, keepdim=True).expand(wanted.shape)
