"""Reads descriptions of tasks and recipes, with errors that name the file and the key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from graftgan.errors import ConfigError, MissingInput
from graftgan.params import keys, suggest
from graftgan.section import Section
from graftgan.yamltext import parse_yaml

S = TypeVar("S", bound=Section)


def resolve_section(raw: Any, model: type[S], origin: str) -> S:
    """Make a section of plain values, such as a `TaskData` of a task's description.

    Args:
        raw: A mapping of keys to values.
        model: The section's class.
        origin: Where the values come from, for errors.

    Raises:
        ConfigError: If they do not fit the section; names the origin and every wrong key.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{origin} holds a {type(raw).__name__}, not a mapping", "write `key: value` lines")
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        known = [key for key, _ in keys(model)]
        lines, remedies = [], []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"] if isinstance(part, str))
            if problem["type"] == "extra_forbidden":
                lines.append(f"unknown key {key!r}")
                remedies.append(suggest(key, known))
            else:
                lines.append(f"{key}: {problem['msg']}" if key else problem["msg"])
                info = dict(keys(model)).get(key)
                remedies.append(f"{key}: {info.description}" if info else "correct the description")
        raise ConfigError(f"{origin}: {'; '.join(lines)}", " ".join(dict.fromkeys(remedies))) from None


def load_section(path: Path, model: type[S]) -> S:
    """Read a section from a YAML file.

    Raises:
        MissingInput: If the file cannot be read.
        ConfigError: If it is not YAML, or does not fit the section.
    """
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingInput(f"{path} cannot be read: {error.strerror}", "correct the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}", "correct the file") from None
    return resolve_section(raw, model, str(path))
