"""What the benchmarks share: turns, counted arithmetic, limits of the machine, and peaks of memory."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from graftgan.metrics.products import fast_products

CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16}


class Flops(TorchDispatchMode):
    """Counts the arithmetic of products and convolutions in a block, derivatives of any order included.

    Attributes:
        total: Additions and multiplications so far.
        moved_bytes: What all operations but views have read and written so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = self.moved_bytes = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation and count it."""
        given = kwargs or {}
        out = func(*args, **given)
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.total += float(count(*args, **given, out_val=out))
        if not all(told.alias_info and not told.alias_info.is_write for told in func._schema.returns):
            tensors = [value for value in tree_leaves((args, given, out)) if isinstance(value, Tensor)]
            self.moved_bytes += sum(float(value.nbytes) for value in tensors)
        return out


def settle(device: torch.device) -> None:
    """Wait until a device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(action: Callable[[], object]) -> float:
    """Return the seconds of a call by the clock."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def turns(
    calls: Mapping[str, Callable[[], object]], rounds: int, least_s: float = 0.0
) -> dict[str, list[float]]:
    """Return the seconds of each call, one a round, to and fro, after a round that is not counted.

    Args:
        calls: By name.
        rounds: Rounds that count.
        least_s: What takes less is called again until a turn has taken so long, and the mean counts: one call
            of milliseconds after seconds of another's tells of threads that wake up.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        order = list(calls.items())
        for name, call in order if number % 2 else reversed(order):
            seconds = [timed(call)]
            while number and sum(seconds) < least_s:
                seconds.append(timed(call))
            if number:
                found[name].append(statistics.fmean(seconds))
    return found


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the ratios of a turn."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


@contextmanager
def tf32_as_in_convolutions(device: torch.device) -> Iterator[None]:
    """Let products on a GPU round float32 where its convolutions do, or a share would be of another limit."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def gemm_peak(precision: str, side: int, device: torch.device = CPU, runs: int = 7) -> float:
    """Return the most arithmetic that a large matrix product does in a second, of several tries.

    In float64 on a CPU that is the better one of PyTorch's library and NumPy's.
    """
    a = torch.randn(side, side, device=device).to(DTYPES[precision])

    def product() -> None:
        a @ a
        settle(device)

    with fast_products(), tf32_as_in_convolutions(device):
        product()
        least_s = min(timed(product) for _ in range(runs))
    if precision == "fp64" and device.type == "cpu":
        b = np.asarray(a)
        least_s = min(least_s, *(timed(lambda: b @ b) for _ in range(runs)))
    return 2 * side**3 / least_s


def copy_bandwidth(mib: int = 512, runs: int = 7) -> float:
    """Return the bytes a second that a copy in memory reads and writes at most, of several tries."""
    there = torch.ones(mib << 18)
    here = torch.empty_like(there)
    here.copy_(there)
    return 2 * 4 * there.numel() / min(timed(lambda: here.copy_(there)) for _ in range(runs))


def extra_mib(action: Callable[[], object], device: torch.device = CPU) -> float:
    """Return how far the peak of memory rises above what is held before a call.

    On a CPU that is the memory of the process, on a GPU what PyTorch allocates there.
    """
    if device.type == "cuda":
        settle(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        action()
        settle(device)
        return (torch.cuda.max_memory_allocated(device) - held) / 2**20
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")
    action()
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    return (peak - held) / 2**20
