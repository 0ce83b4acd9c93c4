"""A local MLflow store among several processes: locks and a database that are waited for no longer than told.

MLflow itself waits 20 s for a locked SQLite database in each of its calls, and 100 s for one that cannot be
opened. A wait that ends in vain is `TryAgain`: the caller's journal keeps what it has, and nobody works
without the lock.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from graftgan.errors import TryAgain

LATER = "run `graftgan sync` later"
BUSY_TIMEOUT = "PRAGMA busy_timeout"
POOL = "MLFLOW_SQLALCHEMYSTORE_POOLCLASS"
_patience_ms: list[int] = []


def database_file(uri: str) -> Path | None:
    """Return the file of a SQLite store, or None for a store of another kind."""
    name = uri.partition("///")[2].partition("?")[0]
    return Path(name) if uri.startswith("sqlite") and name and not name.startswith((":", "file:")) else None


def unfinished_database(database: Path) -> Path:
    """Return where a database lies while its tables are made."""
    return database.with_name(f"{database.name}.new")


def changed(path: Path | None) -> float:
    """Return when a file changed last in seconds since 1970, 0 if there is none."""
    try:
        return path.stat().st_mtime if path else 0.0
    except OSError:
        return 0.0


def set_database_patience(timeout_s: float) -> None:
    """Let each statement of this process wait at most `timeout_s` for a locked SQLite database."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    if not _patience_ms:
        event.listen(Engine, "connect", _limit_connection)
        event.listen(Engine, "before_cursor_execute", _limit_session, retval=True)
    _patience_ms[:] = [max(1, round(1000 * timeout_s))]


def _limit_connection(connection: Any, record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute(f"{BUSY_TIMEOUT} = {_patience_ms[0]}")


def _limit_session(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
) -> tuple[str, Any]:
    # MLflow sets 20 s anew in every session.
    if statement.startswith(BUSY_TIMEOUT):
        statement = f"{BUSY_TIMEOUT} = {_patience_ms[0]}"
    return statement, parameters


@contextmanager
def held(lock: Path, timeout_s: float, sign: Path | None = None) -> Iterator[None]:
    """Hold a lock against the other processes of this machine during the block.

    Args:
        lock: The lock's file.
        timeout_s: Longest wait for another process that has it and gives no sign of life.
        sign: A file that changes as long as the other process gets on.

    Raises:
        TryAgain: If the lock is not to be had.
    """
    mine = FileLock(lock)
    seen = changed(sign)
    while not _acquired(mine, timeout_s):
        before, seen = seen, changed(sign)
        if before == seen:
            raise TryAgain(f"another process has held {lock} for {timeout_s:g} s", LATER)
    try:
        yield
    finally:
        mine.release()


def _acquired(lock: FileLock, timeout_s: float) -> bool:
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout:
        return False
    # The second is the answer of file systems that know no locks.
    except (OSError, NotImplementedError) as error:
        raise TryAgain(f"{lock.lock_file} cannot be locked: {error}", LATER) from error
    return True


def make_tables(database: Path, make: Callable[[str], object]) -> None:
    """Make a database that is not there, beside its place until it is whole; hold its lock meanwhile.

    A process that is killed among MLflow's hundred changes of tables would leave a database broken for good.

    Args:
        database: The SQLite file.
        make: Makes the tables at an address.
    """
    if database.exists():
        return
    unfinished = unfinished_database(database)
    for rest in unfinished.parent.glob(f"{unfinished.name}*"):
        rest.unlink()
    pool = os.environ.get(POOL)
    # The file is to be closed when it moves; the usual pool would keep it open.
    os.environ[POOL] = "NullPool"
    try:
        # MLflow keeps what it opened by its address, and a relative one may be another file next time.
        make(f"sqlite:///{unfinished.absolute()}")
    finally:
        os.environ.pop(POOL) if pool is None else os.environ.update({POOL: pool})
    unfinished.replace(database)


def knock(database: Path, timeout_s: float) -> None:
    """See whether a database can be read within `timeout_s`.

    Raises:
        TryAgain: If it is locked, cannot be opened or is no database.
    """
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", timeout_s, uri=True)) as line:
            line.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        raise TryAgain(f"{database}: {error}", LATER) from error
