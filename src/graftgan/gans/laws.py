"""Laws of latents that methods leave behind: mined by a small network, or cut off near the mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PREFIX = "prior."
LIMIT, LENGTH = "limit", "z_dim"
FIRST = "weight0"
SLOPE = 0.2


def mined(u: Tensor, layers: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return ``u + W_n a(... a(W_1 u + b_1)) + b_n`` for ``u`` [..., z_dim], a being leaky ReLU of slope 0.2.

    Args:
        u: Normal numbers.
        layers: Weight [out, in] and bias [out] of each layer, from the first.
    """
    x = u
    for index, (weight, bias) in enumerate(layers):
        x = F.linear(F.leaky_relu(x, SLOPE) if index else x, weight, bias)
    return u + x


@dataclass(frozen=True, eq=False)
class MinedNormal:
    """What a miner makes of N(0, I) (Wang et al., MineGAN, CVPR 2020), on the CPU.

    Attributes:
        layers: Weight and bias of each layer of the miner, see :func:`mined`.
        position: Always 0, as this law is not on its way to N(0, I).
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    position: float = 0.0

    def __post_init__(self) -> None:
        width = self.z_dim
        for weight, bias in self.layers:
            if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
                raise ValueError(
                    f"a layer of the miner has shapes {list(weight.shape)} and {list(bias.shape)}"
                )
            width = len(weight)
        if width != self.z_dim:
            raise ValueError(f"the miner makes {width} values of {self.z_dim}")

    @property
    def z_dim(self) -> int:
        """Length of a latent."""
        return int(self.layers[0][0].shape[-1])

    @property
    def note(self) -> str:
        """What to tell people about it."""
        return f"Its latents come from a miner of {len(self.layers)} layers."

    @property
    def recipe(self) -> str:
        """How to draw a latent without this package."""
        return (
            "draw u from N(0, I), then z = u + x after the last layer of x = weight0 @ u + bias0, "
            f"x = weight1 @ leaky_relu(x, {SLOPE}) + bias1, and so on"
        )

    @torch.no_grad()
    def draw_one(self, rng: torch.Generator | None = None) -> Tensor:
        """Draw one latent [z_dim] from a CPU generator; None is torch's global one."""
        return mined(torch.randn(self.z_dim, generator=rng, device="cpu"), self.layers)

    def draw(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        """Draw latents [n, z_dim] one after the other: a longer series begins with the same ones."""
        return torch.stack([self.draw_one(rng) for _ in range(n)]) if n else torch.empty(0, self.z_dim)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as tensors ``prior.weight0``, ``prior.bias0``, ``prior.weight1`` and so on."""
        found: dict[str, Tensor] = {}
        for index, (weight, bias) in enumerate(self.layers):
            found |= {f"{PREFIX}weight{index}": weight.clone(), f"{PREFIX}bias{index}": bias.clone()}
        return found

    def facts(self) -> dict[str, Any]:
        """Return what `model.json` says about it."""
        return {"kind": "mined", "layers": len(self.layers)}


@dataclass(frozen=True)
class TruncatedNormal:
    """N(0, I) cut off at ``-limit`` and ``limit`` in every coordinate (Noguchi & Harada 2019).

    Attributes:
        z_dim: Length of a latent.
        limit: Largest absolute value.
        position: Always 0, as this law is not on its way to N(0, I).
    """

    z_dim: int
    limit: float
    position: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.limit < math.inf or self.z_dim < 1:
            raise ValueError(f"its limit is {self.limit:g}, its length {self.z_dim}")

    @property
    def note(self) -> str:
        """What to tell people about it."""
        return f"Its latents come from N(0, I) cut off at {self.limit:g}."

    @property
    def recipe(self) -> str:
        """How to draw a latent without this package."""
        return "draw every coordinate from N(0, 1) until its absolute value is at most limit"

    def draw_one(self, rng: torch.Generator | None = None) -> Tensor:
        """Draw one latent [z_dim] by the inverse of its distribution function, in float64.

        Args:
            rng: CPU generator; None is torch's global one.
        """
        uniform = torch.rand(self.z_dim, generator=rng, dtype=torch.float64, device="cpu")
        inside = math.erf(self.limit / math.sqrt(2))
        drawn = math.sqrt(2) * torch.erfinv((2 * uniform - 1) * inside)
        return drawn.clamp(-self.limit, self.limit).float()

    def draw(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        """Draw latents [n, z_dim] one after the other: a longer series begins with the same ones."""
        return torch.stack([self.draw_one(rng) for _ in range(n)]) if n else torch.empty(0, self.z_dim)

    def tensors(self) -> dict[str, Tensor]:
        """Return ``prior.limit`` and ``prior.z_dim`` as tensors without dimensions."""
        limit = torch.tensor(self.limit, dtype=torch.float64)
        return {f"{PREFIX}{LIMIT}": limit, f"{PREFIX}{LENGTH}": torch.tensor(self.z_dim)}

    def facts(self) -> dict[str, Any]:
        """Return what `model.json` says about it."""
        return {"kind": "truncated_normal", "limit": self.limit}


def law_of(parts: Mapping[str, Tensor]) -> MinedNormal | TruncatedNormal | None:
    """Return the law that has these parts, without their prefix, or None if none of this file has.

    Raises:
        ValueError: The parts are not whole.
    """
    if bad := [name for name, tensor in parts.items() if not bool(torch.isfinite(tensor).all())]:
        raise ValueError(f"{', '.join(bad)} are not finite")
    if LIMIT in parts:
        if set(parts) != {LIMIT, LENGTH} or any(tensor.ndim for tensor in parts.values()):
            raise ValueError(f"its parts are {', '.join(sorted(parts))}")
        return TruncatedNormal(int(parts[LENGTH]), float(parts[LIMIT]))
    if FIRST not in parts:
        return None
    count = len(parts) // 2
    if set(parts) != {f"{name}{i}" for i in range(count) for name in ("weight", "bias")}:
        raise ValueError(f"its parts are {', '.join(sorted(parts))}")
    return MinedNormal(tuple((parts[f"weight{i}"], parts[f"bias{i}"]) for i in range(count)))
