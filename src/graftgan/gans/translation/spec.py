"""Sizes of an image-to-image network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from graftgan.errors import ConfigError
from graftgan.gans.spec import listed

KINDS: dict[str, int] = {"resnet_6": 6, "resnet_9": 9, "unet_128": 7, "unet_256": 8, "patchgan": 3}
"""Kind -> residual blocks of a ResNet, halvings of a U-Net or of the patch discriminator."""
NORMS = ("instance", "batch")


@dataclass(frozen=True)
class TranslatorSpec:
    """Sizes of an image-to-image network; the defaults are CycleGAN's generator.

    Attributes:
        kind: One of `KINDS`.
        in_channels: Channels in: of the image, or of input and output together for a pix2pix discriminator.
        out_channels: Channels of the image that a generator gives.
        ngf: Feature maps of a generator's first layer.
        ndf: Feature maps of the discriminator's first layer.
        norm: `instance` (without weights or running statistics) or `batch`.
        dropout: Whether a generator drops half of some feature maps while it trains.

    Raises:
        ConfigError: A value is not allowed.
    """

    family: ClassVar[str] = "translation"

    kind: str = "resnet_9"
    in_channels: int = 3
    out_channels: int = 3
    ngf: int = 64
    ndf: int = 64
    norm: str = "instance"
    dropout: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.dropout, bool):
            raise ConfigError(f"dropout is {self.dropout!r}", "Use true or false.")
        for name, allowed in (("kind", tuple(KINDS)), ("norm", NORMS)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}", f"Use one of {listed(allowed)}.")
        for name in ("in_channels", "out_channels", "ngf", "ndf"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} is {value!r}", "Use a whole number of 1 or more.")

    @property
    def depth(self) -> int:
        """Residual blocks of a ResNet, halvings of a U-Net or of the patch discriminator."""
        return KINDS[self.kind]

    @property
    def bias(self) -> bool:
        """Whether convolutions before a norm have a bias: only where the norm has none."""
        return self.norm == "instance"

    def to_dict(self) -> dict[str, Any]:
        """Return family and fields as plain values that JSON can hold."""
        return {"family": self.family, **asdict(self)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> TranslatorSpec:
        """Build the spec from :meth:`to_dict`'s output; keys left out take their defaults.

        Raises:
            ConfigError: The family is another one, a key is unknown or a value is not allowed.
        """
        if values.get("family", TranslatorSpec.family) != TranslatorSpec.family:
            raise ConfigError(f"family is {values['family']!r}", f"Use {TranslatorSpec.family}.")
        given = {key: value for key, value in values.items() if key != "family"}
        known = {item.name for item in fields(TranslatorSpec)}
        if unknown := sorted(set(given) - known):
            raise ConfigError(
                f"unknown key in the translator spec: {listed(unknown)}",
                f"Known keys are {listed(sorted(known))}.",
            )
        return TranslatorSpec(**given)
