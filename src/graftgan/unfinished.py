"""Notes beside saved states of what they belong to, so that none is passed over silently."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graftgan.contract import read_json, sweep, write_json
from graftgan.errors import MissingInput, TryAgain

NOTE = "plan.json"


@dataclass(frozen=True)
class Note:
    """What a saved state belongs to.

    Attributes:
        result: Absolute path of the stage's `result.json`.
        config: The stage's parameters, by dotted key.
        code: sha256 of the package's source files.
        inputs: Digest of each input.
    """

    result: str
    config: Mapping[str, Any]
    code: str
    inputs: Mapping[str, str]


@contextmanager
def noted(state: Path, note: Note) -> Iterator[None]:
    """Keep a note in a state folder while the stage is at work; it stays if that stops with a state saved."""
    # Without a place for it, as on a full or read-only disk, there is no state to be noted either.
    with suppress(OSError, TryAgain):
        sweep(state / NOTE)
        write_json(state / NOTE, asdict(note))
    try:
        yield
    except BaseException:
        if not _holds_state(state):
            _forget(state)
        raise
    _forget(state)


def _forget(state: Path) -> None:
    with suppress(OSError):
        (state / NOTE).unlink(missing_ok=True)
        state.rmdir()


def unused(state: Path, note: Note) -> list[str]:
    """Return why the newest unfinished run with the same outputs cannot be gone on with.

    Args:
        state: State folder of the run that is about to start; the others lie beside it.
        note: What that run belongs to.

    Returns:
        Nothing if the run has a state of its own, or no other run left one.
    """
    if _holds_state(state):
        return []
    stage = state.name.rpartition("-")[0]
    others = (_read(folder) for folder in state.parent.glob(f"{stage}-*") if folder != state)
    earlier = [(written, other) for written, other in filter(None, others) if other.result == note.result]
    if not earlier:
        return []
    _, newest = max(earlier, key=lambda found: found[0])
    return differences(newest, note)


def tell(name: str, reasons: Sequence[str], resume: str, log: logging.Logger) -> None:
    """Say why a saved state is passed over.

    Args:
        name: Who starts.
        reasons: What :func:`unused` found.
        resume: What is to be done about saved states: auto, never or must.
        log: Where it is said.

    Raises:
        MissingInput: `resume` is must.
    """
    if not reasons:
        return
    told = "\n  ".join(["the state that an earlier start saved is of another run:", *reasons])
    if resume == "must":
        raise MissingInput(f"{name}: {told}", "take the changes back, or use --resume auto")
    if resume == "auto":
        log.warning("%s starts from the beginning; %s", name, told)


def _holds_state(folder: Path) -> bool:
    if not (folder / NOTE).is_file():
        return False
    return any(path.is_dir() and not path.name.startswith(".") for path in folder.iterdir())


def _read(folder: Path) -> tuple[int, Note] | None:
    """Return when a note was written, and the note, or None without a state; a run may end meanwhile."""
    try:
        if not _holds_state(folder):
            return None
        return (folder / NOTE).stat().st_mtime_ns, Note(**read_json(folder / NOTE))
    except (MissingInput, TypeError, OSError):
        return None


def differences(old: Note, new: Note) -> list[str]:
    """Return a line for each thing in which two notes differ."""
    lines = []
    for key in sorted({*old.config, *new.config}):
        before, after = (note.config.get(key, "absent") for note in (old, new))
        if before != after:
            lines.append(f"{key}: {before} -> {after}")
    for name in sorted({*old.inputs, *new.inputs}):
        if old.inputs.get(name) != new.inputs.get(name):
            lines.append(f"input {name} has changed")
    if old.code != new.code:
        lines.append("the code of the package has changed")
    return lines
