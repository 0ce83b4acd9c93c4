"""One reader a public checkpoint format, chosen by content, never by file name.

A reader is a module with `matches(content) -> bool`, which looks at keys and shapes only, and
`read(content) -> Imported`, which converts everything or raises.
"""

from __future__ import annotations

import importlib

from graftgan.checkpoints.imported import Content, Imported, refuse

READERS: dict[str, str] = {
    name: f"graftgan.checkpoints.readers.{name}"
    for name in (
        "nvidia", "rosinality", "biggan", "huggingface_biggan", "gan_stability", "translation", "lucidrains",
        "dcgan", "graftgan",
    )
}  # fmt: skip
"""Format name -> module; the first that matches reads the file."""


def read(content: Content) -> Imported:
    """Convert a checkpoint by the first reader that knows its content.

    Raises:
        CheckpointError: No reader knows it, or it would load in part only.
    """
    for module in READERS.values():
        reader = importlib.import_module(module)
        if reader.matches(content):
            imported: Imported = reader.read(content)
            return imported
    tree = content.tree if isinstance(content.tree, dict) else {}
    raise refuse(content.path, "is of no known checkpoint format", list(tree))
