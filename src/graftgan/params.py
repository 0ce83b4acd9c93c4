"""Parameters as people and pipelines give them: read, overridden, checked, explained, digested."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from graftgan.config import Params
from graftgan.contract import canonical_json, digest_text
from graftgan.errors import ConfigError, MissingInput
from graftgan.redaction import has_secret_query, redacted
from graftgan.section import Section
from graftgan.yamltext import parse_yaml

# A user, or anything after a colon up to an @: a password may hold slashes. pathlib folds the two slashes.
CREDENTIALS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/{1,2}(?!/)([^/@\s]*@|[^/@\s]*:[^@\s]*@)")
SECRETS = (
    "leave them out; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for MLflow, AWS_ACCESS_KEY_ID "
    "and AWS_SECRET_ACCESS_KEY for an object store"
)


def section_of(annotation: Any) -> type[Section] | None:
    """Return the section class that an annotation names, if it names one."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return next((s for a in get_args(annotation) if (s := section_of(a))), None)
    return None


def keys(model: type[Section] = Params, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every dotted key below `model`, sections before their leaves."""
    for name, info in model.model_fields.items():
        yield prefix + name, info
        if section := section_of(info.annotation):
            yield from keys(section, f"{prefix}{name}.")


def find(key: str) -> FieldInfo:
    """Return the field of a dotted key.

    Raises:
        ConfigError: If there is none; the message suggests the nearest keys.
    """
    known = dict(keys())
    if key not in known:
        raise ConfigError(f"unknown key {key!r}", suggest(key, list(known)))
    return known[key]


def suggest(key: str, known: Sequence[str]) -> str:
    """Return a remedy that names the keys most like `key`."""
    leaf = key.rsplit(".", 1)[-1]
    near = [k for k in known if k.startswith(key) and k != key]
    near += [k for k in difflib.get_close_matches(key, known, 3, 0.75) if k not in near]
    near += [k for k in known if k.rsplit(".", 1)[-1] == leaf and k not in near]
    if near:
        return f"did you mean {', '.join(near[:3])}?"
    return "`graftgan config show` lists all keys"


def parse_set(assignment: str) -> tuple[str, Any]:
    """Split `key=value`; the value is YAML.

    Raises:
        ConfigError: If there is no `=`, the key is unknown or the value is not YAML.
    """
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(f"--set {assignment!r} has no '='", "write --set key=value")
    find(key.strip())
    try:
        return key.strip(), parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of --set {key} is not YAML: {error}", "quote it") from None


def override(raw: dict[str, Any], key: str, value: Any) -> None:
    """Put `value` at the dotted `key` of a nested dictionary, making sections on the way."""
    *sections, leaf = key.split(".")
    for name in sections:
        child = raw.get(name)
        raw[name] = raw = child if isinstance(child, dict) else {}
    raw[leaf] = value


def resolve(raw: dict[str, Any], origin: str) -> Params:
    """Check a nested dictionary against the schema.

    Raises:
        ConfigError: Naming every wrong key, with suggestions for unknown ones, or one with credentials.
    """
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        known = [key for key, _ in keys()]
        lines, remedies = [], []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"] if isinstance(part, str))
            if problem["type"] == "extra_forbidden":
                lines.append(f"unknown key {key!r}")
                remedies.append(suggest(key, known))
            else:
                lines.append(f"{key or 'top level'}: {problem['msg']} (given {_shown(problem['input'])})")
                remedies.append(
                    f"`graftgan config explain {key}` tells what it takes" if key else "correct the key"
                )
        remedy = " ".join(dict.fromkeys(remedies))
        raise ConfigError(f"{origin}: " + "; ".join(lines), remedy) from None
    refuse_texts(params, origin)
    return params


def _shown(value: Any) -> str:
    """Return a refused value for a message: without what stands under keys that tell of secrets."""
    if isinstance(value, dict):
        items = (f"{key!r}: {redacted(str(key), _shown(item))}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    return repr(value)


def refuse_texts(section: Section, origin: str) -> None:
    """Refuse texts that may not or cannot be written down: parameters are shown, logged and compiled.

    These are addresses with a user, a password or a secret in the query, and halves of characters; bytes of
    file names are kept.

    Raises:
        ConfigError: Naming the key, not the value.
    """
    for key, value in flatten(section.model_dump(mode="json")).items():
        for text in filter(lambda each: isinstance(each, str), value if isinstance(value, list) else [value]):
            if CREDENTIALS.match(text.strip()):
                raise ConfigError(f"{origin}: {key} is an address with a user or password", SECRETS)
            if has_secret_query(text):
                raise ConfigError(f"{origin}: {key} is an address with a secret in its query", SECRETS)
        try:
            canonical_json(value).encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            message = f"{origin}: {key} holds half a character"
            raise ConfigError(message, "write the character whole") from None


def load(path: Path | None, assignments: Sequence[str] = ()) -> Params:
    """Read `params.yaml` and apply `key=value` assignments.

    Args:
        path: The file; None means the defaults alone.
        assignments: `key=value` texts, later ones win.

    Raises:
        MissingInput: If the file does not exist.
        ConfigError: If it is not YAML, or does not fit the schema.
    """
    raw: Any = {}
    if path is not None:
        try:
            raw = parse_yaml(path.read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            raise MissingInput(f"{path} does not exist", "give the file with --params") from None
        except (IsADirectoryError, PermissionError) as error:
            raise MissingInput(
                f"{path} cannot be read: {error.strerror}", "give the file with --params"
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not YAML: {error}", "correct the file") from None
        if not isinstance(raw, dict):
            raise ConfigError(f"{path} holds a {type(raw).__name__}, not a mapping", "start it with `data:`")
    for assignment in assignments:
        override(raw, *parse_set(assignment))
    return resolve(raw, str(path or "defaults"))


def loads(text: str, assignments: Sequence[str] = ()) -> Params:
    """Read the canonical JSON that a pipeline passes instead of a file, and apply `key=value` assignments.

    Raises:
        ConfigError: If it is not JSON, or does not fit the schema.
    """
    try:
        raw = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        remedy = "pass the output of `graftgan config show --json`"
        raise ConfigError(f"the configuration text is not JSON: {error}", remedy) from None
    if not isinstance(raw, dict):
        raise ConfigError("the configuration text is not a JSON object", "start it with {")
    for assignment in assignments:
        override(raw, *parse_set(assignment))
    return resolve(raw, "configuration text")


def explain(key: str) -> str:
    """Return what a key means, takes and defaults to.

    Raises:
        ConfigError: If there is no such key.
    """
    info = find(key)
    section = section_of(info.annotation)
    lines = [key, f"  {info.description or (section and section.__doc__) or ''}"]
    if section:
        lines += [f"  {key}.{name}: {child.description}" for name, child in section.model_fields.items()]
        return "\n".join(lines)
    parent, _, leaf = key.rpartition(".")
    owner = section_of(find(parent).annotation) if parent else Params
    schema = (owner or Params).model_json_schema()["properties"][leaf]
    facts = {name: value for name, value in schema.items() if name not in ("description", "title")}
    return "\n".join([*lines, *(f"  {name}: {json.dumps(value)}" for name, value in facts.items())])


def leaves(params: Section, selected: Sequence[str]) -> dict[str, Any]:
    """Return the leaves under the dotted `selected` keys as a flat dictionary."""
    flat = flatten(params.model_dump(mode="json"))
    return {k: v for k, v in flat.items() if any(k == s or k.startswith(f"{s}.") for s in selected)}


def flatten(raw: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested dictionary with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def config_digest(params: Section, selected: Sequence[str]) -> str:
    """Return the sha256 of the canonical JSON of the selected leaves."""
    return digest_text(canonical_json(leaves(params, selected)))
