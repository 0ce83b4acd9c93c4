"""What reading a public checkpoint gives: tensors in this project's layout, and an account of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from graftgan.errors import CheckpointError


@dataclass(frozen=True)
class Content:
    """A file opened without running any of its code.

    Attributes:
        path: The file or folder.
        container: How it is packed: `torch`, `nvidia-pickle`, `safetensors`, or `folder` (several files).
        tree: Its content: nested dicts, lists, plain values and tensors. For `nvidia-pickle`, network objects
            are `graftgan.checkpoints.unpickle.Stub`; for `folder`, file names map to their contents.
        config: JSON found beside or inside the file, or empty.
    """

    path: Path
    container: str
    tree: Any
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Imported:
    """A checkpoint in this project's form.

    Attributes:
        format: Name of the reader.
        spec: A `GanSpec`, or the spec of a translation network; it has `family` and `to_dict()`.
        tensors: Name to tensor, `generator_ema.…`, `generator.…`, `discriminator.…` (`translator.…` for
            translation networks).
        skipped: Name of a tensor in the file -> why it is not needed.
        made: Name of a tensor of ours that the file lacks -> how it was made. Networks that are absent as a
            whole (a generator published alone) are listed in `absent`, not here.
        absent: Networks the file does not hold: of `generator`, `discriminator`.
        notes: Sentences for the user: warnings, provenance found in the file.
    """

    format: str
    spec: Any
    tensors: dict[str, Tensor]
    skipped: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def refuse(path: Path, why: str, keys: object = ()) -> CheckpointError:
    """Return the error that refuses a file, with the first 20 of its keys.

    Args:
        path: The file.
        why: What is wrong, naming the tensor, global or field.
        keys: Names found in the file.
    """
    found = [str(key) for key in keys] if isinstance(keys, (list, tuple, dict, set)) else []
    listing = f"; it holds {', '.join(found[:20])}{' and more' if len(found) > 20 else ''}" if found else ""
    return CheckpointError(
        f"{path}: {_printable(why + listing)}",
        "use a file of a format that `graftgan source inspect --help` lists",
    )


def _printable(text: str) -> str:
    """Escape control characters: names come from strangers, and the message goes to a terminal."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape", "surrogatepass").decode("ascii")
        for sign in text
    )
