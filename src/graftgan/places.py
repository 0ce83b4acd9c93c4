"""Where state and caches lie, and the digest of the package's own source."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import graftgan
from graftgan.contract import digest_file, digest_text


def home() -> Path:
    """Return the folder for training state and the local tracking store: `$GRAFTGAN_HOME` or `.graftgan`."""
    return Path(os.environ.get("GRAFTGAN_HOME", ".graftgan"))


def cache_home() -> Path:
    """Return the folder for caches: `$GRAFTGAN_CACHE` or the user's cache folder."""
    if given := os.environ.get("GRAFTGAN_CACHE"):
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_cache_dir("graftgan"))


@functools.cache
def code_digest(*parts: str) -> str:
    """Return the sha256 over the package's source files and the rules that it reads.

    Args:
        parts: Files and folders of the package that count, such as `gans`; none means all.
    """
    root = Path(graftgan.__file__).parent
    found = {f.relative_to(root).as_posix(): f for f in root.rglob("*") if f.suffix in (".py", ".json")}
    below = tuple(f"{part}/" for part in parts)
    names = [name for name in sorted(found) if not parts or f"{name}/".startswith(below)]
    return digest_text("\n".join(f"{name}\0{digest_file(found[name])}" for name in names))
