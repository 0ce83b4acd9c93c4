"""What names a model or a version, from people and from servers, and where a server says that files are.

Names end in model URIs, paths of requests and lines of tables, and a place is read from with the user's
rights; so both are looked at before anything is asked or fetched.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from graftgan.config import Track
from graftgan.context import Registered
from graftgan.errors import CheckpointError, ConfigError
from graftgan.follower import is_remote
from graftgan.journal import KEY_TAG
from graftgan.redaction import redacted

MODELS = "models:/"
# Of slashes, colons and quotes MLflow makes parts of a URI or of a filter.
_NAME = re.compile(r"(?![.]{1,2}$)[^/:'\"%?#\\\x00-\x1f\x7f-\x9f\u2028\u2029]{1,255}")
_WHICH = re.compile(r"\w[\w.-]{0,254}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_ASK = "ask whoever runs the MLflow server"
# What MLflow fails with at answers of another shape, which it reads as if they came from a friend.
MISREAD = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
_REMOVALS, _BETWEEN_REMOVALS_S = 40, 0.05
_LOCAL = ("", "file")
# Places that lead to a place again would be followed without end.
_LEADING_ON = ("models", "runs")


@contextmanager
def fetching() -> Iterator[Path]:
    """Give a folder for what is fetched, and remove it afterwards.

    Where an answer is refused, MLflow's threads may still write files that were asked for before it, so that
    removing them can take several tries; it is the refusal that is told.
    """
    scratch = Path(tempfile.mkdtemp())
    try:
        yield scratch
    finally:
        for _ in range(_REMOVALS):
            shutil.rmtree(scratch, ignore_errors=True)
            if not scratch.exists():
                break
            time.sleep(_BETWEEN_REMOVALS_S)


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a registered model.

    Raises:
        ConfigError: If it cannot.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name[:100]!r} is no name of a model", "write it as in registry.name")


def check_which(which: str) -> None:
    """Refuse what can be neither the number of a version nor an alias.

    Raises:
        ConfigError: If it cannot.
    """
    if not _WHICH.fullmatch(which):
        raise ConfigError(
            f"{which[:100]!r} is no version and no alias", "give a number such as 3, or an alias as champion"
        )


def split(model: str) -> tuple[str, str]:
    """Return name and version or alias of `NAME@ALIAS`, `NAME/VERSION` or `NAME`, also after `models:/`.

    Returns:
        The name, and the version or alias, empty if there is none.

    Raises:
        ConfigError: If it is nothing of these.
    """
    rest = model.removeprefix(MODELS)
    mark = "@" if "@" in rest else "/"
    name, marked, which = rest.partition(mark)
    check_name(name)
    if marked:
        check_which(which)
    return name, which


def registered(version: Any, name: str) -> Registered:
    """Return a version of the model `name` as a server tells of it.

    Raises:
        CheckpointError: If it tells of another model, or of a version that is no number.
    """
    found, number = str(version.name), str(version.version)
    if found != name or not _VERSION.fullmatch(number):
        raise CheckpointError(
            f"asked for {name!r}, the registry tells of version {number[:40]!r} of {found[:100]!r}",
            _ASK,
        )
    tags = {str(k): str(v) for k, v in version.tags.items()}
    return Registered(found, number, tags.get(KEY_TAG, ""), tags)


def aliases(answer: Any) -> dict[str, str]:
    """Return the version that each alias points to, as a server tells of them.

    Raises:
        CheckpointError: If one is no alias, or points to what is no number.
    """
    found = {str(alias): str(version) for alias, version in answer.items()}
    for alias, number in found.items():
        if not _WHICH.fullmatch(alias) or not _VERSION.fullmatch(number):
            raise CheckpointError(
                f"the registry tells of an alias {alias[:100]!r} of version {number[:40]!r}", _ASK
            )
    return found


def untold(place: str, why: object) -> CheckpointError:
    """Return the error that says why what a server tells of files cannot be followed."""
    kind = "" if isinstance(why, str) else f"{type(why).__name__}: "
    return CheckpointError(
        f"what the registry tells of the files at {redacted('uri', place)[:200]!r} cannot be followed: "
        f"{kind}{str(why)[:200]}",
        _ASK,
    )


def check_place(place: str, track: Track) -> None:
    """Refuse a place of files that a server has no business to send this machine to.

    A store of this machine may keep its files anywhere on it, a server's below `track.artifacts` only: a
    folder that both share.

    Raises:
        CheckpointError: If it leads out of there, or to another place.
    """
    parts = urlsplit(place)
    steps = unquote(parts.path).replace("\\", "/").split("/")
    if parts.scheme in _LEADING_ON or ".." in steps or not place.isprintable() or not place:
        raise CheckpointError(
            f"the registry says that a version's files are at {redacted('uri', place)[:200]!r}",
            _ASK,
        )
    if not is_remote(track.uri) or parts.scheme not in _LOCAL:
        return
    shared = Path(track.artifacts).resolve()
    if parts.netloc or not Path(unquote(parts.path)).resolve().is_relative_to(shared):
        raise CheckpointError(
            f"the MLflow server says that a version's files are at {place[:200]!r} on this machine",
            "let the server keep artifacts (`mlflow server --artifacts-destination`), or name the folder "
            "that it shares with this machine in track.artifacts",
        )
