"""CPU seconds of work that may be interrupted: added up over its starts, or not known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graftgan.contract import read_json, write_json
from graftgan.training.state import SAVED

KEY = "cpu_s"


def begun(folder: Path) -> bool:
    """Tell whether an earlier start left a saved state in a folder or below it."""
    return any(folder.rglob(f"{SAVED}*"))


def spent(file: Path) -> float | None:
    """Return the seconds that a file has; None where some were lost or none were counted."""
    return read_json(file)[KEY] if file.is_file() else None


@contextmanager
def clocked(file: Path, states: Path) -> Iterator[None]:
    """Add the seconds of the block to those in a file, whether it ends or is interrupted.

    A process that is killed cannot say how long it ran: its seconds, and so the sum, are then not known.
    Where nothing was saved, work begins again and so does the sum.

    Args:
        file: Where the sum is kept.
        states: Folder of the saved states that the block goes on from.
    """
    earlier = spent(file) if begun(states) else 0.0
    write_json(file, {KEY: None})
    start = time.process_time()
    try:
        yield
    finally:
        write_json(file, {KEY: None if earlier is None else earlier + time.process_time() - start})
