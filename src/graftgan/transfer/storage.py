"""What each method moves in a network, and how many bytes its result takes; counted without any memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from graftgan.config import Finetune
from graftgan.errors import ConfigError
from graftgan.gans.base import Gan, build, parameter_count
from graftgan.gans.class_table import class_table
from graftgan.gans.miner import miner_of
from graftgan.gans.spec import GanSpec
from graftgan.transfer import method
from graftgan.transfer.class_embedding import ClassTuner
from graftgan.transfer.memory_bases import least_saved

BYTES = 4
COMPONENTS = 5
"""Of a mixture for more than 25 images."""


@dataclass(frozen=True)
class Storage:
    """Counts of one method in one network.

    Attributes:
        trainable_generator: Parameters that move in G.
        trainable_discriminator: Parameters that move in D.
        base_bytes: The source's G in float32.
        stored_bytes: What tells the adapted G from its source, in float32: what moves, or all of it where the
            method makes no adapter file, and the law of its latents if it has one of its own, which is in
            that file too. The file's header and what few buffers follow come on top. Of a compressed memory
            it is the most for a first task.
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
    """Count what `settings.method` moves in the networks of a spec; a class embedding is that of one class.

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
    if chosen.direct is ClassTuner:
        # The file of a row, beside the model: the others of the table are the source's.
        of_g = max(len(settings.class_embedding.classes), 1) * class_table(gan.generator).shape[1]
        return Storage(of_g, of_d, whole, BYTES * of_g)
    saved = least_saved(gan, settings) if settings.method == "gan_memory" else 0
    stored = BYTES * (of_g - saved) if chosen.adapter else whole
    return Storage(of_g, of_d, whole, stored + _law_bytes(gan, settings))


def _law_bytes(gan: Gan, settings: Finetune) -> int:
    """Return the bytes of a miner, or of a mixture with its weights and lambda in float64."""
    miner = miner_of(gan.generator)
    if miner is not None:
        return BYTES * parameter_count(miner)
    if settings.prior == "normal":
        return 0
    z_dim = gan.spec.z_dim
    count = settings.mixture.components or COMPONENTS
    return count * (8 + BYTES * (2 * z_dim + z_dim**2)) + 8


def _moving(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 50_000 else f"{count:,} bytes"


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
            _size(found.stored_bytes),
            f"{found.share:.1%}",
        )
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)
