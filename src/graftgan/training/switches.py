"""How a run computes, read off what computes it; `docs/performance.md` has what was measured."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graftgan.device import precision_name
from graftgan.training.trainer import Trainer


def switches(trainer: Any, compiled: bool = False) -> dict[str, str]:
    """Return the choices of a run, for its record; none of them is a result.

    Args:
        trainer: What does the steps: a `training.stepper.Stepper`, or a trainer of translators.
        compiled: Whether `runtime.compile` is set; only the game between G and D compiles anything.

    Returns:
        Words by choice: device, number format, layout, Adam, compilation, how images come, and the threads,
        the vector instructions and the torch that the bits depend on; on a GPU its name and its libraries.
    """
    feed = getattr(trainer, "feed", None)
    adam = trainer.adam_g if hasattr(trainer, "adam_g") else trainer.adam
    return {
        "device": str(trainer.device),
        "precision": precision_name(trainer.dtype),
        "memory_format": memory_format(trainer.gan.generator),
        "adam": "fused" if adam.param_groups[0].get("fused") else "plain",
        "compile": "yes" if compiled and isinstance(trainer, Trainer) else "no",
        "cuda_graphs": "no",
        "images": feed.kind if feed is not None else "host",
        "threads": str(torch.get_num_threads()),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        **_gpu(trainer.device),
    }


def _gpu(device: torch.device) -> dict[str, str]:
    if device.type != "cuda":
        return {}
    return {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "tf32": "yes" if torch.backends.cudnn.allow_tf32 else "no",
    }


def memory_format(network: nn.Module) -> str:
    """Return the layout of a network's filters; where it makes no difference they count as contiguous."""
    filters = (p for p in network.parameters() if p.ndim == 4 and not p.is_contiguous())
    found = any(p.is_contiguous(memory_format=torch.channels_last) for p in filters)
    return "channels_last" if found else "contiguous"
