"""Finds every changed byte of a bank and says which file, layer and task it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load

from graftgan.bank import files
from graftgan.bank.manifest import Layer, Manifest, Task

HEADER = "header"
ALL = "all tasks"


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a bank.

    Attributes:
        file: Path in the bank.
        layer: Layer, or the part of the file, that it concerns.
        task: Task whose values have changed; later ones may build on it.
        what: What is wrong, in words.
    """

    file: str
    layer: str
    task: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: layer {self.layer}, task {self.task}: {self.what}"


def inspect_bank(folder: Path, manifest: Manifest, loose: bool = False) -> tuple[Finding, ...]:
    """Compare the files of a bank with the digests of its manifest.

    Args:
        folder: The bank.
        manifest: Its manifest, which has been checked when it was read.
        loose: Whether more than the manifest names may be there, as while a writer is at work.

    Returns:
        What was found; nothing if the bank is whole.
    """
    if not manifest.tasks:
        return ()
    found: list[Finding] = []
    for layer in manifest.layers:
        found += _filters(folder, layer, manifest.tasks, loose)
    for task in manifest.tasks:
        found += _task(folder, task)
    return tuple(found)


def _filters(folder: Path, layer: Layer, tasks: tuple[Task, ...], loose: bool) -> Iterator[Finding]:
    name = f"filters/{layer.name}.safetensors"
    try:
        raw = (folder / name).read_bytes()
    except OSError as error:
        yield Finding(name, layer.name, ALL, f"cannot be read: {error.strerror}")
        return
    wanted = layer.rows_after(len(tasks))
    parted = files.split(raw, layer.d)
    rows = parted[0] if parted else 0
    if parted is None or rows < wanted or (rows > wanted and not loose):
        what = "its header or its length has changed" if parted is None else f"{rows} filters, not {wanted}"
        yield Finding(name, layer.name, ALL, what)
    first = len(files.header(wanted, layer.d)) if parted is None else len(raw) - len(parted[1])
    running, done = hashlib.sha256(), 0
    for task in tasks:
        end = task.prefix_cols[layer.name] * layer.d * files.VALUE_BYTES
        running.update(raw[first + done : first + end])
        if running.hexdigest() != task.prefix_sha256[layer.name]:
            # Digests of longer prefixes differ as well; the first one tells whose rows have changed.
            yield Finding(name, layer.name, task.name, "its filters are not those that were stored")
            return
        done = end


def _task(folder: Path, task: Task) -> Iterator[Finding]:
    try:
        raw = (folder / task.file).read_bytes()
    except OSError as error:
        yield Finding(task.file, HEADER, task.name, f"cannot be read: {error.strerror}")
        return
    if files.sha256(raw) == task.sha256[task.file]:
        return
    try:
        tensors = load(raw)
        digests = {name: files.tensor_sha256(tensor) for name, tensor in tensors.items()}
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        yield Finding(task.file, HEADER, task.name, f"is not a whole safetensors file: {error}")
        return
    differing = sorted(
        name for name in {*digests, *task.tensor_sha256} if digests.get(name) != task.tensor_sha256.get(name)
    )
    for name in differing:
        yield Finding(task.file, layer_of(name), task.name, f"the tensor {name} has changed")
    if not differing:
        yield Finding(task.file, HEADER, task.name, "its header has changed")


def layer_of(tensor: str) -> str:
    """Return the layer of a tensor in a task's file: `A/<layer>`, `bias/<layer>`, `norm/<layer>/weight`."""
    parts = tensor.split("/")
    return parts[1] if len(parts) > 1 else tensor
