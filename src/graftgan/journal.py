"""Write-ahead journal of tracking events: one JSON line an event, and a marker of what a server already has.

The journal is the truth. A run writes here first and never waits for a server; `graftgan.tracking.sync`
sends complete lines in order and notes the byte offset behind the last one that arrived. A line cut short
by a kill is neither read nor counted. Standard library only.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from graftgan.contract import write_json

SUFFIX, WAITING = ".jsonl", ".artifacts"
FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"
CHAMPION, CHALLENGER = "champion", "challenger"
KEY_TAG = "graftgan.package"
ALIAS_TAG = "graftgan.alias"
REASON_TAG = "graftgan.reason"
SUPERSEDED_TAG = "graftgan.superseded_by"
PREDECESSOR_TAG = "graftgan.predecessor"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """One line of a journal.

    Attributes:
        id: Unique within the journal.
        kind: `start`, `params`, `metrics`, `dataset`, `tags`, `artifact`, `register` or `end`.
        time_ms: Milliseconds since 1970.
        data: What happened; the keys depend on the kind.
        end: Byte offset behind the line.
    """

    id: str
    kind: str
    time_ms: int
    data: Mapping[str, Any]
    end: int = 0


@dataclass(frozen=True)
class Marker:
    """What a server already has of a journal.

    Attributes:
        offset: Bytes of the journal that were sent.
        target: Digest of the server's address; a run is not continued on another server.
        run_id: The server's id of the stage's run.
        parent_id: The server's id of the parent run.
        experiment_id: The server's id of the experiment.
        open: Whether the run that was sent so far has no end.
    """

    offset: int = 0
    target: str = ""
    run_id: str = ""
    parent_id: str = ""
    experiment_id: str = ""
    open: bool = False


@runtime_checkable
class RegistrationQueue(Protocol):
    """A tracker that keeps requests to the model registry for later."""

    def request_registration(
        self, name: str, key: str, package: Path, tags: Mapping[str, str], mode: str
    ) -> bool:
        """Note that a package waits to be registered; tell whether the note was kept."""


class Journal:
    """Appends events to one file; a second process must not write to it at the same time.

    Args:
        path: The file; its folder is made. A cut last line is removed first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            with path.open("r+b") as file:
                file.truncate(_complete_bytes(path))
        self._file = path.open("ab", buffering=0)

    @property
    def artifacts(self) -> Path:
        """Folder for copies of artifacts that wait to be sent."""
        return artifacts_path(self.path)

    def append(self, kind: str, durable: bool = False, **data: Any) -> str:
        """Write one event and return its id.

        Args:
            kind: Kind of the event.
            durable: Wait until the disk has it.
            data: Content; floats that are not finite are written as text.

        Raises:
            OSError: If the line cannot be written, for instance on a full disk.
        """
        event = {
            "id": uuid.uuid4().hex,
            "kind": kind,
            "time_ms": time.time_ns() // 1_000_000,
            "data": _plain(data),
        }
        # One unbuffered write, so that a kill cuts at most this line.
        self._file.write(json.dumps(event, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        if durable:
            os.fsync(self._file.fileno())
        return str(event["id"])

    def close(self) -> None:
        """Close the file; appending afterwards is an error."""
        self._file.close()


def read_events(path: Path, offset: int = 0) -> Iterator[Event]:
    """Yield the complete events of a journal from a byte offset on, without unreadable lines."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            offset += len(line)
            if not line.endswith(b"\n"):
                return
            try:
                raw = json.loads(line)
                yield Event(raw["id"], raw["kind"], int(raw["time_ms"]), dict(raw["data"]), offset)
            except (ValueError, KeyError, TypeError):
                _log.warning("%s: the line that ends at byte %d is damaged and is left out", path, offset)


def journals(folder: Path) -> list[Path]:
    """Return the journal files below a folder, sorted by name."""
    found = []
    # What waits to be sent goes as it arrives, at any moment; a folder that is gone when it is looked into is
    # passed over.
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.endswith(WAITING)]
        found += [Path(place, name) for name in files if name.endswith(SUFFIX)]
    return sorted(found)


def read_marker(path: Path) -> Marker:
    """Return what was sent of the journal `path`; an absent or damaged marker counts as nothing."""
    try:
        return Marker(**json.loads(marker_path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Marker()


def write_marker(path: Path, marker: Marker) -> None:
    """Note atomically what was sent of the journal `path`."""
    write_json(marker_path(path), asdict(marker))


def marker_path(path: Path) -> Path:
    """Return the path of the marker beside a journal."""
    return path.with_suffix(".synced")


def artifacts_path(path: Path) -> Path:
    """Return the folder for copies of artifacts that wait beside a journal."""
    return path.with_suffix(WAITING)


def pending_bytes(path: Path) -> int:
    """Return how many bytes of complete events were not sent yet."""
    return max(0, _complete_bytes(path) - read_marker(path).offset)


def _complete_bytes(path: Path) -> int:
    content = path.read_bytes() if path.is_file() else b""
    return content.rfind(b"\n") + 1


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
