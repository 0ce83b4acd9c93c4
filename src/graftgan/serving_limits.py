"""What served models have in common: errors that a server answers with, and turns that end in time.

Requests are worked on one at a time, so that memory does not grow with their number. One that waited and
worked for longer than `GRAFTGAN_SERVING_TIMEOUT_S` (50) stops between two rows.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import DEADLINE_EXCEEDED

from graftgan.errors import ConfigError

MAX_ROWS = 64
TIMEOUT = "GRAFTGAN_SERVING_TIMEOUT_S"
# Below the 60 s after which MLflow's server turns the client away, yet lets the work go on.
TIMEOUT_S = 50.0
MAX_TIMEOUT_S = 86_400.0


def invalid(message: str) -> Exception:
    """Return the error that a server answers with INVALID_PARAMETER_VALUE."""
    error: Exception = MlflowException.invalid_parameter_value(message)
    return error


def late(limit_s: float) -> Exception:
    """Return the error that a server answers with DEADLINE_EXCEEDED."""
    error: Exception = MlflowException(
        f"the request took longer than {limit_s:g} s; ask for fewer rows", error_code=DEADLINE_EXCEEDED
    )
    return error


def timeout_s() -> float:
    """Return how long a request may wait and work.

    Models ask when they are loaded, so that a value that cannot be used keeps a server from starting, rather
    than failing every request.

    Raises:
        ConfigError: If `GRAFTGAN_SERVING_TIMEOUT_S` is no number of seconds from 0 to a day.
    """
    given = os.environ.get(TIMEOUT, "").strip()
    try:
        limit_s = float(given) if given else TIMEOUT_S
    except ValueError:
        limit_s = math.nan
    if not 0 < limit_s <= MAX_TIMEOUT_S:
        raise ConfigError(
            f"the environment variable {TIMEOUT} is {given[:40]!r}",
            f"give a number of seconds above 0, {MAX_TIMEOUT_S:g} at most, or leave it out for {TIMEOUT_S:g}",
        )
    return limit_s


@contextmanager
def in_time(turn: threading.Lock) -> Iterator[Callable[[], None]]:
    """Wait for the turn, and give what raises once the time is over.

    Raises:
        ConfigError: As `timeout_s` does.
        MlflowException: DEADLINE_EXCEEDED, if the turn does not come in time.
    """
    limit_s = timeout_s()
    over_s = time.monotonic() + limit_s

    def check() -> None:
        if time.monotonic() >= over_s:
            raise late(limit_s)

    if not turn.acquire(timeout=limit_s):
        raise late(limit_s)
    try:
        yield check
    finally:
        turn.release()
