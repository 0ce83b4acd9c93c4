"""The class embeddings of a conditional generator, whatever its family calls them: one vector a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.func import functional_call

from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, Generator, build
from graftgan.gans.reclass import NETWORKS, class_axes


class Place(NamedTuple):
    """Where a family keeps its vectors: the parameter's name, and the axis that runs over classes."""

    name: str
    axis: int


PLACES: Mapping[str, Place] = {
    "biggan": Place("shared.weight", 0),
    "biggan_deep": Place("embeddings.weight", 1),
    "resnet_gan": Place("embedding.weight", 0),
}


def place(generator: Generator) -> Place:
    """Return where the vectors are.

    Raises:
        ConfigError: The generator has no classes, or none of the families that embed each by one vector.
    """
    spec = generator.spec
    if not spec.classes:
        raise ConfigError(
            f"the source, of family={spec.family}, has no classes, so it has no class embedding",
            "set rank.catalogue=zoo/classes.yaml, or name another conditional source in rank.choose",
        )
    if spec.family not in PLACES or PLACES[spec.family].name not in dict(generator.named_parameters()):
        raise ConfigError(
            f"the source, of family={spec.family}, has no table with one vector a class",
            f"choose a source of family {', '.join(PLACES)}; a BigGAN needs shared_dim above 0",
        )
    return PLACES[spec.family]


def class_table(generator: Generator) -> Tensor:
    """Return a copy of the vectors, [classes, D]."""
    name, axis = place(generator)
    table = generator.get_parameter(name).detach().clone()
    return table if axis == 0 else table.t().contiguous()


@torch.no_grad()
def write_row(generator: Generator, row: int, vector: Tensor) -> None:
    """Put a vector [D] into the table, in place."""
    name, axis = place(generator)
    generator.get_parameter(name).select(axis, row).copy_(vector)


def generate(generator: Generator, z: Tensor, vectors: Tensor) -> Tensor:
    """Return the images [N, C, R, R] of latents [N, z_dim] with class vectors [N, D], differentiable in both.

    The generator's own table is not read, and nothing of it changes.
    """
    name, axis = place(generator)
    own = vectors if axis == 0 else vectors.t()
    ids = torch.arange(len(z), device=z.device)
    return cast(Tensor, functional_call(generator, {name: own}, (z, ids, 1.0, "const")))


def take_classes(gan: Gan, rows: Sequence[int]) -> Gan:
    """Return the networks with only some of their classes, in the order given; a class may come twice.

    Raises:
        ConfigError: A class is not one of the source's.
    """
    classes = gan.spec.classes
    if wrong := [row for row in rows if not 0 <= row < classes]:
        raise ConfigError(f"class {wrong[0]} is not one of the source's", f"use 0 to {classes - 1}")
    fewer = build(replace(gan.spec, classes=len(rows)), seed=0)
    axes, index = class_axes(gan.spec), torch.tensor(list(rows))
    for network in NETWORKS:
        state = getattr(gan, network).state_dict()
        kept = {
            name: tensor.index_select(axes[network][name], index.to(tensor.device))
            if name in axes[network]
            else tensor
            for name, tensor in state.items()
        }
        getattr(fewer, network).load_state_dict(kept)
    fewer.fresh = gan.fresh
    return fewer
