"""Sizes of a BigGAN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from graftgan.errors import ConfigError
from graftgan.gans.spec import GanSpec

ATTENTION_DIVISOR = 8
G_WIDTHS: dict[int, tuple[int, ...]] = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
"""Image side -> width of the 4 px stem and each block, in units of `g_ch` (Brock et al. 2019, appendix B)."""
D_WIDTHS: dict[int, tuple[int, ...]] = {
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
    512: (1, 1, 2, 4, 8, 8, 16, 16),
}
"""Image side -> width of each block of the discriminator, in units of `d_ch`."""
D_HALVINGS: dict[int, int] = {32: 2, 64: 4, 128: 5, 256: 6, 512: 7}
"""Image side -> leading blocks of the discriminator that halve the size; those behind keep it."""


class BlockSizes(NamedTuple):
    """Sizes of one residual block.

    Attributes:
        in_channels: Feature maps in.
        out_channels: Feature maps out.
        resizes: Whether the block doubles (generator) or halves (discriminator) height and width.
        attention: Whether self-attention follows.
    """

    in_channels: int
    out_channels: int
    resizes: bool
    attention: bool


@dataclass(frozen=True)
class ProjectionSpec(GanSpec):
    """Sizes of the residual discriminator with class projection that BigGAN and BigGAN-deep share here.

    Attributes:
        d_ch: Width unit of the discriminator; :data:`D_WIDTHS` are its multiples.
        d_attn: Sides in pixels of the feature maps that self-attention follows, as `D_attn` in the public
            code: a size at which no block ends has no effect.
        sn_eps: Lower limit of the norms in the power iteration of spectral normalisation.
    """

    RESOLUTIONS: ClassVar[tuple[int, ...]] = tuple(G_WIDTHS)
    POSITIVE: ClassVar[tuple[str, ...]] = ("d_ch",)

    resolution: int = 128
    z_dim: int = 120
    d_ch: int = 96
    d_attn: tuple[int, ...] = (64,)
    sn_eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        self._checked_eps("sn_eps")
        self._checked_sides("d_attn")
        self._checked_attention("d_ch", self.d_blocks)

    @property
    def d_blocks(self) -> tuple[BlockSizes, ...]:
        """Blocks of the discriminator, from the image down."""
        blocks, width, side = [], self.channels, self.resolution
        for index, multiple in enumerate(D_WIDTHS[self.resolution]):
            halves = index < D_HALVINGS[self.resolution]
            side = side // 2 if halves else side
            # At 32 px the public code books every block under 16 px, though the second ends at 8 px.
            booked = 16 if self.resolution == 32 else side
            blocks.append(BlockSizes(width, multiple * self.d_ch, halves, booked in self.d_attn))
            width = multiple * self.d_ch
        return tuple(blocks)

    def _checked_eps(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, float) or not 0 < value < 1:
            raise ConfigError(f"{name} is {value!r}", "Use a small number above 0, such as 1e-5.")

    def _checked_sides(self, name: str) -> None:
        """Turn a list, as JSON gives, into a tuple of sides."""
        sides = getattr(self, name)
        powers = {2**power for power in range(2, 10)}
        if not isinstance(sides, (list, tuple)) or any(type(s) is not int or s not in powers for s in sides):
            raise ConfigError(f"{name} is {sides!r}", "Use a list of sides in pixels, each a power of 2.")
        object.__setattr__(self, name, tuple(sorted(sides)))

    def _checked_attention(self, unit: str, blocks: tuple[BlockSizes, ...]) -> None:
        thin = min((b.out_channels for b in blocks if b.attention), default=ATTENTION_DIVISOR)
        if thin < ATTENTION_DIVISOR:
            raise ConfigError(
                f"{unit} is {getattr(self, unit)}, which leaves {thin} feature maps at an attention layer",
                f"Raise it until there are {ATTENTION_DIVISOR}, or leave attention out.",
            )


@dataclass(frozen=True)
class BigGANSpec(ProjectionSpec):
    """Sizes of a BigGAN; the defaults are those of the public 128 px ImageNet model, save its 1000 classes.

    Without classes, the batch norms are conditioned on the parts of z alone, which needs `hier`.

    Attributes:
        g_ch: Width unit of the generator; :data:`G_WIDTHS` are its multiples.
        g_attn: As `d_attn`, for the generator. The public 256 px model has (128,).
        shared_dim: Length of the class embedding that all batch norms share. 0 gives every batch norm a
            table of its own (`G_shared` off in the public code); that excludes `hier`.
        hier: Whether z is cut into equal parts, one for the stem and one for each block.
        bn_eps: Added to the variance in the conditional batch norms: 1e-5 in models of the public code,
            1e-4 in those converted from TensorFlow.
    """

    family: ClassVar[str] = "biggan"
    POSITIVE: ClassVar[tuple[str, ...]] = ("d_ch", "g_ch")

    g_ch: int = 96
    g_attn: tuple[int, ...] = (64,)
    shared_dim: int = 128
    hier: bool = True
    bn_eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._checked_eps("bn_eps")
        self._checked_sides("g_attn")
        self._checked_attention("g_ch", self.g_blocks)
        if not isinstance(self.hier, bool):
            raise ConfigError(f"hier is {self.hier!r}", "Use true or false.")
        if self.shared_dim < 0:
            raise ConfigError(f"shared_dim is {self.shared_dim}", "Use 0 or more.")
        if self.classes and self.hier and not self.shared_dim:
            raise ConfigError("hier is true while shared_dim is 0", "Set shared_dim=128, or hier=false.")
        if not self.classes and not self.hier:
            raise ConfigError(
                "without classes and hier nothing conditions the batch norms", "Set hier=true, or classes=1."
            )
        if self.z_dim % self.slots:
            near = max(self.slots, self.z_dim // self.slots * self.slots)
            raise ConfigError(
                f"z_dim is {self.z_dim}, which cannot be cut into {self.slots} equal parts",
                f"Use a multiple of {self.slots}, such as {near}, or hier=false.",
            )

    @property
    def stem_channels(self) -> int:
        """Feature maps of the 4 px stem."""
        return G_WIDTHS[self.resolution][0] * self.g_ch

    @property
    def g_blocks(self) -> tuple[BlockSizes, ...]:
        """Blocks of the generator, from the stem up to the image."""
        widths = [multiple * self.g_ch for multiple in G_WIDTHS[self.resolution]]
        return tuple(
            BlockSizes(widths[i], widths[i + 1], True, 8 * 2**i in self.g_attn)
            for i in range(len(widths) - 1)
        )

    @property
    def slots(self) -> int:
        """Parts that z is cut into."""
        return len(G_WIDTHS[self.resolution]) if self.hier else 1

    @property
    def chunk(self) -> int:
        """Length of one part of z."""
        return self.z_dim // self.slots

    @property
    def class_dim(self) -> int:
        """Length of a class's vector: `classes`, as weights, where batch norms have tables of their own."""
        return self.shared_dim if self.classes and self.shared_dim else self.classes

    @property
    def condition_dim(self) -> int:
        """Length of the vector that conditions a batch norm: class first, then the block's part of z."""
        return self.class_dim + (self.chunk if self.hier else 0)
