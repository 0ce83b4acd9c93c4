"""What each method moves in a network, and how many bytes its result takes; counted without any memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import build, parameter_count
from graftgan.gans.spec import GanSpec
from graftgan.transfer import method

BYTES = 4


@dataclass(frozen=True)
class Storage:
    """Counts of one method in one network.

    Attributes:
        trainable_generator: Parameters that move in G.
        trainable_discriminator: Parameters that move in D.
        base_bytes: The source's G in float32.
        stored_bytes: What tells the adapted G from its source, in float32: what moves, or all of it where the
            method makes no adapter file. The file's header and what few buffers follow come on top.
    """

    trainable_generator: int
    trainable_discriminator: int
    base_bytes: int
    stored_bytes: int

    @property
    def share(self) -> float:
        """Bytes stored as a share of the source's."""
        return self.stored_bytes / self.base_bytes


def storage(spec: GanSpec, settings: Finetune) -> Storage:
    """Count what `settings.method` moves in the networks of a spec.

    Raises:
        ConfigError: The method is not for this family, or not with these settings.
    """
    chosen = method(settings.method)
    if chosen.check is not None:
        chosen.check(settings)
    with torch.device("meta"):
        gan = build(spec)
    whole = BYTES * parameter_count(gan.generator)
    chosen.apply(gan, settings)
    of_g, of_d = _moving(gan.generator), _moving(gan.discriminator)
    return Storage(of_g, of_d, whole, BYTES * of_g if chosen.adapter else whole)


def _moving(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def table(spec: GanSpec, rows: Iterable[tuple[str, Finetune]]) -> str:
    """Return a Markdown table of methods in one network; those that are not for it have dashes.

    Args:
        spec: The network.
        rows: Label and settings of each row.
    """
    lines = ["| method | moves in G | moves in D | stored | share of G |", "| --- | --: | --: | --: | --: |"]
    for label, settings in rows:
        try:
            found = storage(spec, settings)
        except ConfigError:
            lines.append(f"| {label} | – | – | – | – |")
            continue
        cells = (
            f"{found.trainable_generator:,}",
            f"{found.trainable_discriminator:,}",
            f"{found.stored_bytes / 1e6:.1f} MB",
            f"{found.share:.1%}",
        )
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)
