"""Transfer methods: each says which tensors move; a new one is a file here and a line in `METHODS`."""

from __future__ import annotations

from graftgan.errors import ConfigError
from graftgan.transfer import (
    adafm,
    bsa,
    cdc,
    class_embedding,
    filter_transfer,
    freeze_d,
    freeze_g,
    full,
    gan_memory,
    lora,
    minegan,
    scale_shift,
)
from graftgan.transfer.base import Method
from graftgan.transfer.regularised import EWC, L2_SP

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
        gan_memory.METHOD,
        minegan.METHOD,
        bsa.METHOD,
        class_embedding.METHOD,
        EWC,
        L2_SP,
        cdc.METHOD,
    )
}


def method(name: str) -> Method:
    """Return the method called `name`.

    Raises:
        ConfigError: If there is none.
    """
    if name not in METHODS:
        raise ConfigError(
            f"finetune.method: {name!r} is not a method", f"use auto or one of {', '.join(METHODS)}"
        )
    return METHODS[name]


def check_family(name: str, family: str, source: str) -> None:
    """Refuse a source that has no layers for a method.

    Args:
        name: The method's.
        family: Of the source's networks.
        source: Name of the source, for the message.

    Raises:
        ConfigError: Naming the method and the family.
    """
    known = method(name).families
    if known is not None and family not in known:
        others = [m.name for m in METHODS.values() if m.families is None or family in m.families]
        raise ConfigError(
            f"finetune.method={name} does not work with source {source}: it is for family "
            f"{', '.join(known)}, and the source's family is {family}",
            f"set finetune.method to one of {', '.join(others)}, "
            f"or rank.sources to those of {', '.join(known)}",
        )
