"""What a network is made of: a frozen description that JSON carries beside the weights (standard library)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from graftgan.errors import ConfigError

RESOLUTIONS = (32, 64, 128, 256, 512, 1024)
IMAGE_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class GanSpec:
    """Family and sizes of a generator and its discriminator.

    The defaults are those of StyleGAN2 config-f (Karras et al. 2020, 30 M + 29 M parameters).

    Attributes:
        family: Key of :data:`graftgan.gans.FAMILIES`.
        resolution: Image side in pixels, a power of two from 32 to 1024.
        channels: Image channels: 1 grey, 3 RGB, 4 RGBA.
        z_dim: Length of the latent vector z.
        w_dim: Length of the intermediate latent vector w.
        classes: Number of classes; 0 means unconditional.
        mapping_layers: Fully connected layers from z to w.
        channel_base: Feature maps at a resolution are ``min(channel_base // resolution, channel_max)``.
        channel_max: Upper limit of the feature maps at any resolution.
        mbstd_group: Images over which the minibatch standard deviation is taken.
        label_layers: Fully connected layers of the discriminator's class embedding (used if ``classes > 0``).

    Raises:
        ConfigError: A value is outside what the networks can be built for.
    """

    family: str = "stylegan2"
    resolution: int = 256
    channels: int = 3
    z_dim: int = 512
    w_dim: int = 512
    classes: int = 0
    mapping_layers: int = 8
    channel_base: int = 32768
    channel_max: int = 512
    mbstd_group: int = 4
    label_layers: int = 8

    def __post_init__(self) -> None:
        self._check_types()
        if self.resolution not in RESOLUTIONS:
            raise ConfigError(f"resolution is {self.resolution}", f"Use one of {_listed(RESOLUTIONS)}.")
        if self.channels not in IMAGE_CHANNELS:
            raise ConfigError(f"channels is {self.channels}", f"Use one of {_listed(IMAGE_CHANNELS)}.")
        for name in ("z_dim", "w_dim", "mapping_layers", "channel_max", "mbstd_group", "label_layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", "Use 1 or more.")
        if self.classes < 0:
            raise ConfigError(f"classes is {self.classes}", "Use 0 for no classes, else their number.")
        if self.channel_base < self.resolution:
            raise ConfigError(
                f"channel_base is {self.channel_base}, which leaves no feature map at {self.resolution} px",
                f"Set it to {self.resolution} or more.",
            )

    def _check_types(self) -> None:
        if not isinstance(self.family, str):
            raise ConfigError(f"family is {self.family!r}", "Use a name, such as stylegan2.")
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "family" and (not isinstance(value, int) or isinstance(value, bool)):
                raise ConfigError(f"{item.name} is {value!r}", "Use a whole number.")

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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GanSpec:
        """Build a spec from :meth:`to_dict`'s output; keys left out take their defaults.

        Raises:
            ConfigError: A key is unknown or a value is not allowed.
        """
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                f"unknown key in the network spec: {_listed(unknown)}",
                f"Known keys are {_listed(sorted(known))}.",
            )
        return cls(**values)


def _listed(items: tuple[int, ...] | list[str]) -> str:
    return ", ".join(str(item) for item in items)
