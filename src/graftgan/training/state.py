"""Exact training state on disk: whole or absent, checked when read, the last few kept."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from graftgan.contract import atomic_path, canonical_json, digest_file, put_back, require_space, write_text

STATE = "state.safetensors"
CHECKSUM = "sha256"
SAVED = "images-"
log = logging.getLogger("graftgan")


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Replace every tensor in a nested value by a reference, and collect it."""
    if isinstance(value, Tensor):
        # The number keeps apart what the path cannot: the keys 1 and "1", or "a/b" and "b" below "a".
        name = f"{len(tensors)}{path}"
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"$tensor": name}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if isinstance(value, Mapping):
        pairs = [[key, _split(item, f"{path}/{key}", tensors)] for key, item in value.items()]
        return {"$map": pairs}
    if isinstance(value, list | tuple):
        return [_split(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
    return value


def _join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "$tensor" in value:
            return tensors[value["$tensor"]]
        if "$float" in value:
            return float(value["$float"])
        return {key: _join(item, tensors) for key, item in value["$map"]}
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    return value


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a nested mapping of tensors and plain values to a new folder, atomically.

    Keys may be text or integers; tuples come back as lists, and tensors in contiguous memory.

    Raises:
        TryAgain: If the disk is full.
    """
    tensors: dict[str, Tensor] = {}
    tree = _split(state, "", tensors)
    size = sum(tensor.nbytes for tensor in tensors.values())
    require_space(folder.parent, size, "a saved training state")
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / STATE, metadata={"tree": canonical_json(tree)})
        write_text(temporary / CHECKSUM, digest_file(temporary / STATE) + "\n")


def read_state(folder: Path) -> dict[str, Any]:
    """Read a state back.

    Raises:
        ValueError: If the state is damaged; the message says how.
    """
    try:
        expected = (folder / CHECKSUM).read_text().strip()
        if digest_file(folder / STATE) != expected:
            raise ValueError("checksum differs")
        with safe_open(folder / STATE, framework="pt") as file:
            tree = json.loads(file.metadata()["tree"])
            state = _join(tree, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(state, dict):
        raise ValueError("not a training state")
    return state


@dataclass
class StateStore:
    """The saved states of one run, named by images seen.

    Attributes:
        folder: Where they lie.
        keep: How many are kept.
    """

    folder: Path
    keep: int = 2

    def names(self) -> list[Path]:
        """Return the state folders, newest first."""
        found = [p for p in self.folder.glob(f"{SAVED}*") if p.name.removeprefix(SAVED).isdigit()]
        return sorted(found, key=lambda p: -int(p.name.removeprefix(SAVED)))

    def save(self, images_seen: int, state: Mapping[str, Any]) -> None:
        """Save a state, then drop the oldest beyond `keep`.

        States with more images go too: they are damaged, or from a future that was given up.
        """
        for cut_short in self.folder.glob(f".{SAVED}*"):
            shutil.rmtree(cut_short, ignore_errors=True)
        saved = self.folder / f"{SAVED}{images_seen:012d}"
        write_state(saved, state)
        names = self.names()
        newer = names.index(saved)
        for other in names[:newer] + names[newer + self.keep :]:
            shutil.rmtree(other, ignore_errors=True)

    def latest(self) -> dict[str, Any] | None:
        """Return the newest state that is whole; damaged ones are named in the log and passed over.

        A state that a killed process was about to replace is there again.
        """
        put_back(self.folder, f"{SAVED}*")
        for folder in self.names():
            try:
                return read_state(folder)
            except ValueError as error:
                log.warning("training state %s is damaged (%s); trying the one before", folder, error)
        return None

    def clear(self) -> None:
        """Remove all states, once the run's result is in place."""
        shutil.rmtree(self.folder, ignore_errors=True)


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's global generators."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_rng(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Put torch's global generators back."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
