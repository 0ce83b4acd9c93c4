"""A trained GAN with another number of classes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, build
from graftgan.gans.spec import GanSpec

NETWORKS = ("generator", "generator_ema", "discriminator")


def reclass(gan: Gan, classes: int, mixture: Tensor | None = None) -> Gan:
    """Return the networks for another number of classes, each new one a mixture of the old ones.

    It works for every family: a tensor that must change its shape has one axis of the old number of classes.

    Args:
        gan: Trained networks with classes.
        classes: Wanted number of classes, 1 or more.
        mixture: Share of each old class in each new one, [classes, old]; None is the mean of all.

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
            {name: _mixed_class(old[name], tensor, mixture) for name, tensor in wanted.items()}
        )
    changed.fresh = gan.fresh
    return changed


def class_axes(spec: GanSpec) -> dict[str, dict[str, int]]:
    """Return, for each network, which tensors hold one part a class, and along which axis; empty without.

    Networks are built without memory.
    """
    if not spec.classes:
        return {network: {} for network in NETWORKS}
    with torch.device("meta"):
        few, more = build(spec), build(replace(spec, classes=spec.classes + 1))
    return {network: _axes(getattr(few, network), getattr(more, network)) for network in NETWORKS}


def _axes(few: nn.Module, more: nn.Module) -> dict[str, int]:
    wider = more.state_dict()
    return {
        name: next(i for i, (a, b) in enumerate(zip(t.shape, wider[name].shape, strict=True)) if a != b)
        for name, t in few.state_dict().items()
        if t.shape != wider[name].shape
    }


def _mixed_class(old: Tensor, wanted: Tensor, mixture: Tensor | None) -> Tensor:
    """Return `old`, or its mean or mixture over the axis on which the shapes differ, shaped as `wanted`."""
    if old.shape == wanted.shape:
        return old
    (axis,) = (i for i, (a, b) in enumerate(zip(old.shape, wanted.shape, strict=True)) if a != b)
    if mixture is None:
        return old.mean(dim=axis, keepdim=True).expand(wanted.shape)
    mixed: Tensor = torch.tensordot(mixture.to(old.device).double(), old.double(), dims=([1], [axis]))
    return mixed.movedim(0, axis).to(old.dtype)
