"""`params.yaml` as text, every key with its help beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from graftgan.config import Params
from graftgan.params import keys

COLUMN = 38
HEAD = """\
# Everything that can be changed. `graftgan config explain KEY` tells what a key takes.
# A stage runs again only when a key of its own changes; DVC asks that every key of a stage stands here.
"""


def commented(params: Params) -> str:
    """Return all parameters as YAML, each leaf with its description as a comment."""
    texts = {key: info.description or "" for key, info in keys()}
    return HEAD + "\n".join(_lines(params.model_dump(mode="json"), texts, "", 0)) + "\n"


def _lines(section: dict[str, Any], texts: dict[str, str], prefix: str, depth: int) -> Iterator[str]:
    for name, value in section.items():
        key, indent = prefix + name, "  " * depth
        if isinstance(value, dict):
            if depth == 0:
                yield ""
            yield f"{indent}{name}:"
            yield from _lines(value, texts, f"{key}.", depth + 1)
        else:
            # Linters want two spaces before a comment, however long the value.
            yield f"{f'{indent}{name}: {scalar(value)}  ':{COLUMN}}# {texts[key]}"


def scalar(value: Any) -> str:
    """Return a leaf as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    return text.removesuffix("\n...\n").strip()
