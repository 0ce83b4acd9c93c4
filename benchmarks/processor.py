"""Which processor this is, for the head of a table: what one gains, another may not."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
TELLING = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Instructions that libraries choose their kernels by."""


def processor(cpuinfo: Path = CPUINFO) -> str:
    """Return number, name and telling instructions; the architecture alone where the kernel tells no more."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        lines = []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in facts:
        return f"{os.cpu_count()} x {platform.machine()}"
    flags = facts.get("flags", "").split()
    known = [f"family {facts.get('cpu family', '?')}", f"model {facts.get('model', '?')}"]
    return (
        f"{os.cpu_count()} x {facts['model name']} ({', '.join(known + [f for f in TELLING if f in flags])})"
    )
