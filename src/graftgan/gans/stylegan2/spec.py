"""Sizes of a StyleGAN2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graftgan.errors import ConfigError
from graftgan.gans.spec import GanSpec


@dataclass(frozen=True)
class StyleGAN2Spec(GanSpec):
    """Sizes of a StyleGAN2; the defaults are those of config-f (Karras et al. 2020, 30 M + 29 M parameters).

    Attributes:
        w_dim: Length of the intermediate latent vector w.
        mapping_layers: Fully connected layers from z to w.
        channel_base: Feature maps at a resolution are ``min(channel_base // resolution, channel_max)``.
        channel_max: Upper limit of the feature maps at any resolution.
        mbstd_group: Images over which the minibatch standard deviation is taken.
        noise: Whether G adds noise. Flat colours and line art are better without: on small sets G learns to
            draw edges with it.
        label_layers: Fully connected layers of the discriminator's class embedding (used if ``classes > 0``).
    """

    family: ClassVar[str] = "stylegan2"
    POSITIVE: ClassVar[tuple[str, ...]] = (
        "w_dim", "mapping_layers", "channel_max", "mbstd_group", "label_layers",
    )  # fmt: skip

    w_dim: int = 512
    mapping_layers: int = 8
    channel_base: int = 32768
    channel_max: int = 512
    mbstd_group: int = 4
    label_layers: int = 8
    noise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channel_base < self.resolution:
            raise ConfigError(
                f"channel_base is {self.channel_base}, which leaves no feature map at {self.resolution} px",
                f"Set it to {self.resolution} or more.",
            )

    def width(self, resolution: int) -> int:
        """Return the feature maps at ``resolution``: ``min(channel_base // resolution, channel_max)``."""
        return min(self.channel_base // resolution, self.channel_max)

    @property
    def block_resolutions(self) -> tuple[int, ...]:
        """Resolutions of the blocks from 4 px up to the image."""
        return tuple(2**power for power in range(2, self.resolution.bit_length()))

    @property
    def num_ws(self) -> int:
        """Number of w vectors that one image takes: one a convolution and one for the last RGB layer."""
        return 2 * len(self.block_resolutions)
