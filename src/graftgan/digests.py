"""Digests of the user's own files, remembered by size and modification time so that an unchanged set is cheap."""

from __future__ import annotations

import json
from pathlib import Path

from graftgan.contract import digest_file, digest_text, write_json
from graftgan.errors import MissingInput


class DigestCache:
    """Remembers sha256 by absolute path, size and modification time in one JSON file a root.

    Args:
        folder: Where the JSON files lie; it may be deleted at any time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def digest(self, path: Path) -> str:
        """Return one digest of a file, or of a folder's relative names and contents.

        Symbolic links are followed for files; the caller decides what may be read.

        Raises:
            MissingInput: If `path` does not exist.
        """
        if not path.exists():
            raise MissingInput(f"{path} does not exist", "correct the path in params.yaml")
        root = path.resolve()
        store = self._folder / f"digests-{digest_text(str(root))[:16]}.json"
        known = self._load(store)
        fresh: dict[str, list[object]] = {}
        lines = []
        for file in [root] if root.is_file() else sorted(f for f in root.rglob("*") if f.is_file()):
            name = "" if file == root else file.relative_to(root).as_posix()
            stat = file.stat()
            entry = known.get(name, [])
            if entry[:2] != [stat.st_size, stat.st_mtime_ns]:
                entry = [stat.st_size, stat.st_mtime_ns, digest_file(file)]
            fresh[name] = entry
            lines.append(f"{name}\0{entry[2]}")
        if fresh != known:
            write_json(store, fresh)
        return str(fresh[""][2]) if root.is_file() else digest_text("\n".join(lines))

    @staticmethod
    def _load(store: Path) -> dict[str, list[object]]:
        try:
            raw = json.loads(store.read_text())
            return raw if isinstance(raw, dict) else {}
        except (OSError, ValueError):
            return {}
