"""Locks that keep processes from working on the same things; the lock of a killed process is void."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from graftgan.contract import LOCK, digest_text
from graftgan.errors import TryAgain
from graftgan.places import home

log = logging.getLogger("graftgan")
# What file systems without locks, or that cannot be written, answer.
NO_LOCK = (OSError, NotImplementedError)


def true_path(path: Path) -> Path:
    """Return the one absolute path of an output: links on the way are followed, the last name is kept.

    DVC may have put a link in the place of an output, and the next run puts a file there.
    """
    return path.parent.resolve() / path.name


@contextmanager
def alone(thing: str, what: str) -> Iterator[None]:
    """Keep processes with the same `$GRAFTGAN_HOME` from working on `thing` during the block.

    Args:
        thing: What is worked on, in words that are the same in each process.
        what: Who works, for the message.

    Raises:
        TryAgain: If another process has it.
    """
    lock = FileLock(home() / "locks" / digest_text(thing)[:16], timeout=0)
    try:
        _acquire(lock, what)
    except NO_LOCK as error:
        # Without a place for locks, as on a read-only disk, there is no state to share either.
        log.debug("no lock for %s: %s", what, error)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def alone_at(path: Path, what: str) -> Iterator[None]:
    """Keep all other processes that see `path` from writing it during the block, wherever they were started.

    The lock is a hidden file beside `path`, which is removed at the end, so that nobody copies it along.

    Args:
        path: An output.
        what: Who writes it, for the message.

    Raises:
        TryAgain: If another process has it.
    """
    file = true_path(path).with_name(f".{path.name}{LOCK}")
    lock = FileLock(file, timeout=0)
    try:
        _acquire(lock, what)
    except NO_LOCK as error:
        log.warning(
            "%s: no lock can be made beside %s (%s); another run that writes there would not be noticed",
            what, path, error,
        )  # fmt: skip
    try:
        yield
    finally:
        if lock.is_locked:
            # While it is held, so that no other process's lock is removed; Windows does not let go of it.
            with suppress(OSError):
                file.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, what: str) -> None:
    file = Path(lock.lock_file)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire()
    except Timeout:
        message = f"another process runs {what} with the same outputs or parameters ({file})"
        raise TryAgain(message, "wait for it to end") from None
