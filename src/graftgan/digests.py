"""Digests of the user's files, remembered by size and times of change: an unchanged set is cheap."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from graftgan.contract import canonical_json, digest_file, digest_path, digest_text, shared_path, size_bytes
from graftgan.errors import MissingInput, TryAgain

# Below this, reading again is as fast as looking up.
REMEMBER_FROM_BYTES = 32 << 20


class DigestCache:
    """Remembers sha256 by absolute path, size and times in one JSON file a root.

    The time at which the system saw a file change counts too: a modification time can be set back, as copying
    and unpacking do.

    Args:
        folder: Where the JSON files lie; it may be deleted at any time.
        writes: Whether new digests are remembered, or only those used that were.
    """

    def __init__(self, folder: Path, writes: bool = True) -> None:
        self._folder, self._writes = folder, writes

    def digest(self, path: Path) -> str:
        """Return one digest of a file, or of a folder's relative names and contents.

        Symbolic links are followed for files; the caller decides what may be read.

        Raises:
            MissingInput: If `path` does not exist, or a file cannot be read.
        """
        if not path.exists():
            raise MissingInput(f"{path} does not exist", "correct the path in params.yaml")
        root = path.resolve()
        store = self._store(root)
        known = self._load(store)
        fresh: dict[str, list[object]] = {}
        lines = []
        single = root.is_file()
        for name, file in [("", str(root))] if single else _files(root):
            if entry := self._entry(file, known.get(name, [])):
                fresh[name] = entry
                lines.append(f"{name}\0{entry[-1]}")
        if fresh != known and self._writes:
            # It only saves time: a full or read-only disk does no harm.
            with contextlib.suppress(OSError, TryAgain):
                self._write(store, fresh)
        if single and not fresh:
            raise MissingInput(f"{path} vanished while it was read", "put it back")
        return str(fresh[""][-1]) if single else digest_text("\n".join(lines))

    def remember(self, folder: Path, digests: Mapping[str, str]) -> None:
        """Take over digests of files from who wrote them, so that a large file is not read again for that.

        Args:
            folder: The folder they are in.
            digests: The sha256 of each, by its name there.
        """
        if not self._writes or size_bytes(folder) < REMEMBER_FROM_BYTES:
            return
        entries = {}
        for name, digest in digests.items():
            entries[name] = [*_state((folder / name).stat()), digest]
        with contextlib.suppress(OSError, TryAgain):
            self._write(self._store(folder.resolve()), entries)

    def digest_output(self, path: Path) -> str:
        """Return `contract.digest_path` of what a stage wrote; a large output is read only when it changed.

        Raises:
            MissingInput: As `digest`.
        """
        large = path.exists() and size_bytes(path) >= REMEMBER_FROM_BYTES
        return self.digest(path) if large else digest_path(path)

    def _store(self, root: Path) -> Path:
        return self._folder / f"digests-{digest_text(str(root))[:16]}.json"

    @staticmethod
    def _write(store: Path, entries: Mapping[str, list[object]]) -> None:
        with shared_path(store) as temporary:
            temporary.write_bytes(canonical_json(entries).encode())

    @staticmethod
    def _entry(file: str, known: list[object]) -> list[object]:
        """Return the state and the digest of a file, or nothing for what is no regular file."""
        try:
            found = os.stat(file)  # noqa: PTH116
        except OSError:
            return []
        if not stat.S_ISREG(found.st_mode):
            return []
        state = _state(found)
        if known[:-1] == state:
            return known
        try:
            return [*state, digest_file(Path(file))]
        except OSError as error:
            raise MissingInput(f"{file} cannot be read: {error.strerror}", "make it readable") from error

    @staticmethod
    def _load(store: Path) -> dict[str, list[object]]:
        try:
            raw = json.loads(store.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(raw, dict):
            return {}
        return {name: entry for name, entry in raw.items() if isinstance(entry, list) and len(entry) == 4}


def _state(found: os.stat_result) -> list[object]:
    """Return what differs after every change of a file."""
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _files(root: Path) -> list[tuple[str, str]]:
    """Return everything but folders below `root`: its name there and its path, by name.

    An unchanged set costs nothing but this, so it makes no path objects, which would take most of the time.
    """
    found = []
    for folder, _, names in os.walk(root):
        inside = "" if folder == str(root) else Path(folder).relative_to(root).as_posix() + "/"
        found += [(_text(inside + name), f"{folder}{os.sep}{name}") for name in names]
    return sorted(found)


def _text(name: str) -> str:
    # A file name may be any bytes; those that are no UTF-8 become escapes.
    return os.fsencode(name).decode("utf-8", "backslashreplace")
