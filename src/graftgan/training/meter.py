"""Means of what a step has to show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from graftgan.world import averaged, shards


class Meter:
    """Means of named scalars since they were last taken."""

    def __init__(self) -> None:
        # Left on their device: reading each value would make the GPU wait several times a step.
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int | Tensor] = {}
        self._waiting: list[tuple[str, Tensor, bool]] = []

    def add(self, name: str, value: Tensor, finite_only: bool = False) -> None:
        """Add one value; that of a part of a batch waits for `settle`.

        Args:
            name: What it is.
            value: A tensor without dimensions.
            finite_only: Leave out a value that is no finite number, as gradients have where a step in fp16
                overflows and is skipped.
        """
        exact = value.detach().double()
        if shards() > 1:
            self._waiting.append((name, exact, finite_only))
        else:
            self._add(name, exact, finite_only)

    def settle(self) -> None:
        """Add the means over the workers of what waits, once a step, so that what is saved is whole."""
        if self._waiting:
            means = averaged(torch.stack([value for _, value, _ in self._waiting]))
            for (name, _, finite_only), mean in zip(self._waiting, means, strict=True):
                self._add(name, mean, finite_only)
            self._waiting = []

    def _add(self, name: str, exact: Tensor, finite_only: bool) -> None:
        count: int | Tensor = 1
        if finite_only:
            count = torch.isfinite(exact)
            exact = exact.where(count, 0.0)
        self._sums[name] = self._sums[name] + exact if name in self._sums else exact
        self._counts[name] = self._counts.get(name, 0) + count

    def take(self) -> dict[str, float]:
        """Return the means and start again; a mean of nothing is infinite."""
        counts = {name: int(count) for name, count in self._counts.items()}
        means = {n: float(total) / counts[n] if counts[n] else math.inf for n, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return sums and counts as plain values."""
        return {
            "sums": {name: float(v) for name, v in self._sums.items()},
            "counts": {n: int(v) for n, v in self._counts.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go back to saved sums and counts."""
        sums = state["sums"]
        self._sums = {n: torch.tensor(v, dtype=torch.float64, device=device) for n, v in sums.items()}
        self._counts = dict(state["counts"])
