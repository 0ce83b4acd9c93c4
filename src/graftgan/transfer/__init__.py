"""Transfer methods: each says which tensors move; a new one is a file here and a line in `METHODS`."""

from __future__ import annotations

from graftgan.errors import ConfigError
from graftgan.transfer import adafm, filter_transfer, freeze_d, freeze_g, full, lora, scale_shift
from graftgan.transfer.base import Method

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        full.METHOD,
        freeze_d.METHOD,
        freeze_g.METHOD,
        scale_shift.METHOD,
        filter_transfer.METHOD,
        adafm.METHOD,
        lora.METHOD,
    )
}


def method(name: str) -> Method:
    """Return the method called `name`.

    Raises:
        ConfigError: If there is none.
    """
    if name not in METHODS:
        raise ConfigError(f"finetune.method: {name!r} is not a method", f"use one of {', '.join(METHODS)}")
    return METHODS[name]
