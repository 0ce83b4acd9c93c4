"""How messages look on a terminal."""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType

from graftgan.redaction import blotted


class Safe(logging.Formatter):
    """Messages without secrets in addresses."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return blotted(super().format(record))


class Plain(Safe):
    """Messages as they are, warnings and errors with their level in front."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def say_plainly(verbose: bool) -> None:
    """Send the messages of this package, and of no other, to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(Plain())
    logger = logging.getLogger("graftgan")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False


def tell_unforeseen(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception that nobody handles as Python does, but for secrets in addresses."""
    sys.stderr.write(blotted("".join(traceback.format_exception(kind, error, trace))))
