"""Opens the bank that a new task goes into, or makes it as the first task wants it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from graftgan.bank.layers import Lambda
from graftgan.bank.manifest import NAME
from graftgan.bank.store import Bank
from graftgan.errors import ConfigError
from graftgan.gans.translation import TranslatorSpec
from graftgan.yamltext import parse_yaml

SHARE = 0.25


@dataclass(frozen=True)
class Wanted:
    """What a person asks of a bank; None leaves it to the bank, or to the defaults of a new one.

    Attributes:
        share: Lambda as YAML: a number, a list or a mapping.
        kind: Kind of the generator.
        ngf: Feature maps of its first layer.
        norm: Its norm.
        dropout: Whether it drops feature maps while it trains.
    """

    share: str | None = None
    kind: str | None = None
    ngf: int | None = None
    norm: str | None = None
    dropout: bool | None = None

    @property
    def sizes(self) -> dict[str, str | int | bool]:
        """The fields of the generator's spec that were given."""
        given = {"kind": self.kind, "ngf": self.ngf, "norm": self.norm, "dropout": self.dropout}
        return {key: value for key, value in given.items() if value is not None}


def parse_share(text: str) -> Lambda:
    """Read a lambda: `0.25`, `[0.5, 0.25, 1]` or `{default: 0.25, model.1: 1}`.

    Raises:
        ConfigError: It is none of them.
    """
    try:
        value = parse_yaml(text)
    except yaml.YAMLError:
        value = None
    if isinstance(value, bool) or not isinstance(value, (int, float, list, dict)):
        raise ConfigError(f"--lambda is {text!r}", "write a number, a list, or a mapping from layer names")
    return value


def open_or_create(folder: Path, wanted: Wanted) -> Bank:
    """Return the bank in a folder; make it if there is none.

    Raises:
        ConfigError: The bank has another lambda or generator than wanted, or the folder holds other things.
        CheckpointError: The bank is damaged.
    """
    if not (folder / NAME).exists():
        spec = TranslatorSpec.from_dict(wanted.sizes)
        return Bank.create(folder, spec, SHARE if wanted.share is None else parse_share(wanted.share))
    bank = Bank(folder)
    if wanted.share is not None and parse_share(wanted.share) != bank.manifest.share:
        raise ConfigError(
            f"--lambda is {wanted.share}, and {folder} has {bank.manifest.share}",
            "leave --lambda out, or start another bank",
        )
    for key, value in wanted.sizes.items():
        if getattr(bank.spec, key) != value:
            raise ConfigError(
                f"{key} is {value!r}, and {folder} has {getattr(bank.spec, key)!r}",
                "leave it out, or start another bank",
            )
    return bank
