"""What every reader asks of what it has converted: the networks of the spec take it, whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftgan.checkpoints.imported import refuse
from graftgan.checkpoints.store import NETWORKS, compare
from graftgan.errors import ConfigError
from graftgan.gans.base import build
from graftgan.gans.spec import GanSpec

PARALLEL_PREFIX = "module."


def check_whole(path: Path, spec: GanSpec, tensors: Mapping[str, Tensor], absent: tuple[str, ...]) -> None:
    """Make sure that tensors are those of the spec's networks, name by name and shape by shape.

    Networks are built without memory, so a spec of any size can be checked.

    Args:
        path: The file, for messages.
        spec: What the networks are made of.
        tensors: `generator_ema.…`, `generator.…`, `discriminator.…`.
        absent: Networks that the file does not hold.

    Raises:
        CheckpointError: A tensor is missing, left over or of another shape.
    """
    check_sizes(path, spec.to_dict(), len(tensors))
    try:
        with torch.device("meta"):
            gan = build(spec)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise refuse(path, f"no network can be built for {spec.to_dict()}: {error}") from None
    expected = {
        f"{network}.{name}": tensor
        for network in NETWORKS
        if network not in absent
        for name, tensor in getattr(gan, network).state_dict().items()
    }
    table = compare(dict(tensors), expected)
    if not table.whole:
        raise refuse(path, f"would load in part only: {table}")


def check_sizes(path: Path, sizes: Mapping[str, Any], count: int) -> None:
    """Refuse to build more layers than a file can hold.

    Raises:
        CheckpointError: A number of layers exceeds the number of tensors, `count`.
    """
    for name, value in sizes.items():
        if name.endswith("layers") and isinstance(value, int) and value > max(count, 8):
            raise refuse(path, f"claims {name} {value} with {count} tensors")


def spec_of(path: Path, kind: type[GanSpec], sizes: Mapping[str, Any]) -> Any:
    """Build the spec of a family from a file's sizes.

    Raises:
        CheckpointError: A size is not one that the family can have.
    """
    try:
        return kind.from_sizes(sizes)
    except (ConfigError, TypeError) as error:
        raise refuse(path, f"has sizes of no network: {getattr(error, 'message', error)}") from None


def unprefixed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state without the prefix that training in parallel gives to every name."""
    if state and all(name.startswith(PARALLEL_PREFIX) for name in state):
        return {name.removeprefix(PARALLEL_PREFIX): tensor for name, tensor in state.items()}
    return dict(state)


def is_state(value: object) -> bool:
    """Tell whether a value is a state dict: names to tensors."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(item, Tensor) for name, item in value.items())
    )


def as_float32(path: Path, name: str, tensor: Tensor) -> Tensor:
    """Return a weight in float32; half precision is widened exactly.

    Raises:
        CheckpointError: It is of another type.
    """
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise refuse(path, f"{name} is of type {tensor.dtype}")
    return tensor.detach().to(torch.float32).contiguous()
