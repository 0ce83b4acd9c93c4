"""Sizes of a DCGAN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graftgan.errors import ConfigError
from graftgan.gans.spec import GanSpec


@dataclass(frozen=True)
class DCGANSpec(GanSpec):
    """Sizes of a DCGAN; the defaults are those of the published face generators at 64 px.

    Attributes:
        g_ch: The generator's feature maps at half the resolution; they double with each halving, to 4x4.
        d_ch: The same for the discriminator.
    """

    family: ClassVar[str] = "dcgan"
    POSITIVE: ClassVar[tuple[str, ...]] = ("g_ch", "d_ch")

    resolution: int = 64
    z_dim: int = 100
    g_ch: int = 64
    d_ch: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes:
            raise ConfigError(f"classes is {self.classes}", "Use 0: networks of this family have no classes.")

    def widths(self, base: int) -> tuple[int, ...]:
        """Return the feature maps at half the resolution, a quarter, and so on to 4x4.

        Args:
            base: `g_ch` or `d_ch`.
        """
        return tuple(base << level for level in range(self.resolution.bit_length() - 3))
