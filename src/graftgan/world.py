"""The processes that train or measure together, this one's place among them, and how a batch is cut.

Workers go through the same code in step. All hold the same weights, the same state and the same random
generators; each draws the random numbers of the whole batch and keeps those of its own images. What a run
does is thus a function of its seed and the images seen, whatever the number of workers.

In a :func:`sharding` block tensors hold one worker's part of a batch. Everything here that would talk to
other workers does nothing without them, so that a run of one process pays nothing and computes what it
always did.

The loss of a batch is the mean of the workers' losses. A gathered tensor hands to each worker the sum of what
all of them derive from its rows; the mean of the workers' gradients is then the gradient of the loss, however
much a worker's loss owes to the others' images, in the first derivative and in the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """The workers of a run.

    Attributes:
        rank: Number of this worker; worker 0 alone writes files and tracks.
        size: Number of workers.
        fabric: What moves tensors between them (`lightning_fabric.Fabric`), None for a single worker.
        control: Process group on CPUs for everything but tensors of the training, None for the default one.
    """

    rank: int = 0
    size: int = 1
    fabric: Any = None
    control: Any = None


class _Now:
    world = World()
    sharding = False


def world() -> World:
    """Return the workers that this process belongs to; by default it is alone."""
    return _Now.world


def is_first() -> bool:
    """Tell whether this worker writes files and tracks."""
    return _Now.world.rank == 0


@contextmanager
def belonging(to: World) -> Iterator[World]:
    """Make this process a worker of `to` during the block."""
    before, _Now.world = _Now.world, to
    try:
        yield to
    finally:
        _Now.world = before


@contextmanager
def sharding(on: bool = True) -> Iterator[None]:
    """Let batches of the block be cut over the workers; with `on` False, each computes the whole."""
    before, _Now.sharding = _Now.sharding, on and _Now.world.size > 1
    try:
        yield
    finally:
        _Now.sharding = before


def shards() -> int:
    """Return into how many parts a batch is cut here: 1 outside :func:`sharding` blocks."""
    return _Now.world.size if _Now.sharding else 1


def own(values: Tensor, parts: int = 1) -> Tensor:
    """Return this worker's rows of a batch [N, ...].

    Args:
        values: Rows of the whole batch.
        parts: Equal parts of the batch, one behind the other, each of which is cut by itself.
    """
    if shards() == 1:
        return values
    cut = values.reshape(parts, shards(), -1, *values.shape[1:])
    return cut[:, _Now.world.rank].flatten(0, 1)


def own_rows(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return this worker's part of row numbers [N]."""
    return rows if shards() == 1 else rows.reshape(shards(), -1)[_Now.world.rank]


def gathered(values: Tensor, parts: int = 1) -> Tensor:
    """Return the rows of the whole batch from this worker's [n, ...], differentiable twice.

    Args:
        values: This worker's rows; as many as every other's.
        parts: As in :func:`own`, which is the inverse.
    """
    if shards() == 1:
        return values
    rows = cast(Tensor, cast(Any, _Gather).apply(values))
    return rows.reshape(len(rows), parts, -1, *values.shape[1:]).transpose(0, 1).flatten(0, 2)


class _Gather(torch.autograd.Function):
    """Rows of all workers [W, n, ...]; each gets the sum of what all derive from its own."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        whole = values.contiguous()
        rows = [torch.empty_like(whole) for _ in range(_Now.world.size)]
        dist.all_gather(rows, whole)
        return torch.stack(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return cast(Tensor, cast(Any, _SumOfOwn).apply(gradients[0]))


class _SumOfOwn(torch.autograd.Function):
    """The transpose of :class:`_Gather`, so that a gradient can be derived again."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[_Now.world.rank].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return cast(Tensor, cast(Any, _Gather).apply(gradients[0]))


def averaged(values: Tensor) -> Tensor:
    """Return the mean over workers of a tensor that is a mean over this worker's images; differentiable."""
    return values if shards() == 1 else gathered(values[None]).mean(dim=0)


def normal(shape: Sequence[int], rng: torch.Generator | None, device: torch.device | str) -> Tensor:
    """Draw standard normal numbers for this worker's rows, those of all others left out.

    Args:
        shape: Of this worker's part, rows first.
        rng: Generator; None is torch's global one of the device.
        device: Where to draw.
    """
    whole = (shape[0] * shards(), *shape[1:])
    return own(torch.randn(whole, generator=rng, device=device))


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their means over the workers, through one flat tensor for each type of number."""
    if shards() == 1:
        return
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_type.values():
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        flat = _Now.world.fabric.all_reduce(flat, reduce_op="mean")
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, flat.split(sizes), strict=True):
            gradient.copy_(mean.view(gradient.shape))


@torch.no_grad()
def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors, in place, with those of worker 0."""
    if _Now.world.size == 1:
        return
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    for group in by_type.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        dist.broadcast(flat, src=0, group=_Now.world.control if flat.device.type == "cpu" else None)
        for tensor, part in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def from_first(make: Callable[[], Value]) -> Value:
    """Return what `make` gives on worker 0; the others do not call it."""
    if _Now.world.size == 1:
        return make()
    box: list[Any] = [make() if is_first() else None]
    dist.broadcast_object_list(box, src=0, group=_Now.world.control)
    return cast(Value, box[0])


def collected(value: Value) -> list[Value]:
    """Return the values of all workers, by their numbers."""
    if _Now.world.size == 1:
        return [value]
    values: list[Any] = [None] * _Now.world.size
    dist.all_gather_object(values, value, group=_Now.world.control)
    return values


def agreed(stop: bool, elapsed_s: float) -> tuple[bool, float]:
    """Return whether any worker is to stop, and the time that worker 0 has spent."""
    if _Now.world.size == 1:
        return stop, elapsed_s
    here = torch.tensor([float(stop), elapsed_s if is_first() else 0.0], dtype=torch.float64)
    dist.all_reduce(here, group=_Now.world.control)
    return bool(here[0] > 0), float(here[1])


def meet() -> None:
    """Wait until all workers are here."""
    if _Now.world.size > 1:
        dist.barrier(group=_Now.world.control)


def dealt(n: int, block: int, share: tuple[int, int]) -> NDArray[np.intp]:
    """Return which of `n` rows a share has when blocks of rows are dealt out in turns.

    Blocks do not depend on the number of shares, so that what is computed a block at a time has the same bits
    for any number.

    Args:
        n: Number of rows.
        block: Rows of a block; the last may be shorter.
        share: Number of the share, and of all shares.
    """
    return np.flatnonzero(np.arange(n) // block % share[1] == share[0])


def joined_rows(shares: Sequence[NDArray[Any]], block: int) -> NDArray[Any]:
    """Return the rows [n, ...] of all shares in their order; the inverse of :func:`dealt`."""
    whole = np.concatenate(shares)
    places = [dealt(len(whole), block, (which, len(shares))) for which in range(len(shares))]
    ordered = np.empty_like(whole)
    ordered[np.concatenate(places)] = whole
    return ordered
