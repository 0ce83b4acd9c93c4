"""Reads YAML as DVC does: only true and false are truth values, as in YAML 1.2."""

from __future__ import annotations

import re
from typing import Any

import yaml

BOOL = "tag:yaml.org,2002:bool"


class Loader(yaml.SafeLoader):
    """The safe loader, to which `off`, `on`, `no` and `yes` are words: `track.mode` may be `off`."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text, without making any object but plain ones.

    Raises:
        yaml.YAMLError: If it is not YAML, or holds what cannot be: a 13th month, a number of 5,000 digits.
    """
    try:
        return yaml.load(text, Loader)
    except (ValueError, OverflowError) as error:
        raise yaml.YAMLError(str(error)) from None
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
