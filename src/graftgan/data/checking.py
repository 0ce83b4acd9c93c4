"""Checks a manifest, in a process of its own where importing the library would hold up the packing."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pandas as pd

from graftgan.data.validation import LIBRARY, Checked, Expectation, check, engine
from graftgan.errors import TryAgain

UNUSED = ("boto3", "sqlalchemy")
END_WITHIN_S = 5.0
Tables = Mapping[str, pd.DataFrame]
Finish = Callable[[], list[Checked]]
"""Waits for the outcome of each expectation, in their order."""
Begin = Callable[[Tables, Sequence[Expectation]], Finish]


@contextmanager
def checking(docs: Path, log: logging.Logger, apart: bool) -> Iterator[Begin]:
    """Give a function that begins to check tables; what that returns waits for the outcome.

    Great Expectations takes seconds to import. With `apart` another process begins with that at once, while
    this one makes the tables, and checks them while this one does other things.

    Args:
        docs: Existing folder for pages that people can read.
        log: As for `validation.check`.
        apart: Whether to use another process; without the library there is nothing to gain.

    Raises:
        TryAgain: On finishing, if the process was killed.
    """
    if not apart or importlib.util.find_spec(LIBRARY) is None:
        yield lambda tables, wanted: _at_once(check(tables, wanted, docs, log))
        return
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=_serve, args=(its,), daemon=True)
    process.start()
    its.close()

    def begin(tables: Tables, wanted: Sequence[Expectation]) -> Finish:
        try:
            mine.send((dict(tables), list(wanted), docs))
        except OSError:
            raise _killed() from None
        return lambda: _answer(mine)

    try:
        yield begin
    finally:
        mine.close()
        # It ends by itself; killed, it would leave semaphores behind, which Python tells of.
        process.join(END_WITHIN_S)
        process.kill()
        process.join()


def _at_once(checked: list[Checked]) -> Finish:
    return lambda: checked


def _answer(link: Connection) -> list[Checked]:
    try:
        found = link.recv()
    except (EOFError, OSError):
        raise _killed() from None
    if isinstance(found, Exception):
        raise found
    return list(found)


def _killed() -> TryAgain:
    return TryAgain(
        "the process that checks the data was killed or did not start, perhaps for want of memory",
        "set runtime.workers: 1 and run again",
    )


def _serve(link: Connection) -> None:
    # The parent alone answers Ctrl-C; when it is gone, the link breaks and this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Packages for data that is elsewhere, which the library takes along where it finds them.
    for name in UNUSED:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        library = engine()
        tables, wanted, docs = link.recv()
        link.send(library.check(tables, wanted, docs))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:
        link.send(error)
