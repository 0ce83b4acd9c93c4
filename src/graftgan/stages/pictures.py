"""Pictures that depend on a network and a few settings alone: drawn once, then taken from the cache."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from graftgan.context import Context
from graftgan.contract import shared_path
from graftgan.errors import TryAgain

SEAL_BYTES = 64
_log = logging.getLogger(__name__)


def drawn_once(target: Path, key: str, draw: Callable[[Path], None], ctx: Context) -> None:
    """Write a picture, drawn only if no one drew it before.

    Args:
        target: Where it is wanted.
        key: Hex digest of everything that it depends on.
        draw: Writes it to a path.
        ctx: Surroundings of the stage; a cache that cannot be used stops nothing.
    """
    kept = ctx.cache / "pictures" / key[:2] / f"{key}{target.suffix}"
    try:
        stored = kept.read_bytes()
    except OSError:
        stored = b""
    # What was damaged, or lies under another name, is drawn again.
    if stored[:SEAL_BYTES] == _seal(key, stored[SEAL_BYTES:]):
        target.write_bytes(stored[SEAL_BYTES:])
        return
    draw(target)
    content = target.read_bytes()
    try:
        with shared_path(kept) as temporary:
            temporary.write_bytes(_seal(key, content) + content)
    except (OSError, TryAgain) as error:
        _log.warning("picture cache: %s; what was drawn is not kept", error)


def _seal(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + content).hexdigest().encode()
