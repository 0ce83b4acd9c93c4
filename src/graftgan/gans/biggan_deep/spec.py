"""Sizes of a BigGAN-deep."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

from graftgan.errors import ConfigError
from graftgan.gans.biggan.spec import ATTENTION_DIVISOR, ProjectionSpec

Layer = tuple[bool, int, int]
STEM_WIDTH = 16
BOTTLENECK = 4
LOOKUPS = ("exact", "published")

_STEM: tuple[Layer, ...] = ((False, 16, 16), (True, 16, 16), (False, 16, 16), (True, 16, 8), (False, 8, 8))
_TOP: tuple[Layer, ...] = ((True, 8, 4), (False, 4, 4), (True, 4, 2), (False, 2, 2), (True, 2, 1))
_MORE: tuple[Layer, ...] = ((True, 8, 8), (False, 8, 8))
PUBLISHED_LAYERS: dict[int, tuple[Layer, ...]] = {
    128: _STEM + _TOP,
    256: _STEM + _MORE + _TOP,
    512: _STEM + _MORE + _TOP + ((False, 1, 1), (True, 1, 1)),
}
"""Image side -> blocks of the published generators: whether one doubles the size, its widths in and out."""


@dataclass(frozen=True)
class BigGANDeepSpec(ProjectionSpec):
    """Sizes of a BigGAN-deep; the defaults are the published 128 px model's, save its 1000 classes.

    The published models have no discriminator; this one is BigGAN's of the same resolution.

    Attributes:
        channel_width: Width unit of the generator (a block's bottleneck has a quarter of its input).
        class_embed_dim: Length of the class embedding (used if ``classes > 0``).
        layers: One ``(doubles, in, out)`` a block, widths in units of `channel_width`; () for
            :data:`PUBLISHED_LAYERS` at this resolution.
        attention_layer_position: Block that self-attention precedes.
        n_stats: Rows of batch-norm statistics, for truncations evenly spaced from 0 to 1.
        bn_eps: Added to the variance in the batch norms.
        lookup: Which rows a truncation reads: `exact`, or `published` with the flaws of the published code
            (:func:`graftgan.gans.biggan_deep.layers.statistics_rows`).
    """

    family: ClassVar[str] = "biggan_deep"
    POSITIVE: ClassVar[tuple[str, ...]] = ("d_ch", "channel_width", "class_embed_dim")

    z_dim: int = 128
    sn_eps: float = 1e-4
    channel_width: int = 128
    class_embed_dim: int = 128
    layers: tuple[Layer, ...] = ()
    attention_layer_position: int = 8
    n_stats: int = 51
    bn_eps: float = 1e-4
    lookup: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._checked_eps("bn_eps")
        if self.lookup not in LOOKUPS:
            raise ConfigError(f"lookup is {self.lookup!r}", f"Use {' or '.join(LOOKUPS)}.")
        if self.n_stats < 2:
            raise ConfigError(f"n_stats is {self.n_stats}", "Use 2 or more.")
        if not self.layers and self.resolution not in PUBLISHED_LAYERS:
            raise ConfigError(
                f"no BigGAN-deep of {self.resolution} px was published",
                "Give its `layers`, or use 128, 256 or 512.",
            )
        self._checked_layers()
        self._checked_widths()

    @property
    def blocks(self) -> tuple[Layer, ...]:
        """The blocks of the generator."""
        return self.layers or PUBLISHED_LAYERS[self.resolution]

    @property
    def condition_dim(self) -> int:
        """Length of the condition: z first, then the class embedding."""
        return self.z_dim + (self.class_embed_dim if self.classes else 0)

    def _checked_layers(self) -> None:
        try:
            layers = tuple((bool(up), int(inner), int(out)) for up, inner, out in self.layers)
        except (TypeError, ValueError):
            raise ConfigError(
                f"layers is {self.layers!r}", "Use [doubles, in, out] for each block."
            ) from None
        object.__setattr__(self, "layers", layers)
        blocks, reached = self.blocks, 4 * 2 ** sum(up for up, _, _ in self.blocks)
        if reached != self.resolution:
            raise ConfigError(f"layers lead to {reached} px, not {self.resolution}", "Correct either.")
        widths = [STEM_WIDTH, *itertools.chain.from_iterable((a, b) for _, a, b in blocks), 1]
        fits = all(widths[i] == widths[i + 1] for i in range(0, len(widths), 2))
        if not fits or any(out not in {inner, inner / 2} for _, inner, out in blocks):
            raise ConfigError(
                f"layers have widths {[(a, b) for _, a, b in blocks]} that do not follow one another",
                f"Begin with {STEM_WIDTH}, keep or halve the width in each block, end with 1.",
            )

    def _checked_widths(self) -> None:
        position = self.attention_layer_position
        if not 0 <= position < len(self.blocks):
            raise ConfigError(
                f"attention_layer_position is {position}",
                f"Use 0 to {len(self.blocks) - 1}, one of the blocks.",
            )
        attended = self.channel_width * self.blocks[position][1]
        if self.channel_width < max(BOTTLENECK, self.channels) or attended < ATTENTION_DIVISOR:
            raise ConfigError(
                f"channel_width is {self.channel_width}, which leaves a layer without feature maps",
                f"Use {ATTENTION_DIVISOR} or more.",
            )
