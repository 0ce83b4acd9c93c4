"""What a network is made of: a frozen description that JSON carries beside the weights (standard library)."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from graftgan.errors import ConfigError

IMAGE_CHANNELS = (1, 3, 4)
FAMILIES: dict[str, str] = {
    "stylegan2": "graftgan.gans.stylegan2",
    "stylegan3": "graftgan.gans.stylegan3",
    "biggan": "graftgan.gans.biggan",
    "biggan_deep": "graftgan.gans.biggan_deep",
    "resnet_gan": "graftgan.gans.resnet_gan",
    "dcgan": "graftgan.gans.dcgan",
}
"""Family name -> module that offers `Spec` and `build_networks(spec) -> (Generator, Discriminator)`."""


@dataclass(frozen=True)
class GanSpec:
    """Sizes that every family has; a family adds its own.

    Every field is a whole number unless the family says otherwise.

    Attributes:
        resolution: Image side in pixels, one of the family's `RESOLUTIONS`.
        channels: Image channels: 1 grey, 3 RGB, 4 RGBA.
        z_dim: Length of the latent vector z.
        classes: Number of classes; 0 means unconditional.

    Raises:
        ConfigError: A value is outside what the networks can be built for.
    """

    family: ClassVar[str]
    RESOLUTIONS: ClassVar[tuple[int, ...]] = (32, 64, 128, 256, 512, 1024)
    POSITIVE: ClassVar[tuple[str, ...]] = ()

    resolution: int = 256
    channels: int = 3
    z_dim: int = 512
    classes: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type == "int" and (not isinstance(value, int) or isinstance(value, bool)):
                raise ConfigError(f"{item.name} is {value!r}", "Use a whole number.")
            if item.type == "bool" and not isinstance(value, bool):
                raise ConfigError(f"{item.name} is {value!r}", "Use true or false.")
        for name, allowed in (("resolution", self.RESOLUTIONS), ("channels", IMAGE_CHANNELS)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)}", f"Use one of {listed(allowed)}.")
        for name in ("z_dim", *self.POSITIVE):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", "Use 1 or more.")
        if self.classes < 0:
            raise ConfigError(f"classes is {self.classes}", "Use 0 for no classes, else their number.")

    def to_dict(self) -> dict[str, Any]:
        """Return family and fields as plain values that JSON can hold."""
        return {"family": self.family, **asdict(self)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> GanSpec:
        """Build the spec of the family that the values name, from :meth:`to_dict`'s output.

        Raises:
            ConfigError: The family or a key is unknown, or a value is not allowed.
        """
        kind: type[GanSpec] = family_module(values.get("family")).Spec
        return kind.from_sizes(values)

    @classmethod
    def from_sizes(cls, values: Mapping[str, Any]) -> Self:
        """Build a spec of this family; keys left out take their defaults.

        Raises:
            ConfigError: A key is unknown or a value is not allowed.
        """
        known = {item.name for item in fields(cls)}
        given = {key: value for key, value in values.items() if key != "family"}
        if unknown := sorted(set(given) - known):
            raise ConfigError(
                f"unknown key in the network spec: {listed(unknown)}",
                f"Known keys are {listed(sorted(known))}.",
            )
        return cls(**given)


def family_module(name: object) -> Any:
    """Import the module of a family.

    Raises:
        ConfigError: The family is unknown.
    """
    if not isinstance(name, str) or name not in FAMILIES:
        raise ConfigError(f"family is {name!r}", f"Known families are {listed(sorted(FAMILIES))}.")
    return importlib.import_module(FAMILIES[name])


def listed(items: Iterable[object]) -> str:
    """Return items as text with commas."""
    return ", ".join(str(item) for item in items)
