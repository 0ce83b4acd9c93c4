"""Means of what a step has to show."""

from __future__ import annotations

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
        self._counts: dict[str, int] = {}
        self._waiting: list[tuple[str, Tensor]] = []

    def add(self, name: str, value: Tensor) -> None:
        """Add one value, a tensor without dimensions; that of a part of a batch waits for `settle`."""
        exact = value.detach().double()
        if shards() > 1:
            self._waiting.append((name, exact))
        else:
            self._add(name, exact)

    def settle(self) -> None:
        """Add the means over the workers of what waits, once a step, so that what is saved is whole."""
        if self._waiting:
            means = averaged(torch.stack([value for _, value in self._waiting]))
            for (name, _), mean in zip(self._waiting, means, strict=True):
                self._add(name, mean)
            self._waiting = []

    def _add(self, name: str, exact: Tensor) -> None:
        self._sums[name] = self._sums[name] + exact if name in self._sums else exact
        self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """Return the means and start again."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return sums and counts as plain values."""
        return {"sums": {name: float(v) for name, v in self._sums.items()}, "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go back to saved sums and counts."""
        sums = state["sums"]
        self._sums = {n: torch.tensor(v, dtype=torch.float64, device=device) for n, v in sums.items()}
        self._counts = dict(state["counts"])
