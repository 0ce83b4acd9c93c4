"""Reads this project's own checkpoints: safetensors with the spec as JSON beside or inside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from graftgan.checkpoints.imported import Content, Imported, refuse
from graftgan.checkpoints.readers.strict import check_sizes, check_whole, is_state
from graftgan.checkpoints.store import NETWORKS, WEIGHTS, read_prior
from graftgan.errors import ConfigError
from graftgan.gans.spec import GanSpec


def matches(content: Content) -> bool:
    """Tell whether the content has a spec of ours and tensors in our names."""
    tensors = _tensors(content)
    return "family" in _sizes(content) and any(name.startswith("generator_ema.") for name in tensors)


def read(content: Content) -> Imported:
    """Return the networks as they are.

    Raises:
        CheckpointError: The spec is none of ours, or the tensors are not those of its networks.
    """
    tensors, sizes = _tensors(content), _sizes(content)
    check_sizes(content.path, sizes, len(tensors))
    try:
        spec = GanSpec.from_dict(sizes)
    except (ConfigError, TypeError) as error:
        raise refuse(content.path, f"its spec is of no network: {getattr(error, 'message', error)}") from None
    networks, prior = read_prior(spec, tensors, content.path)
    held = {name.partition(".")[0] for name in networks}
    absent = tuple(name for name in NETWORKS if name == "discriminator" and name not in held)
    check_whole(content.path, spec, networks, absent)
    notes = () if prior is None else (prior.note,)
    return Imported("graftgan", spec, dict(tensors), absent=absent, notes=notes)


def _sizes(content: Content) -> Mapping[str, Any]:
    inside = content.config.get("spec")
    return inside if isinstance(inside, dict) else content.config


def _tensors(content: Content) -> Mapping[str, Tensor]:
    tree = content.tree
    if content.container == "folder" and isinstance(tree, Mapping):
        tree = tree.get(WEIGHTS)
    return tree if is_state(tree) else {}
