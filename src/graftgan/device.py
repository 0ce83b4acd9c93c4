"""Which device and which number format the networks compute in."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from graftgan.errors import ConfigError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """Return the device that `runtime.device` names; `auto` is CUDA where there is one.

    On CUDA float32 has its 24 bits from then on, in the whole process: convolutions would round their inputs
    to the 11 bits of TF32, in a run that is recorded as fp32. Who wants speed has bf16.

    Raises:
        ConfigError: If the device is unknown or absent.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError(f"runtime.device: {name!r} is not a device", "use auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda":
        if (device.index or 0) >= found:
            raise ConfigError(f"runtime.device: {name} is not on this machine", "use auto or cpu")
        torch.backends.cudnn.allow_tf32 = False
    return device


def send(values: Tensor, device: torch.device) -> Tensor:
    """Return values of the host on a device, without waiting for what the device still has to do.

    CUDA lets the host go on at once only if the values lie in pinned memory.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def computes_bf16(device: torch.device) -> bool:
    """Tell whether the device has bfloat16 arithmetic; an emulation is slower than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the autocast type that `finetune.precision` names.

    Raises:
        ConfigError: If fp16 is asked for on a CPU.
    """
    if precision == "auto":
        return torch.bfloat16 if computes_bf16(device) else torch.float32
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("finetune.precision: fp16 needs a GPU", "use auto, bf16 or fp32")
    return PRECISIONS[precision]


def precision_name(dtype: torch.dtype) -> str:
    """Return the configuration word for a dtype."""
    return next(name for name, value in PRECISIONS.items() if value is dtype)
