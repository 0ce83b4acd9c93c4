"""What tasks cost: numbers stored for each, against a whole generator a task (Piggyback GAN, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graftgan.bank.manifest import Layer
from graftgan.bank.store import Bank


@dataclass(frozen=True)
class Cost:
    """Numbers that one task adds to a bank.

    Attributes:
        name: The task.
        index: Its number, counted from 1.
        free: Values of its own filters, U; all filters for the first task.
        mix: Values of its mixtures, A.
        full: Values of the filters of one whole generator.
        total: `free + mix` of this task and all before it.
    """

    name: str
    index: int
    free: int
    mix: int
    full: int
    total: int

    @property
    def added(self) -> int:
        """Values that the task adds, biases and norms aside."""
        return self.free + self.mix

    @property
    def ratio(self) -> float:
        """What the task adds, relative to a whole generator."""
        return self.added / self.full

    @property
    def cumulative_ratio(self) -> float:
        """What the bank holds up to the task, in whole generators; one a task would be `index`."""
        return self.total / self.full


def full_size(layers: Sequence[Layer]) -> int:
    """Return the values of all filters of one whole generator."""
    return sum(layer.d * layer.co for layer in layers)


def added(layers: Sequence[Layer], index: int) -> tuple[int, int]:
    """Return the values of U and of A that task number `index` adds.

    The first adds all filters, d * co a layer. Task t >= 2 adds d * n_u and, with n_p = co - n_u,
    (co + (t - 2) * n_u) * n_p.
    """
    if index == 1:
        return full_size(layers), 0
    free = sum(layer.d * layer.n_u for layer in layers)
    mix = sum((layer.co + (index - 2) * layer.n_u) * (layer.co - layer.n_u) for layer in layers)
    return free, mix


def costs(bank: Bank) -> tuple[Cost, ...]:
    """Return the cost of each task of a bank, in their order."""
    found: list[Cost] = []
    full, total = full_size(bank.layers), 0
    for task in bank.tasks:
        free, mix = added(bank.layers, task.index)
        total += free + mix
        found.append(Cost(task.name, task.index, free, mix, full, total))
    return tuple(found)
