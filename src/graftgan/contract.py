"""What crosses between stages: digests, atomic writes and the deterministic `result.json`."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from graftgan.errors import GraftganError, MissingInput, TryAgain

SCHEMA_VERSION = 1
CHUNK_BYTES = 1 << 20
# Left free beside whatever is saved, so that logs and results can still be written.
SPARE_BYTES = 1 << 20
# Name of what is moved aside, in the temporary folder beside it.
MOVED = "old"
LOCK = ".lock"
# Whoever still writes in a cache has written something within this time.
IDLE_S = 3600.0
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def canonical_json(value: Any) -> str:
    """Return `value` as JSON with sorted keys and no spaces, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_text(text: str) -> str:
    """Return the sha256 of `text` in UTF-8, or of the bytes it stands for, as 64 hex digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def digest_file(path: Path) -> str:
    """Return the sha256 of a file's bytes as 64 hex digits."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()


def digest_path(path: Path) -> str:
    """Return one digest of a file, or of a folder's relative names and contents.

    Raises:
        MissingInput: If `path` does not exist.
    """
    if path.is_file():
        return digest_file(path)
    if not path.is_dir():
        raise MissingInput(f"{path} does not exist", "run the stage that makes it, or correct the path")
    lines = [
        f"{file.relative_to(path).as_posix()}\0{digest_file(file)}"
        for file in sorted(path.rglob("*"), key=lambda f: f.relative_to(path).as_posix())
        if file.is_file()
    ]
    return digest_text("\n".join(lines))


def size_bytes(path: Path) -> int:
    """Return the size of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target` that takes its place, whole, when the block ends well.

    The block may make a file or a folder there. On an exception the temporary is removed and an
    earlier `target` stays as it was. What killed processes left of writing `target` goes first, once nobody
    can be writing it any more.

    Raises:
        TryAgain: If the disk is full.
        OSError: If it cannot be written otherwise.
    """
    holder = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target, IDLE_S)
        holder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        temporary = holder / target.name
        yield temporary
        for file in [temporary, *temporary.rglob("*")] if temporary.is_dir() else [temporary]:
            _sync(file)
        _replace(temporary, target, holder)
        _sync(target.parent)
    except Exception as error:
        if disk_is_full(error):
            raise TryAgain(
                f"no space left on the disk of {target}", "free some space and run again"
            ) from error
        if not isinstance(error, OSError | GraftganError) and os.strerror(errno.EIO) in str(error):
            # Only the words of it came from a library in another language.
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(target)) from error
        raise
    finally:
        # Whatever ended the block, a signal among it: what was moved aside must not go with the holder.
        if holder and _put_back(holder / MOVED, target):
            shutil.rmtree(holder, ignore_errors=True)


def put_back(folder: Path, pattern: str) -> None:
    """Give their names back to paths that a killed process had moved aside to put others in their place.

    Args:
        folder: The folder that they lay in; nobody may be writing there now.
        pattern: Glob pattern of their names.
    """
    for moved in folder.glob(f".{pattern}.????????/{MOVED}"):
        _put_back(moved, folder / moved.parent.name[1:].rpartition(".")[0])


def _put_back(moved: Path, target: Path) -> bool:
    if os.path.lexists(moved) and not os.path.lexists(target):
        try:
            moved.rename(target)
        except OSError as error:
            logging.getLogger("graftgan").error("%s is left in %s: %s", target, moved, error)
            return False
    return True


class _ThereError(Exception):
    """Another process was quicker."""


@contextmanager
def shared_path(target: Path, there: Callable[[], bool] = lambda: False) -> Iterator[Path]:
    """As `atomic_path`, in a cache that processes share without a lock.

    What killed processes left of writing in its folder goes first, once nobody can be writing it any more: of
    other files too, since those that are whole by now are never written again.

    Args:
        target: A path in a cache.
        there: Tells at the end whether another process has made `target` meanwhile. Then that one stays: a
            folder that takes the place of another is for a moment not there for those who read it.

    Raises:
        TryAgain, OSError: As `atomic_path`.
    """
    sweep_all(target.parent, IDLE_S)
    with suppress(_ThereError), atomic_path(target) as temporary:
        yield temporary
        if there():
            raise _ThereError


def sweep(target: Path, idle_s: float = 0.0) -> None:
    """Remove what killed processes left of writing `target`; what they had moved aside is there again.

    Args:
        target: A path that was being written.
        idle_s: What changed within this time stays, since somebody may be writing it; with 0 nobody is.
    """
    for holder in target.parent.glob(f".{glob.escape(target.name)}.????????"):
        _sweep(holder, idle_s)


def sweep_all(folder: Path, idle_s: float = 0.0) -> None:
    """Remove what killed processes left of writing anything in `folder`; see :func:`sweep`."""
    for holder in folder.glob(".*.????????"):
        _sweep(holder, idle_s)


def _sweep(holder: Path, idle_s: float) -> None:
    idle = not idle_s or time.time() - _changed(holder) > idle_s
    target = holder.with_name(holder.name[1:].rpartition(".")[0])
    if idle and _is_holder(holder) and _put_back(holder / MOVED, target):
        shutil.rmtree(holder, ignore_errors=True)


def _is_holder(path: Path) -> bool:
    """Tell whether a path is one of ours: a hidden folder of the user's may have such a name."""
    name = path.name[1:].rpartition(".")[0]
    try:
        # What is written there may be written by way of a temporary folder as well.
        return all(file.name in (name, MOVED) or file.name.startswith(f".{name}.") for file in path.iterdir())
    except OSError:
        return False


def _changed(holder: Path) -> float:
    """Return when anything in a folder changed last, in seconds since 1970."""
    try:
        return max(path.lstat().st_mtime for path in (holder, *holder.rglob("*")))
    except OSError:
        # It is vanishing under our eyes, so somebody is at work.
        return time.time()


def is_lock(file: Path) -> bool:
    """Tell whether a file is a lock, held or left by a killed process, and no content."""
    return file.name.startswith(".") and file.name.endswith(LOCK)


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Refuse to begin writing what the disk has no room for.

    Args:
        folder: Where it is to lie; it may not exist yet.
        needed_bytes: Its size.
        what: Its name in the message.

    Raises:
        TryAgain: If less is free, the spare room counted.
    """
    there = next((place for place in (folder, *folder.parents) if place.exists()), None)
    try:
        free = shutil.disk_usage(there or Path()).free
    except OSError:
        # Not every file system tells; then the write itself finds out.
        return
    if free < needed_bytes + SPARE_BYTES:
        raise TryAgain(
            f"{what} needs {needed_bytes / 1e6:.1f} MB in {folder}, and {free / 1e6:.1f} MB are free",
            "free some space and run again; what was saved before stays",
        )


def disk_is_full(error: BaseException) -> bool:
    """Tell whether an exception means that the disk, a quota or the largest file size is exhausted."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    # Libraries in other languages, such as safetensors, hand on only the words.
    return not isinstance(error, GraftganError) and os.strerror(errno.ENOSPC) in str(error)


def _replace(temporary: Path, target: Path, holder: Path) -> None:
    # Only a file may be renamed over a file or a link; DVC may have left a link where a folder goes.
    if target.is_dir() or (temporary.is_dir() and os.path.lexists(target)):
        target.rename(holder / MOVED)
    temporary.rename(target)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, in UTF-8 with Unix line ends."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically as indented JSON with sorted keys."""
    write_text(path, json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file that an earlier stage wrote.

    Raises:
        MissingInput: If the file is absent or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise MissingInput(f"{path} does not exist", "run the stage that makes it") from None
    except (ValueError, RecursionError) as error:
        raise MissingInput(
            f"{path} is not valid JSON: {error}", "run the stage that makes it again"
        ) from None


@dataclass(frozen=True)
class Entry:
    """One output as `result.json` records it."""

    digest: str
    bytes: int


@dataclass(frozen=True)
class Result:
    """What a stage did, free of times, hosts and ids, so that equal runs give equal bytes.

    Attributes:
        stage: Name of the stage.
        config: sha256 of the canonical JSON of the configuration leaves that the stage reads.
        code: sha256 of the package's source files.
        inputs: Digest of each input.
        outputs: Digest and size of each output that is not volatile.
        metrics: Scalar results, by name.
        warnings: Sentences for the person who reads the report.
        status: "done".
        schema: Version of this record.
    """

    stage: str
    config: str
    code: str
    inputs: dict[str, str]
    outputs: dict[str, Entry] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    status: str = "done"
    schema: int = SCHEMA_VERSION

    def write(self, path: Path) -> None:
        """Write the record atomically."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read the record back.

        Raises:
            MissingInput: If the file is absent, unreadable or of another schema.
        """
        raw = read_json(path)
        try:
            raw["outputs"] = {name: Entry(**entry) for name, entry in raw["outputs"].items()}
            raw["warnings"] = tuple(raw["warnings"])
            result = cls(**raw)
        except (KeyError, TypeError, AttributeError) as error:
            raise MissingInput(f"{path} is not a stage result: {error}", "run the stage again") from None
        if result.schema != SCHEMA_VERSION:
            raise MissingInput(
                f"{path} has schema {result.schema}, not {SCHEMA_VERSION}", "run the stage again"
            )
        return result


@dataclass(frozen=True)
class Outcome:
    """What a stage function hands back.

    Attributes:
        metrics: Scalar results, by name.
        warnings: Sentences for people.
        spent: Saved states that are of no use once the outputs are in place; they are then removed.
        digests: The sha256 of files that the stage wrote and has read again already, by output that is a
            folder and name in it.
        facts: How it ran, for `run.json` alone: nothing that equal runs would not share is a result.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    spent: tuple[Path, ...] = ()
    digests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
