"""Reads descriptions of tasks and recipes, with errors that name the file and the key."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from graftgan.errors import ConfigError, MissingInput
from graftgan.lifelong_config import LifelongParams, LifelongTask
from graftgan.params import keys, override, refuse_texts, suggest
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
        ConfigError: If they do not fit the section; names the origin and every wrong key, or one with
            credentials.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{origin} holds a {type(raw).__name__}, not a mapping", "write `key: value` lines")
    try:
        section = model.model_validate(dict(raw))
    except ValidationError as error:
        fields = dict(keys(model))
        if model is LifelongParams:
            fields |= {f"tasks.NAME.{key}": info for key, info in keys(LifelongTask)}
        lines, remedies = [], []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"] if isinstance(part, str))
            generic = re.sub(r"^tasks\.[^.]+", "tasks.NAME", key)
            if problem["type"] == "extra_forbidden":
                lines.append(f"unknown key {key!r}")
                remedies.append(suggest(generic, list(fields)))
            else:
                lines.append(f"{key}: {problem['msg']}" if key else problem["msg"])
                info = fields.get(generic)
                remedies.append(f"{key}: {info.description}" if info else "correct the description")
        raise ConfigError(f"{origin}: {'; '.join(lines)}", " ".join(dict.fromkeys(remedies))) from None
    refuse_texts(section, origin)
    return section


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


def load_lifelong(path: Path, assignments: Sequence[str] = ()) -> LifelongParams:
    """Read the list of tasks and apply `key=value` assignments.

    Raises:
        MissingInput: The file cannot be read.
        ConfigError: It is not YAML, or does not fit the schema.
    """
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        remedy = "give the file with --params"
        raise MissingInput(f"{path} cannot be read: {error.strerror}", remedy) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}", "correct the file") from None
    return _assigned(raw, assignments, str(path))


def loads_lifelong(text: str, assignments: Sequence[str] = ()) -> LifelongParams:
    """Read the list of tasks from the JSON text that a pipeline passes, and apply `key=value` assignments.

    Raises:
        ConfigError: It is not JSON, or does not fit the schema.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        remedy = "pass what `python -m pipelines.lifelong config` prints"
        raise ConfigError(f"the configuration text is not JSON: {error}", remedy) from None
    return _assigned(raw, assignments, "configuration text")


def dumps_lifelong(params: LifelongParams) -> str:
    """Return the list of tasks as one line of JSON that keeps their order."""
    return json.dumps(params.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)


def _assigned(raw: Any, assignments: Sequence[str], origin: str) -> LifelongParams:
    if not isinstance(raw, dict):
        raise ConfigError(f"{origin} holds a {type(raw).__name__}, not a mapping", "start it with `tasks:`")
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment!r} has no '='", "write --set key=value")
        section, _, rest = key.strip().partition(".")
        tasks = found if isinstance(found := raw.get("tasks"), dict) else {}
        if section == "tasks" and rest and rest.split(".")[0] not in tasks:
            raise ConfigError(
                f"--set {key}: {origin} has no such task",
                f"the tasks are {', '.join(map(str, tasks)) or 'none'}",
            )
        try:
            override(raw, key.strip(), parse_yaml(text))
        except yaml.YAMLError as error:
            raise ConfigError(f"the value of --set {key} is not YAML: {error}", "quote it") from None
    return resolve_section(raw, LifelongParams, origin)
