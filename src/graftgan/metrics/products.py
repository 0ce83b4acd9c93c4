"""Products of feature matrices, block by block, at the speed of the widest vectors of the processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch

from graftgan.metrics.intervals import Matrix

_SWITCH = "fp32_precision"
_WORST_ERROR = 1e-5


def product(a: Matrix, b: Matrix, rounded: bool = False) -> Matrix:
    """Return ``a @ b.T`` for ``[n, dim]`` and ``[m, dim]``, in the wider precision of the two.

    Args:
        a: The left factor.
        b: The right factor.
        rounded: Both are float32 and hold bfloat16 numbers, so nothing is lost by products of bfloat16, whose
            sums are float32.
    """
    precision = np.promote_types(a.dtype, b.dtype)
    left, right = (torch.from_numpy(np.ascontiguousarray(x, dtype=precision)) for x in (a, b))
    with fast_products(rounded):
        found: Matrix = (left @ right.T).numpy()
    return found


def blocks(n: int, step: int, start: int = 0) -> Iterator[slice]:
    """Return slices of ``step`` that cover ``start`` to ``n``."""
    return (slice(at, min(at + step, n)) for at in range(start, n, step))


def bfloat16_is_faster() -> bool:
    """Tell whether the processor has products of bfloat16, and the switch takes them."""
    owner = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    return hasattr(owner, _SWITCH) and not _keeps_accuracy()


@contextmanager
def fast_products(rounded: bool = False) -> Iterator[None]:
    """Give float32 products of the CPU to oneDNN, where it keeps their accuracy; undone at the end.

    MKL uses half the vector width on processors of other makers. The switch that hands products to oneDNN
    allows it bfloat16 as well, which some processors then use: one product is compared with float64 first.

    Args:
        rounded: The factors hold bfloat16 numbers, so bfloat16 is accurate.
    """
    owner = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = getattr(owner, _SWITCH, None)
    if before is None or not (rounded or _keeps_accuracy()):
        yield
        return
    setattr(owner, _SWITCH, "bf16")
    try:
        yield
    finally:
        setattr(owner, _SWITCH, before)


@cache
def _keeps_accuracy() -> bool:
    owner = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = getattr(owner, _SWITCH)
    a, b = (torch.randn(256, 256, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    exact = a.double() @ b.double()
    setattr(owner, _SWITCH, "bf16")
    try:
        error = (a @ b - exact).abs().max() / exact.abs().max()
    finally:
        setattr(owner, _SWITCH, before)
    return bool(error < _WORST_ERROR)
